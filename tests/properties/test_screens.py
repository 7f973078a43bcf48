"""Results depend on what a screen says, not on how it is stored, nor on the order of cells or genes."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import scgraphvci as sgv
from scgraphvci._constants import KEYS
from scgraphvci.data import stratum_moments
from scgraphvci.estimate import EffectSums, Groups, marginal_effects

pytestmark = pytest.mark.filterwarnings("ignore")

# --- screens and their forms ---


def with_explicit_zeros(x):
    matrix = sparse.csr_matrix(np.where(x == 0, 1, x).astype(np.float32))
    matrix.data[matrix.data == 1] = x[np.where(x == 0, 1, x) == 1]
    return matrix


def unsorted(x):
    matrix = sparse.csr_matrix(x)
    for start, stop in zip(matrix.indptr, matrix.indptr[1:], strict=False):
        matrix.indices[start:stop] = matrix.indices[start:stop][::-1].copy()
        matrix.data[start:stop] = matrix.data[start:stop][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


MATRICES = {
    "float32": np.ascontiguousarray,
    "float64": lambda x: x.astype(np.float64),
    "int32": lambda x: x.astype(np.int32),
    "int64": lambda x: x.astype(np.int64),
    "uint8": lambda x: x.astype(np.uint8),
    "by columns": np.asfortranarray,
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "csr float64": lambda x: sparse.csr_matrix(x.astype(np.float64)),
    "csr int64": lambda x: sparse.csr_array(x.astype(np.int64)),
    "explicit zeros": with_explicit_zeros,
    "unsorted indices": unsorted,
}


def shuffled_categories(column):
    categories = pd.Categorical(column).categories
    return pd.Categorical(column, categories=[*categories[::-1], *_unused(categories)])


def _unused(categories):
    kind = pd.api.types.infer_dtype(categories, skipna=True)
    return {"boolean": [], "integer": [99], "string": ["no cell has it"]}[kind]


COLUMNS = {
    "as it is": lambda column: column,
    "object": lambda column: column.astype(object),
    "text": lambda column: column.astype(str),
    "categories": lambda column: column.astype("category"),
    "other categories": lambda column: pd.Series(shuffled_categories(column), index=column.index),
    "ordered": lambda column: column.astype("category").cat.as_ordered(),
    "nullable": lambda column: column.convert_dtypes(),
}
NAMES = st.text(st.sampled_from("ab+|/_ @.é0'\"[]"), min_size=1, max_size=5).filter(
    lambda name: name.strip() == name and name != "control"
)
LEVELS = st.one_of(
    st.just([False, True]),
    st.lists(st.integers(-3, 12), min_size=1, max_size=3, unique=True),
    st.lists(NAMES, min_size=1, max_size=3, unique=True),
)


@st.composite
def screens(draw):
    """Small whole counts, treatments and strata of any name, a control in every screen, sometimes a split."""
    n_cells, n_genes = draw(st.integers(4, 30)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    treatments = ["control", *draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))]
    obs = pd.DataFrame(index=[f"cell {i}" for i in range(n_cells)])
    obs["perturbation"] = np.resize(np.asarray(treatments, dtype=object), n_cells)
    for k in range(draw(st.integers(0, 2))):
        obs[f"covariate {k}"] = rng.choice(np.asarray(draw(LEVELS)), n_cells)
    obs["age"] = rng.integers(0, 9, n_cells).astype(float)
    obs["split"] = np.where(np.arange(n_cells) < 2 * n_cells // 3, "train", draw(st.sampled_from(["test", "ood"])))
    x = rng.poisson(draw(st.sampled_from([0.1, 1.0, 5.0])), (n_cells, n_genes)).astype(np.float32)
    order = rng.permutation(n_cells)
    adata = ad.AnnData(x, obs=obs.iloc[order], var=pd.DataFrame(index=[f"gene{j}" for j in range(n_genes)]))
    if n_genes > 1:
        network = rng.random((n_genes, n_genes)) * (rng.random((n_genes, n_genes)) < 0.5)
        network[0, 1] = 1.0
        adata.varp["grn"] = network.astype(np.float32)
    return adata


def restored(adata, matrix, column, layer, view):
    """Return the same screen in another form."""
    x = MATRICES[matrix](np.asarray(adata.X))
    obs = pd.DataFrame({key: COLUMNS[column](adata.obs[key]) if key != "age" else adata.obs[key] for key in adata.obs})
    if layer:
        other = ad.AnnData(np.full(adata.shape, -1.0), obs=obs, var=adata.var.copy(), layers={"expression": x})
    else:
        other = ad.AnnData(x, obs=obs, var=adata.var.copy())
    for key in adata.varp:
        other.varp[key] = sparse.csc_array(adata.varp[key])
    return other[np.arange(adata.n_obs)].copy() if view else other


def set_up(adata, layer=None, split=False):
    keys = [key for key in adata.obs if key.startswith("covariate")]
    sgv.GraphVCI.setup_anndata(
        adata,
        layer=layer,
        categorical_covariate_keys=keys or None,
        continuous_covariate_keys=["age"],
        split_key="split" if split else None,
        grn_key="grn" if "grn" in adata.varp else None,
    )


def build(adata, likelihood="normal", layer=None, split=False):
    """Return a model of random weights, the same for the same screen."""
    set_up(adata, layer, split)
    scvi.settings.seed = 0
    model = sgv.GraphVCI(adata, likelihood=likelihood, n_hidden=6, n_latent=2, n_graph_hidden=4)
    model.is_trained_ = True
    model.module.eval()
    return model


def results(model):
    """Predictions for all cells, and effects, of a model."""
    treatment = model.treatments.perturbations[0]
    return {
        "latent": model.get_latent_representation(),
        "predicted": model.predict(treatment, source="all").X,
        "effects": model.marginal_effect(min_cells=2, leak_guard=False).to_frame(),
    }


def release(*models):
    for model in models:
        model.deregister_manager(model.adata)


def assert_same(found, expected):
    for name in ("latent", "predicted"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    pd.testing.assert_frame_equal(found["effects"], expected["effects"], rtol=1e-3, atol=1e-4)


def codes_of(adata):
    """Codes that the set-up wrote."""
    return adata.obs[f"_{KEYS.STRATUM}"].to_numpy(), adata.obs[f"_{KEYS.TREATMENT}"].to_numpy()


def moments_of(adata, layer=None, codes=None):
    """Moments of all cells."""
    stratum, condition = codes or codes_of(adata)
    matrix = adata.X if layer is None else adata.layers[layer]
    library = np.maximum(np.asarray(matrix.sum(axis=1)).ravel().astype(float), 1.0)
    sizes = (int(stratum.max()) + 1, int(condition.max()) + 1)
    return [
        stratum_moments(matrix, stratum, condition, *sizes, np.arange(adata.n_obs), library=given)
        for given in (None, library)
    ]


def assert_same_moments(found, expected, genes=slice(None)):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.row, theirs.row)
        np.testing.assert_array_equal(ours.n_cells, theirs.n_cells)
        for name in ("mean", "variance", "input_mean"):
            found_values, values = getattr(ours, name), getattr(theirs, name)[..., genes]
            np.testing.assert_allclose(found_values, values, rtol=1e-5, atol=1e-5, err_msg=name)


# --- the same screen in another form ---


@given(screens(), st.sampled_from(sorted(MATRICES)), st.sampled_from(sorted(COLUMNS)), st.booleans(), st.booleans())
def test_codes_and_moments_do_not_depend_on_the_form(adata, matrix, column, layer, view):
    other = restored(adata, matrix, column, layer, view)
    set_up(adata)
    set_up(other, "expression" if layer else None)
    for key in (f"_{KEYS.STRATUM}", f"_{KEYS.TREATMENT}"):
        np.testing.assert_array_equal(other.obs[key], adata.obs[key])
    np.testing.assert_array_equal(other.obsm["_scgraphvci_continuous"], adata.obsm["_scgraphvci_continuous"])
    assert_same_moments(moments_of(other, "expression" if layer else None), moments_of(adata))


@given(
    screens(),
    st.sampled_from(sorted(MATRICES)),
    st.sampled_from(sorted(COLUMNS)),
    st.booleans(),
    st.sampled_from(["normal", "nb", "zinb"]),
)
def test_predictions_and_effects_do_not_depend_on_the_form(adata, matrix, column, layer, likelihood):
    other = restored(adata, matrix, column, layer, view=False)
    models = build(adata, likelihood), build(other, likelihood, "expression" if layer else None)
    assert_same(results(models[1]), results(models[0]))
    release(*models)


@given(screens(), st.sampled_from(sorted(MATRICES)), st.sampled_from(sorted(COLUMNS)))
def test_new_data_may_come_in_any_form(adata, matrix, column):
    model = build(adata)
    other = restored(adata, matrix, column, layer=False, view=False)
    np.testing.assert_allclose(
        model.get_latent_representation(other), model.get_latent_representation(), rtol=1e-4, atol=1e-5
    )
    release(model)


@given(screens(), st.sampled_from(["csr_matrix", "float64", "csc_array", "int64"]))
def test_training_does_not_depend_on_the_form(adata, matrix):
    predicted = []
    for data in (adata, restored(adata, matrix, "other categories", layer=False, view=False)):
        model = build(data, split=True)
        model.is_trained_ = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.train(1, accelerator="cpu", enable_progress_bar=False, logger=None, enable_model_summary=False)
        predicted.append(model.predict("control", source="all").X)
        release(model)
    assert np.isfinite(predicted[0]).all()
    np.testing.assert_allclose(predicted[1], predicted[0], rtol=1e-3, atol=1e-4)


# --- cells in another order ---


@given(screens(), st.integers(0, 99))
def test_order_of_cells_does_not_matter(adata, seed):
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    other = adata[order].copy()
    models = build(adata), build(other)
    assert_same_moments(moments_of(other, codes=[code[order] for code in codes_of(adata)]), moments_of(adata))
    expected = results(models[0])
    expected = {**expected, "latent": expected["latent"][order], "predicted": expected["predicted"][order]}
    found = results(models[1])
    for frame in (found["effects"], expected["effects"]):
        # The leak test draws random blocks of cells, so that its p-value follows their order.
        frame["status"] = frame["status"].replace("leak_detected", "ok")
    by = [key for key in found["effects"] if key in adata.obs or key in ("treatment", "gene")]
    found["effects"], expected["effects"] = (
        result["effects"].sort_values(by, ignore_index=True)[sorted(result["effects"])] for result in (found, expected)
    )
    assert_same(found, expected)
    release(*models)


# --- genes in another order ---


@given(screens(), st.integers(0, 99))
def test_moments_follow_the_genes(adata, seed):
    order = np.random.default_rng(seed).permutation(adata.n_vars)
    other = adata[:, order].copy()
    set_up(adata)
    set_up(other)
    assert_same_moments(moments_of(other), moments_of(adata), order)


@given(screens(), st.integers(0, 99))
def test_new_data_with_genes_in_another_order_are_matched_by_name(adata, seed):
    model = build(adata)
    order = np.random.default_rng(seed).permutation(adata.n_vars)
    expected = model.predict("control", source="all")
    found = model.predict("control", source="all", adata=adata[:, order].copy())
    np.testing.assert_allclose(found[:, expected.var_names].X, expected.X, rtol=1e-4, atol=1e-5)
    release(model)


BASELINES = ["NoChange", "TrainMean", "StratumMean", "ContextShift", "Additive", "RidgePCA"]


@pytest.mark.parametrize("name", BASELINES)
@given(adata=screens(), seed=st.integers(0, 99))
def test_baselines_follow_the_genes(name, adata, seed):
    order = np.random.default_rng(seed).permutation(adata.n_vars)
    keys = [key for key in adata.obs if key.startswith("covariate")]
    treatment = adata.obs["perturbation"][adata.obs["perturbation"] != "control"].iloc[0]
    predicted = []
    for data in (adata, adata[:, order].copy()):
        baseline = getattr(sgv.baselines, name)(data, categorical_covariate_keys=keys)
        predicted.append(baseline.predict(treatment, source="all"))
    np.testing.assert_allclose(
        predicted[1][:, adata.var_names].X, predicted[0].X, rtol=1e-3, atol=1e-3, err_msg=treatment
    )


@given(
    st.integers(2, 60), st.integers(1, 6), st.integers(1, 4), st.booleans(), st.sampled_from(["robust", "observed"]),
    st.integers(0, 2**20),
)  # fmt: skip
def test_effects_of_given_predictions_follow_the_genes(n_cells, n_genes, n_strata, clustered, estimator, seed):
    rng = np.random.default_rng(seed)
    outcome, treated, control = rng.normal(size=(3, n_cells, n_genes))
    arm = rng.integers(0, 3, n_cells)
    cluster = rng.integers(0, 4, n_cells) if clustered else None
    groups, group = Groups.from_codes(rng.integers(0, n_strata, n_cells), cluster, n_strata=n_strata)
    order = rng.permutation(n_genes)
    found = []
    for genes in (np.arange(n_genes), order):
        sums = EffectSums(groups, n_genes)
        sums.update(outcome[:, genes], treated[:, genes], control[:, genes], arm == 1, arm == 0, group)
        strata = pd.DataFrame({"stratum": range(n_strata)})
        found.append(
            marginal_effects(
                [("A", sums)], strata=strata, genes=[f"g{j}" for j in genes], estimator=estimator, min_cells=2
            )
        )
    for name in ("estimate", "std_error", "robust", "observed", "plugin", "df"):
        values, permuted = (np.broadcast_to(getattr(one, name), (1, n_strata, n_genes)) for one in found)
        np.testing.assert_allclose(permuted, values[..., order], rtol=1e-6, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(found[0].n_treated, found[1].n_treated)


@given(screens(), st.integers(0, 99))
def test_networks_follow_the_genes(adata, seed):
    if "grn" not in adata.varp:
        return
    net = sgv.grn.get_grn(adata, "grn")
    order = np.random.default_rng(seed).permutation(adata.n_vars)
    other = adata[:, order].copy()
    del other.varp["grn"]
    try:
        sgv.grn.add_grn(other, net.sample(frac=1, random_state=seed))
    except ValueError as error:
        assert "self-loops" in str(error)
        return
    by = ["source", "target"]
    found, expected = (frame.sort_values(by, ignore_index=True) for frame in (sgv.grn.get_grn(other), net))
    pd.testing.assert_frame_equal(found, expected)
