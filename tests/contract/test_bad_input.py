"""Bad input: an error that names the value, what is allowed and the next step; nothing is written or trained.

Four tables, to be read line by line: what set-up refuses, what a network may not be, what new data may not be and what
may not be asked of a model, what a file may not be. What is odd but allowed is in `test_odd_input.py`.
"""

from __future__ import annotations

import errno
import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy import sparse

import scgraphvci as sgv

DOSE, SEP = {"dose_key": "dose"}, {"combination_sep": "+"}
SETUP = {"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split", "grn_key": "grn"}


def snapshot(adata):
    """Everything a set-up could have touched."""
    return {
        "obs": adata.obs.copy(),
        "var": adata.var.copy(),
        "keys": {name: sorted(map(str, getattr(adata, name))) for name in ("obsm", "varm", "varp", "layers", "uns")},
        "obs_names": list(adata.obs_names),
        "var_names": list(adata.var_names),
    }


def assert_unchanged(adata, before):
    after = snapshot(adata)
    for name in ("obs", "var"):
        pd.testing.assert_frame_equal(after.pop(name), before[name])
    assert after == {name: before[name] for name in after}


def set_obs(column, value, row=3, dtype=object):
    def change(adata):
        adata.obs[column] = adata.obs[column].astype(dtype)
        adata.obs.iloc[row, adata.obs.columns.get_loc(column)] = value

    return change


def add_obs(column, values):
    def change(adata):
        adata.obs[column] = values(adata.n_obs)

    return change


def set_x(value):
    def change(adata):
        dense = adata.X.toarray()
        dense[4, 2] = value
        adata.X = dense

    return change


def set_layer(value):
    def change(adata):
        counts = adata.layers["counts"].toarray().astype(np.float32)
        counts[4, 2] = value
        adata.layers["counts"] = sparse.csr_matrix(counts)

    return change


def set_network(values):
    def change(adata):
        adata.varp["grn"] = values(adata.n_vars)

    return change


def nan_edge(n):
    network = np.zeros((n, n), np.float32)
    network[0, 1], network[2, 3] = 1.0, np.nan
    return sparse.csr_matrix(network)


def set_names(axis):
    def change(adata):
        names = list(getattr(adata, f"{axis}_names"))
        names[1] = names[0]
        setattr(adata, f"{axis}_names", names)

    return change


def unused_control(adata):
    """A level without cells is no control, though it is among the categories."""
    column = adata.obs["perturbation"]
    adata.obs["perturbation"] = column.where(column != "control", column.cat.categories[-1])


def all_in(column, value):
    def change(adata):
        adata.obs[column] = value

    return change


# What is wrong with the data and how they are changed; arguments of the set-up; the error, and what it must name: the
# value, what is allowed, and the next step.
SETUP_TABLE = {
    "missing column or key": [
        ("treatment", None, {"perturbation_key": "guide"}, KeyError, "'guide'.*Columns: .*'perturbation'"),
        ("covariate", None, {"categorical_covariate_keys": ["batch"]}, KeyError, "'batch' not found.*Columns: "),
        ("continuous covariate", None, {"continuous_covariate_keys": ["age"]}, KeyError, "'age' not found.*Columns: "),
        ("size factor", None, {"size_factor_key": "depth"}, KeyError, "`size_factor_key`: column 'depth'.*Columns: "),
        ("split", None, {"split_key": "fold"}, KeyError, "`split_key`: column 'fold'.*Columns: "),
        ("dose", None, {"dose_key": "amount"}, KeyError, "`dose_key`: column 'amount'.*Columns: "),
        ("layer", None, {"layer": "scaled"}, KeyError, r"'scaled' not found. Layers: \['counts'\]; `layer=None`"),
        ("network", None, {"grn_key": "net"}, KeyError, "`grn_key`: 'net' not found.*Keys: .*add_grn"),
        (
            "features",
            None,
            {"gene_features_key": "pca"},
            KeyError,
            "`gene_features_key`: 'pca' not found.*Keys: .*None",
        ),
        ("X", lambda adata: setattr(adata, "X", None), {}, ValueError, "`adata.X` is None.*`layer=`"),
    ],
    "keys of the wrong kind": [
        ("text", None, {"categorical_covariate_keys": "cell_type"}, TypeError, r"list, such as \['cell_type'\]"),
        ("continuous text", None, {"continuous_covariate_keys": "cell_state"}, TypeError, r"\['cell_state'\]"),
        ("twice", None, {"categorical_covariate_keys": ["donor", "donor"]}, ValueError, "donor.*twice.*once"),
        (
            "the treatment",
            None,
            {"categorical_covariate_keys": ["perturbation"]},
            ValueError,
            "'perturbation'.*treatment.*Leave it out",
        ),
        ("no separator", None, {"combination_sep": ""}, ValueError, "`combination_sep` is empty.*'\\+'; None"),
    ],
    "control": [
        ("not among the levels", None, {"control": "ctrl"}, ValueError, "'ctrl' has no cells.*Levels: .*`control=`"),
        ("without cells", unused_control, {}, ValueError, "'control' has no cells.*Levels: .*`control=`"),
    ],
    "NaN or infinite": [
        ("expression", set_x(np.nan), {}, ValueError, "X holds NaN or infinite.*cell 4, gene 2.*Leave out"),
        ("infinite expression", set_x(np.inf), {}, ValueError, "X holds NaN or infinite.*cell 4, gene 2.*Leave out"),
        ("layer", set_layer(np.nan), {"layer": "counts"}, ValueError, "layer 'counts' holds NaN.*cell 4, gene 2"),
        ("treatment", set_obs("perturbation", np.nan), {}, ValueError, "'perturbation'.*1 missing values.*Remove"),
        ("empty treatment", set_obs("perturbation", ""), {}, ValueError, "'' has an empty member.*Rename"),
        ("covariate", set_obs("donor", None), {}, ValueError, r"obs\['donor'\] has 1 missing values. Remove"),
        ("split", set_obs("split", np.nan), {}, ValueError, r"obs\['split'\] has 1 missing values. Remove"),
        (
            "continuous covariate",
            add_obs("age", lambda n: np.r_[np.nan, np.ones(n - 1)]),
            {"continuous_covariate_keys": ["age"]},
            ValueError,
            r"obs\['age'\] has 1 missing values. Remove",
        ),
        (
            "infinite continuous covariate",
            add_obs("age", lambda n: np.r_[np.inf, np.ones(n - 1)]),
            {"continuous_covariate_keys": ["age"]},
            ValueError,
            r"obs\['age'\] holds 1 infinite values. Remove",
        ),
        (
            "covariate of text",
            None,
            {"continuous_covariate_keys": ["donor"]},
            TypeError,
            r"obs\['donor'\] is not numeric.*Give numbers",
        ),
        (
            "size factor of zero",
            add_obs("depth", lambda n: np.r_[0.0, np.ones(n - 1)]),
            {"size_factor_key": "depth"},
            ValueError,
            "size factors of 0.0; all must be above 0. Leave out",
        ),
        ("dose", add_obs("dose", lambda n: np.full(n, np.nan)), DOSE, ValueError, "Dose 'nan' of treatment 'G.*Give"),
        (
            "infinite dose",
            add_obs("dose", lambda n: np.full(n, np.inf)),
            DOSE,
            ValueError,
            "Dose 'inf' of treatment 'G.*not a finite number of at least 0. Give",
        ),
        ("negative dose", add_obs("dose", lambda n: -np.ones(n)), DOSE, ValueError, "Dose '-1.0'.*at least 0. Give"),
        ("dose of text", add_obs("dose", lambda n: ["high"] * n), DOSE, ValueError, "Dose 'high'.*at least 0. Give"),
        ("dose of zero", add_obs("dose", np.zeros), DOSE, ValueError, "dose above 0.*Check that column"),
    ],
    "combinations": [
        (
            "too many doses",
            add_obs("dose", lambda n: ["1+2+3"] * n),
            {"dose_key": "dose", "combination_sep": "+"},
            ValueError,
            r"members? but dose '1\+2\+3' has 3. Give",
        ),
        (
            "empty member",
            set_obs("perturbation", "G1+"),
            SEP,
            ValueError,
            r"'G1\+' has an empty member around '\+'.*Ren",
        ),
        ("member twice", set_obs("perturbation", "A+A"), SEP, ValueError, r"'A\+A' names .* twice. Give the dose"),
    ],
    "split": [
        ("other names", set_obs("split", "valid"), {}, ValueError, r"'valid'.*only \['train', 'test', 'ood'\].*Rename"),
        ("no training cells", all_in("split", "ood"), {}, ValueError, "no 'train' cells.*Mark some, or leave"),
    ],
    "network": [
        ("NaN weights", set_network(nan_edge), {}, ValueError, "1 NaN or infinite weights. Remove"),
        (
            "self-loops only",
            set_network(lambda n: sparse.eye_array(n).tocsr()),
            {},
            ValueError,
            "only self-loops.*grn_key=None",
        ),
        ("no edges", set_network(lambda n: sparse.csr_array((n, n))), {}, ValueError, "no edges.*grn_key=None"),
    ],
    "too little data": [
        ("one treatment", all_in("perturbation", "control"), {}, ValueError, "holds only the control 'control'.*Check"),
    ],
    "repeated names": [
        ("genes", set_names("var"), {}, ValueError, "var_names are not unique, such as .*var_names_make_unique"),
        ("cells", set_names("obs"), {}, ValueError, "obs_names are not unique, such as .*obs_names_make_unique"),
    ],
}


def rows(table):
    """Rows of a table as parameters, named by clause and row."""
    return [pytest.param(*row[1:], id=f"{clause}: {row[0]}") for clause, group in table.items() for row in group]


@pytest.mark.filterwarnings("ignore:.*names are not unique")
@pytest.mark.parametrize(("change", "arguments", "error", "match"), rows(SETUP_TABLE))
def test_setup_refuses(new_screen, change, arguments, error, match):
    adata = new_screen(n_cells=80)
    if change is not None:
        change(adata)
    before = snapshot(adata)
    with pytest.raises(error, match=match):
        sgv.GraphVCI.setup_anndata(adata, **{**SETUP, **arguments})
    assert_unchanged(adata, before)


def test_late_failure_puts_back_an_earlier_set_up(new_screen):
    adata = new_screen(n_cells=80)
    sgv.GraphVCI.setup_anndata(adata, continuous_covariate_keys=["cell_state"], **SETUP)
    before = snapshot(adata)
    codes = adata.obsm["_scgraphvci_continuous"].copy()
    with pytest.raises(ValueError, match="ctrl"):
        sgv.GraphVCI.setup_anndata(adata, control="ctrl", continuous_covariate_keys=["library"], split_key="split")
    assert_unchanged(adata, before)
    np.testing.assert_array_equal(adata.obsm["_scgraphvci_continuous"], codes)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_empty_data_are_refused(shape):
    obs = pd.DataFrame({"perturbation": ["control"] * shape[0]}, index=[f"c{i}" for i in range(shape[0])])
    adata = ad.AnnData(np.zeros(shape, np.float32), obs=obs)
    with pytest.raises(ValueError, match=f"empty.*{shape[0]} cells x {shape[1]} genes"):
        sgv.GraphVCI.setup_anndata(adata)


def test_view_is_refused_with_the_next_step(new_screen):
    with pytest.raises(ValueError, match=r"adata\.copy\(\)"):
        sgv.GraphVCI.setup_anndata(new_screen(n_cells=80)[:40])


def test_backed_csc_is_refused_with_the_next_step(new_screen, tmp_path):
    adata = new_screen(n_cells=80)
    adata.X = adata.X.tocsc()
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match="backed CSC.*CSR"):
        sgv.GraphVCI.setup_anndata(backed)
    backed.file.close()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_containers_are_not_mixed_up(new_screen):
    adata = new_screen(n_cells=80)
    with pytest.raises(TypeError, match="setup_mudata"):
        sgv.GraphVCI.setup_anndata(MuData({"rna": adata}))
    with pytest.raises(TypeError, match="setup_anndata"):
        sgv.GraphVCI.setup_mudata(adata)
    with pytest.raises(KeyError, match=r"Modality 'atac' not found. Modalities: \['rna'\]"):
        sgv.GraphVCI.setup_mudata(MuData({"rna": adata}), modality="atac")
    with pytest.raises(TypeError, match="data frame|DataFrame"):
        sgv.GraphVCI.setup_anndata(adata.to_df())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mudata_with_cells_missing_in_a_modality_is_refused(new_screen):
    rna = new_screen(n_cells=80)
    mdata = MuData({"rna": rna, "other": new_screen(n_cells=80)[:40].copy()})
    with pytest.raises(ValueError, match="unpaired"):
        sgv.GraphVCI.setup_mudata(mdata)


# --- networks ---

EDGES = {"source": ["gene0", "gene1"], "target": ["gene1", "gene2"], "weight": [1.0, -2.0]}
NETWORK_TABLE = {
    "network": [
        (
            "unknown genes only",
            lambda: pd.DataFrame({**EDGES, "target": ["TP53", "MYC"]}),
            ValueError,
            r"No edge of `net` joins two genes.*'TP53'.*`adata` such as \['gene0'.*identifier",
        ),
        (
            "NaN weights",
            lambda: pd.DataFrame({**EDGES, "weight": [1.0, np.nan]}),
            ValueError,
            "1 weights.*gene1 -> gene2",
        ),
        (
            "weights of text",
            lambda: pd.DataFrame({**EDGES, "weight": ["1", "strong"]}),
            TypeError,
            "not numeric.*Convert",
        ),
        (
            "self-loops only",
            lambda: pd.DataFrame({"source": ["gene0"], "target": ["gene0"]}),
            ValueError,
            "only self-loops.*Use another network",
        ),
        ("no edges", lambda: pd.DataFrame({"source": [], "target": []}), ValueError, "no edges. Check"),
        ("missing names", lambda: pd.DataFrame({**EDGES, "source": ["gene0", None]}), ValueError, "1 rows.*dropna"),
        ("missing column", lambda: pd.DataFrame({"TF": ["a"], "target": ["b"]}), KeyError, "source.*Columns.*Rename"),
        (
            "a column twice",
            lambda: pd.DataFrame([["gene0", "gene1", "gene2"]], columns=["source", "target", "target"]),
            ValueError,
            r"several columns \['target'\]. Keep one",
        ),
        ("a matrix", lambda: np.eye(3), TypeError, "must be a data frame.*ndarray.*read_net"),
        ("unknown sign", lambda: pd.DataFrame({**EDGES, "sign": ["+", "?"]}), ValueError, r"'\?'.*Allowed: 1, -1"),
    ]
}


@pytest.mark.parametrize(("net", "error", "match"), rows(NETWORK_TABLE))
def test_add_grn_refuses(screen, net, error, match):
    del screen.varp["grn"]
    before = snapshot(screen)
    with pytest.raises(error, match=match):
        sgv.grn.add_grn(screen, net())
    assert_unchanged(screen, before)


def test_network_of_another_shape(screen):
    network = sparse.eye_array(screen.n_vars + 1).tocsr()
    with pytest.raises(ValueError, match="shape"):
        screen.varp["other"] = network  # AnnData's own check
    names = list(screen.var_names)
    with pytest.raises(ValueError, match=r"shape \(13, 13\), its names \(12, 12\)"):
        sgv.grn.read_matrix(network, "source_rows", row_names=names, column_names=names)


def test_some_unknown_genes_and_repeated_edges_are_reported(screen, caplog):
    net = pd.DataFrame({"source": ["gene0", "gene0", "TP53"], "target": ["gene1"] * 3, "weight": [1.0, -3.0, 1.0]})
    with caplog.at_level("WARNING", logger="scgraphvci"):
        report = sgv.grn.add_grn(screen, net)
    assert "TP53" in caplog.text
    assert (report.edges_kept, report.duplicates_merged, report.sign_conflicts) == (1, 1, 1)
    assert report.genes_missing == ("TP53",)
    assert screen.varp["grn"][0, 1] == -3


# --- the constructor ---


@pytest.mark.parametrize(
    ("change", "likelihood", "match"),
    [
        (set_layer(-1), "nb", r"likelihood='nb' needs counts.*negative values \(smallest -1"),
        (set_layer(0.5), "zinb", "likelihood='zinb' needs counts.*not whole numbers"),
    ],
)
def test_count_likelihood_needs_counts(new_screen, change, likelihood, match):
    adata = new_screen(n_cells=80)
    change(adata)
    sgv.GraphVCI.setup_anndata(adata, layer="counts")
    with pytest.raises(ValueError, match=match):
        sgv.GraphVCI(adata, likelihood=likelihood)


def test_raw_counts_under_normal_warn(new_screen):
    adata = new_screen(n_cells=80)
    sgv.GraphVCI.setup_anndata(adata, layer="counts")
    with pytest.warns(UserWarning, match="raw counts.*normalize_total.*likelihood='nb'"):
        sgv.GraphVCI(adata)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("likelihood", "poisson"),
        ("decoder", "dots"),
        ("distribution_loss", "energy"),
        ("preset", "papers"),
        ("dispersion", "cell"),
        ("graph_pooling", "median"),
    ],
)
def test_unknown_options_name_the_known_ones(new_screen, name, value):
    adata = new_screen(n_cells=80)
    sgv.GraphVCI.setup_anndata(adata, grn_key="grn")
    with pytest.raises(ValueError, match=f"{name}.*{value}.*Choose one of"):
        sgv.GraphVCI(adata, **{name: value})


def test_misspelt_argument_is_named(new_screen):
    adata = new_screen(n_cells=80)
    sgv.GraphVCI.setup_anndata(adata)
    with pytest.raises(TypeError, match="n_hiden"):
        sgv.GraphVCI(adata, n_hiden=8)


def test_data_never_set_up(new_screen):
    with pytest.raises(ValueError, match="setup_anndata"):
        sgv.GraphVCI(new_screen(n_cells=80))


# --- training ---


@pytest.fixture
def untrained(new_screen):
    adata = new_screen(n_cells=80)
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    return sgv.GraphVCI(adata, n_hidden=8, n_latent=2)


@pytest.mark.parametrize("sizes", [{"train_size": 0.5}, {"validation_size": 0.1}])
def test_sizes_beside_a_split_column_are_refused(untrained, quiet, sizes):
    with pytest.raises(ValueError, match="train_size.*'split'"):
        untrained.train(max_epochs=1, **sizes, **quiet)
    assert not untrained.is_trained


@pytest.mark.parametrize("sizes", [{"train_size": 0}, {"train_size": 1.2}, {"train_size": 0.9, "validation_size": 0.2}])
def test_sizes_that_are_no_fractions_are_refused(new_screen, quiet, sizes):
    adata = new_screen(n_cells=80)
    sgv.GraphVCI.setup_anndata(adata)
    with pytest.raises(ValueError, match="fractions"):
        sgv.GraphVCI(adata, n_hidden=8).train(max_epochs=1, **sizes, **quiet)


def test_non_finite_loss_stops_and_keeps_the_last_good_weights(untrained, quiet):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        untrained.train(max_epochs=1, **quiet)
        before = {name: weight.clone() for name, weight in untrained.module.state_dict().items()}
        with pytest.raises(FloatingPointError, match=r"in epoch \d+ \(term: .*weights .* are kept.*`plan_kwargs="):
            untrained.train(max_epochs=3, plan_kwargs={"lr": 1e30}, gradient_clip_val=0.0, **quiet)
    for name, weight in untrained.module.state_dict().items():
        assert weight.isfinite().all(), name
    assert set(before) == set(untrained.module.state_dict())
    assert np.isfinite(untrained.predict("control").X).all()


# --- new data, and what is asked of a model ---


def with_level(column, value):
    def change(adata):
        adata.obs[column] = adata.obs[column].astype(str)
        adata.obs.iloc[0, adata.obs.columns.get_loc(column)] = value
        return adata

    return change


def without(column):
    def change(adata):
        del adata.obs[column]
        return adata

    return change


def renamed(adata):
    adata.var_names = [f"other{i}" for i in range(adata.n_vars)]
    return adata


NEW_DATA_TABLE = {
    "treatment": [
        ("unknown", with_level("perturbation", "NOPE"), ValueError, "Unknown treatment 'NOPE'.*Known: control, G"),
        ("missing", with_level("perturbation", None), ValueError, "'None'|missing values. Remove"),
        ("no column", without("perturbation"), KeyError, "column 'perturbation' not found.*Columns"),
    ],
    "covariate": [
        (
            "unknown level",
            with_level("donor", "d9"),
            ValueError,
            r"Unknown levels \['d9'\] in obs\['donor'\].*knows.*Leave",
        ),
        ("no column", without("donor"), KeyError, "column 'donor' not found.*Columns"),
    ],
    "genes": [
        (
            "missing",
            lambda adata: adata[:, 2:].copy(),
            ValueError,
            r"2 of 40 genes of the model are missing, such as \['.*get_var_names",
        ),
        ("others", renamed, ValueError, "40 of 40 genes of the model are missing.*get_var_names"),
    ],
    "expression": [
        (
            "NaN",
            lambda adata: set_x(np.nan)(adata) or adata,
            ValueError,
            "X holds NaN or infinite.*cell 4, gene 2.*Leave",
        ),
        ("no cells", lambda adata: without("split")(adata[:0].copy()), ValueError, r"empty \(0 cells x 40 genes\)"),
    ],
    "split": [("other names", with_level("split", "valid"), ValueError, r"\['valid'\]; only .*Rename")],
}


@pytest.mark.parametrize(("change", "error", "match"), rows(NEW_DATA_TABLE))
def test_new_data_are_refused(fitted, new_screen, change, error, match):
    adata = change(new_screen())
    before = snapshot(adata)
    with pytest.raises(error, match=match):
        fitted.predict("control", adata=adata)
    keys = snapshot(adata)["keys"]
    assert [key for name in keys for key in keys[name] if key.startswith("counterfactual")] == []
    assert list(adata.obs.columns) == list(before["obs"].columns)


@pytest.mark.parametrize("genes", [slice(None, None, -1), [*range(40), 0, 1]], ids=["permuted", "extra"])
def test_genes_are_matched_by_name(fitted, new_screen, genes):
    adata = new_screen()
    expected = fitted.predict("control").X
    adata = adata[:, genes].copy()
    adata.var_names = [*list(adata.var_names)[:40], *[f"extra{i}" for i in range(adata.n_vars - 40)]]
    np.testing.assert_allclose(fitted.predict("control", adata=adata).X, expected, atol=1e-5)


ASKED_TABLE = {
    "predict": [
        ("unknown treatment", "predict", ("NOPE",), {}, ValueError, r"Unknown treatment 'NOPE' .*Known: control, G"),
        ("no treatment", "predict", (None,), {}, ValueError, "Unknown treatment 'None'.*Known: "),
        ("unknown source", "predict", ("control",), {"source": "NOPE"}, ValueError, "'NOPE'.*Treatments here|Unknown"),
        (
            "both",
            "predict",
            ("control",),
            {"source": "all", "indices": [0]},
            ValueError,
            "either .* or `indices`, not both",
        ),
        ("beyond", "predict", ("control",), {"indices": [999]}, ValueError, "to 999, but there are 240 cells"),
        ("no dose", "predict", ("G1",), {"dose": 2}, ValueError, "dose|Unknown treatment 'G1'.*Known"),
        ("no draws", "sample", ("control",), {"n_samples": 0}, ValueError, "at least 1, not 0"),
    ],
    "marginal_effect": [
        ("unknown treatment", "marginal_effect", ("NOPE",), {}, ValueError, "Unknown treatment 'NOPE'.*Known: control"),
        ("unknown covariate", "marginal_effect", (), {"groupby": "batch"}, ValueError, "batch.*cell_type"),
        (
            "unknown reference",
            "marginal_effect",
            (),
            {"reference": "NOPE"},
            ValueError,
            "Unknown treatment 'NOPE'.*Known",
        ),
        ("estimator", "marginal_effect", (), {"estimator": "best"}, ValueError, "'best'.*Choose one of"),
        ("estimand", "marginal_effect", (), {"estimand": "odds"}, ValueError, "'odds'.*Choose one of"),
        ("alpha", "marginal_effect", (), {"alpha": 5}, ValueError, "`alpha` is 5, must be between 0 and 1"),
        ("clusters", "marginal_effect", (), {"cluster_key": "lab"}, KeyError, "'lab' not found.*Columns"),
        ("folds", "marginal_effect", (), {"cross_fit": 1}, ValueError, "1"),
    ],
}


@pytest.mark.parametrize(("method", "arguments", "named", "error", "match"), rows(ASKED_TABLE))
def test_what_cannot_be_answered_is_refused(fitted, method, arguments, named, error, match):
    before = snapshot(fitted.adata)
    with pytest.raises(error, match=match):
        getattr(fitted, method)(*arguments, **named)
    assert_unchanged(fitted.adata, before)


def test_a_stratum_without_control_warns_and_has_no_reference(new_screen, fit):
    adata = new_screen()
    lacking = (adata.obs["cell_type"] == "type1") & (adata.obs["donor"] == adata.obs["donor"].unique()[0])
    donor = adata.obs["donor"].unique()[0]
    adata = adata[~(lacking & (adata.obs["perturbation"] == "control")).to_numpy()].copy()
    with pytest.warns(
        UserWarning, match=f"no control cells.*type1, {donor}.*'no_reference'.*categorical_covariate_keys"
    ):
        model = fit(adata, max_epochs=1)
    frame = model.marginal_effect(min_cells=2).to_frame()
    there = (frame["cell_type"] == "type1") & (frame["donor"] == donor)
    assert set(frame.loc[there, "status"]) == {"no_reference"}
    assert "no_reference" not in set(frame.loc[~there, "status"])
    assert frame.loc[there, ["std_error", "ci_low", "ci_high", "p_value"]].isna().all(axis=None)


# --- files ---

FILE = "model.safetensors"


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)


FILE_TABLE = {
    "saved file": [
        ("truncated", cut, ValueError, f"{FILE} is not a readable model file: truncated.*save the model again"),
        ("empty", lambda path: path.write_bytes(b""), ValueError, f"{FILE} is not a readable model file"),
        ("damaged", flip, ValueError, f"{FILE} is not a readable model file.*checksum.*save the model again"),
        ("missing", lambda path: path.unlink(), FileNotFoundError, f"No saved model at .*{FILE}. Check `dir_path`"),
    ]
}


@pytest.mark.parametrize(("change", "error", "match"), rows(FILE_TABLE))
def test_files_are_refused(saved, new_screen, tmp_path, change, error, match):
    copy = Path(shutil.copytree(saved, tmp_path / "m"))
    change(copy / FILE)
    adata = new_screen()
    before = snapshot(adata)
    with pytest.raises(error, match=match):
        sgv.GraphVCI.load(copy, adata)
    assert_unchanged(adata, before)


def test_a_checkpoint_of_another_class_is_refused(saved, new_screen):
    adata = new_screen()
    before = snapshot(adata)
    with pytest.raises(ValueError, match=r"holds a GraphVCI, not a GRNRefiner.*`GraphVCI\.load`"):
        sgv.GRNRefiner.load(saved, adata)
    assert_unchanged(adata, before)


def test_an_interrupted_save_keeps_the_old_file(fitted, saved, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(saved, tmp_path / "m"))
    before = (copy / FILE).read_bytes()

    def fail(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("scgraphvci._archive.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(copy, overwrite=True)
    assert (copy / FILE).read_bytes() == before
    assert [path.name for path in copy.iterdir()] == [FILE]
