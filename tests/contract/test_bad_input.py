"""Bad input: an error that names the value, what is allowed and the next step; nothing is written."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy import sparse

import scgraphvci as sgv

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


def set_names(which, axis):
    def change(adata):
        names = list(getattr(adata, f"{axis}_names"))
        names[1] = names[0]
        setattr(adata, f"{axis}_names", names)

    return change


def all_in(column, value):
    def change(adata):
        adata.obs[column] = value

    return change


NOTHING = None
TABLE = [
    # what, change of the data, arguments of the set-up, error, message
    (
        "no such treatment column",
        NOTHING,
        {"perturbation_key": "guide"},
        KeyError,
        "`perturbation_key`: column 'guide'",
    ),
    ("no such covariate", NOTHING, {"categorical_covariate_keys": ["batch"]}, KeyError, "'batch' not found.*Columns"),
    ("covariates as text", NOTHING, {"categorical_covariate_keys": "cell_type"}, TypeError, r"\['cell_type'\]"),
    ("continuous as text", NOTHING, {"continuous_covariate_keys": "cell_state"}, TypeError, r"\['cell_state'\]"),
    ("covariate twice", NOTHING, {"categorical_covariate_keys": ["donor", "donor"]}, ValueError, "donor.*twice"),
    (
        "treatment among covariates",
        NOTHING,
        {"categorical_covariate_keys": ["perturbation"]},
        ValueError,
        "'perturbation'.*treatment",
    ),
    ("no such continuous covariate", NOTHING, {"continuous_covariate_keys": ["age"]}, KeyError, "'age' not found"),
    ("no such size factor", NOTHING, {"size_factor_key": "depth"}, KeyError, "`size_factor_key`: column 'depth'"),
    ("no such split", NOTHING, {"split_key": "fold"}, KeyError, "`split_key`: column 'fold'"),
    ("no such dose", NOTHING, {"dose_key": "amount"}, KeyError, "`dose_key`: column 'amount'"),
    ("no such layer", NOTHING, {"layer": "scaled"}, KeyError, r"'scaled' not found. Layers: \['counts'\]"),
    ("no such network", NOTHING, {"grn_key": "net"}, KeyError, "`grn_key`: 'net' not found.*add_grn"),
    ("no such features", NOTHING, {"gene_features_key": "pca"}, KeyError, "`gene_features_key`: 'pca' not found"),
    ("control without cells", NOTHING, {"control": "ctrl"}, ValueError, "'ctrl' has no cells.*Levels: .*`control=`"),
    ("only controls", all_in("perturbation", "control"), {}, ValueError, "holds only the control 'control'"),
    ("NaN treatment", set_obs("perturbation", np.nan), {}, ValueError, "1 missing values"),
    ("empty treatment", set_obs("perturbation", ""), {}, ValueError, "empty"),
    ("NaN covariate", set_obs("donor", None), {}, ValueError, r"obs\['donor'\] has 1 missing values"),
    ("NaN split", set_obs("split", np.nan), {}, ValueError, r"obs\['split'\] has 1 missing values"),
    ("other split", set_obs("split", "valid"), {}, ValueError, r"'valid'.*only \['train', 'test', 'ood'\]"),
    ("no training cells", all_in("split", "ood"), {}, ValueError, "no 'train' cells"),
    (
        "NaN continuous covariate",
        add_obs("age", lambda n: np.r_[np.nan, np.ones(n - 1)]),
        {"continuous_covariate_keys": ["age"]},
        ValueError,
        r"obs\['age'\] has 1 missing values",
    ),
    (
        "infinite continuous covariate",
        add_obs("age", lambda n: np.r_[np.inf, np.ones(n - 1)]),
        {"continuous_covariate_keys": ["age"]},
        ValueError,
        "1 infinite values",
    ),
    (
        "continuous covariate of text",
        NOTHING,
        {"continuous_covariate_keys": ["donor"]},
        TypeError,
        r"obs\['donor'\] is not numeric",
    ),
    (
        "size factor of zero",
        add_obs("depth", lambda n: np.r_[0.0, np.ones(n - 1)]),
        {"size_factor_key": "depth"},
        ValueError,
        "size factors of 0.0; all must be above 0",
    ),
    (
        "NaN dose",
        add_obs("dose", lambda n: np.full(n, np.nan)),
        {"dose_key": "dose"},
        ValueError,
        "Dose 'nan' of treatment 'G",
    ),
    (
        "infinite dose",
        add_obs("dose", lambda n: np.full(n, np.inf)),
        {"dose_key": "dose"},
        ValueError,
        "Dose 'inf' of treatment 'G.*finite",
    ),
    ("negative dose", add_obs("dose", lambda n: -np.ones(n)), {"dose_key": "dose"}, ValueError, "at least 0"),
    ("dose of text", add_obs("dose", lambda n: ["high"] * n), {"dose_key": "dose"}, ValueError, "Dose 'high'"),
    ("dose of zero", add_obs("dose", lambda n: np.zeros(n)), {"dose_key": "dose"}, ValueError, "dose above 0"),
    (
        "as many doses as members",
        add_obs("dose", lambda n: ["1+2+3"] * n),
        {"dose_key": "dose", "combination_sep": "+"},
        ValueError,
        r"members? but dose '1\+2\+3' has 3",
    ),
    (
        "empty member",
        set_obs("perturbation", "G1+"),
        {"combination_sep": "+"},
        ValueError,
        r"'G1\+' has an empty member around '\+'",
    ),
    ("member twice", set_obs("perturbation", "A+A"), {"combination_sep": "+"}, ValueError, r"'A\+A' names .* twice"),
    ("empty separator", NOTHING, {"combination_sep": ""}, ValueError, "combination_sep"),
    ("NaN expression", set_x(np.nan), {}, ValueError, "X holds NaN or infinite"),
    ("infinite expression", set_x(np.inf), {}, ValueError, "X holds NaN or infinite"),
    ("NaN layer", set_layer(np.nan), {"layer": "counts"}, ValueError, "layer 'counts' holds NaN"),
    ("NaN edge", set_network(nan_edge), {}, ValueError, "1 NaN or infinite weights"),
    ("self-loops only", set_network(lambda n: sparse.eye_array(n).tocsr()), {}, ValueError, "only self-loops"),
    ("no edges", set_network(lambda n: sparse.csr_array((n, n))), {}, ValueError, "no edges.*grn_key=None"),
    ("repeated genes", set_names("var", "var"), {}, ValueError, "var_names are not unique.*var_names_make_unique"),
    ("repeated cells", set_names("obs", "obs"), {}, ValueError, "obs_names are not unique.*obs_names_make_unique"),
]


@pytest.mark.filterwarnings("ignore:.*names are not unique")
@pytest.mark.parametrize(
    ("change", "arguments", "error", "match"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
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


def test_data_without_x_are_refused(new_screen):
    adata = new_screen(n_cells=80)
    adata.X = None
    with pytest.raises(ValueError, match="`adata.X` is None.*`layer=`"):
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


# --- odd but allowed ---


def obs_of(n, treatments):
    return pd.DataFrame({"perturbation": np.resize(treatments, n)}, index=[f"c{i}" for i in range(n)])


@pytest.mark.filterwarnings("ignore:The latent has collapsed")
@pytest.mark.parametrize(
    ("what", "n_cells", "n_genes"),
    [("one treatment", 60, 8), ("one gene", 60, 1), ("two cells", 2, 8), ("one hundred and one cells", 101, 8)],
)
def test_small_data_train_and_predict(quiet, what, n_cells, n_genes):
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.normal(size=(n_cells, n_genes)).astype(np.float32), obs=obs_of(n_cells, ["control", "A"]))
    sgv.GraphVCI.setup_anndata(adata)
    model = sgv.GraphVCI(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=2, batch_size=10, **quiet)
    predicted = model.predict("A", source="all")
    assert predicted.shape == (n_cells, n_genes)
    assert np.isfinite(predicted.X).all()
    assert model.marginal_effect().estimate.shape == (1, 1, n_genes)


def test_one_cell_is_refused():
    adata = ad.AnnData(np.ones((1, 5), np.float32), obs=obs_of(1, ["control"]))
    with pytest.raises(ValueError, match="only the control"):
        sgv.GraphVCI.setup_anndata(adata)


def test_names_that_hold_the_separator_are_whole_without_it(new_screen, fit):
    adata = new_screen(n_combinations=1)
    model = fit(adata, max_epochs=1)
    combination = next(name for name in adata.obs["perturbation"].cat.categories if "+" in name)
    assert combination in model.treatments.perturbations
    assert np.isfinite(model.predict(combination).X).all()
