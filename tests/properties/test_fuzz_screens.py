"""Whatever set-up, predictions and effects are asked for, they work or say clearly why not; nothing is written then."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import scgraphvci as sgv

pytestmark = pytest.mark.filterwarnings("ignore")

# --- set-up ---

CELLS = st.one_of(
    st.sampled_from(["control", "A", "B", "A+B", "A+A", "+", "", " ", "control+A", "nan", "train", "test", "ood"]),
    st.none(), st.booleans(), st.integers(-2, 10**9), st.floats(), st.just(pd.NA),
    st.just((1, 2)), st.just(b"A"),
)  # fmt: skip
PLAIN = [
    st.sampled_from(["control", "A", "B", "A+B"]),
    st.sampled_from(["control", "A"]),
    st.sampled_from(["train", "train", "test", "ood"]),
    st.sampled_from(["x", "y"]),
    st.floats(0, 5),
    st.sampled_from(["1", "1+2", "0.5", "0"]),
    st.sampled_from([0.0, 1.0, 2.5]),
]
KEYS = ["perturbation", "x", "split", "dose", "age", "depth", "no such column"]


@st.composite
def columns(draw, n):
    """A column of obs: plain or of anything, in any dtype."""
    values = draw(st.lists(draw(st.sampled_from([CELLS, *PLAIN])), min_size=n, max_size=n))
    column = pd.Series(values, dtype=object)
    form = draw(st.sampled_from(["object", "category", "guessed"]))
    try:
        return {"category": lambda: column.astype("category"), "guessed": column.infer_objects}.get(form, column.copy)()
    except (TypeError, ValueError):  # pandas cannot hold such values in that form
        return column


@st.composite
def datasets(draw):
    """A small AnnData, in most cases a screen."""
    n_cells, n_genes = draw(st.integers(0, 8)), draw(st.integers(0, 4))
    x = np.random.default_rng(draw(st.integers(0, 99))).poisson(2, (n_cells, n_genes)).astype(np.float32)
    if x.size and draw(st.integers(0, 5)) == 0:
        x.flat[draw(st.integers(0, x.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -1.0, 0.5, 1e38]))
    form = draw(st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_array, lambda values: values.astype(float)]))
    adata = ad.AnnData(form(x))
    for key in KEYS[:-1]:
        column = draw(columns(n_cells))
        if key == "perturbation" and draw(st.integers(0, 3)) > 0:
            column = pd.Series(np.resize(["control", "A", "B"], n_cells), dtype=object)
        adata.obs[key] = column.to_numpy() if not isinstance(column.dtype, pd.CategoricalDtype) else column.array
    if n_genes > 1 and draw(st.booleans()):
        weights = st.sampled_from([0.0, 1.0, -2.0, np.nan, np.inf])
        values = draw(st.lists(weights, min_size=n_genes**2, max_size=n_genes**2))
        adata.varp["grn"] = np.reshape(np.array(values, np.float32), (n_genes, n_genes))
    if draw(st.integers(0, 9)) == 0 and n_genes > 1:
        adata.var_names = ["g"] * n_genes
    return adata


OPTIONAL = st.one_of(st.none(), st.sampled_from(KEYS))
SETUPS = st.fixed_dictionaries(
    {},
    optional={
        "perturbation_key": st.sampled_from(KEYS),
        "control": st.sampled_from(["control", "A", "ctrl", "", "True", 1]),
        "layer": st.sampled_from([None, "counts"]),
        "dose_key": OPTIONAL,
        "combination_sep": st.sampled_from([None, "+", ""]),
        "categorical_covariate_keys": st.one_of(OPTIONAL, st.lists(st.sampled_from(KEYS), max_size=2)),
        "continuous_covariate_keys": st.one_of(OPTIONAL, st.lists(st.sampled_from(KEYS), max_size=2)),
        "size_factor_key": OPTIONAL,
        "split_key": OPTIONAL,
        "grn_key": st.sampled_from([None, "grn", "net"]),
        "gene_features_key": st.sampled_from([None, "pca"]),
    },
)


def snapshot(adata):
    keys = {name: sorted(getattr(adata, name)) for name in ("obsm", "varm", "varp", "layers", "uns")}
    return keys, list(adata.obs.columns), adata.obs.map(repr)


@given(datasets(), SETUPS, st.sampled_from(["normal", "nb"]))
def test_setup_anndata(attempt, adata, arguments, likelihood):
    before = snapshot(adata)
    if attempt(sgv.GraphVCI.setup_anndata, adata, **arguments) is attempt.refused:
        after = snapshot(adata)
        assert after[:2] == before[:2]
        pd.testing.assert_frame_equal(after[2], before[2])
        return
    scvi.settings.seed = 0
    model = attempt(sgv.GraphVCI, adata, likelihood=likelihood, n_hidden=4, n_latent=2)
    if model is not attempt.refused:
        model.is_trained_ = True
        predicted = model.predict("A" if "A" in model.treatments.perturbations else model.treatments.control, "all")
        assert predicted.shape == adata.shape
        model.deregister_manager(adata)


@given(datasets(), st.sampled_from(["NoChange", "ContextShift", "Additive", "RidgePCA"]), SETUPS)
def test_baselines(attempt, adata, name, arguments):
    names = ["perturbation_key", "control", "dose_key", "combination_sep", "categorical_covariate_keys", "split_key"]
    chosen = {key: arguments[key] for key in names if key in arguments}
    baseline = attempt(getattr(sgv.baselines, name), adata, **chosen)
    if baseline is not attempt.refused:
        found = attempt(baseline.predict, "A", source="all")
        assert found is attempt.refused or found.shape == adata.shape


# --- a fitted model ---

TREATMENTS = st.sampled_from(["control", "A", "B", "A+B", "B+A", "A+control", "A+A", "", "+", "a", "C", None, 1])
CALLS = st.fixed_dictionaries(
    {},
    optional={
        "source": st.sampled_from([None, "control", "all", "A", "B", "C", "", 1]),
        "indices": st.one_of(
            st.none(), st.lists(st.integers(-3, 40), max_size=4), st.lists(st.booleans(), max_size=3),
            st.just([True] * 30), st.sampled_from([[0.5], "cell", ["a"], [[0, 1]], np.array([], int), 3, [None]]),
        ),
        "dose": st.sampled_from([None, 0, 1, 0.5, -1, np.nan, np.inf, "1", "1+2", "x", "1+2+3", [1, 2], 10**400]),
        "library": st.sampled_from(["standard", "observed", "own"]),
        "batch_size": st.sampled_from([None, 1, 7]),
    },
)  # fmt: skip
EFFECTS = st.fixed_dictionaries(
    {},
    optional={
        "treatments": st.one_of(st.none(), TREATMENTS, st.lists(TREATMENTS, max_size=2)),
        "groupby": st.sampled_from([None, "x", ["x"], ["x", "y"], [], "donor", 3]),
        "reference": st.sampled_from(["control", "A", "C", None, "A+B"]),
        "estimator": st.sampled_from(["robust", "observed", "plugin", "best"]),
        "estimand": st.sampled_from(["difference", "ratio", "log_fold_change", "odds"]),
        "pseudocount": st.sampled_from([0.0, 1.0, -1.0]),
        "cluster_key": st.sampled_from([None, "x", "y", "batch"]),
        "pooled": st.booleans(),
        "min_cells": st.sampled_from([2, 10, 0, -1]),
        "alpha": st.sampled_from([0.05, 0.5, 0, 1, 2]),
        "p_adjust": st.sampled_from(["fdr_bh", "holm", "romano_wolf", None, "sidak"]),
        "max_leak": st.sampled_from([0.0, 0.1, 1.0, -0.1]),
        "keep_influence": st.sampled_from([True, False, "float64", "bands"]),
        "cross_fit": st.sampled_from([0, 1, 1000, -1]),
        "n_repeats": st.sampled_from([1, 0, 2]),
    },
)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({
        "perturbation": np.resize(["control", "A", "B", "A+B"], 30),
        "x": np.resize(["s", "t", "u"], 30),
        "y": np.resize(["v", "w"], 30),
        "dose": np.resize(["1", "1", "2", "1+2"], 30),
    }, index=[f"c{i}" for i in range(30)])  # fmt: skip
    adata = ad.AnnData(rng.poisson(3, (30, 3)).astype(np.float32), obs=obs)
    sgv.GraphVCI.setup_anndata(
        adata, categorical_covariate_keys=["x", "y"], dose_key="dose", combination_sep="+", layer=None
    )
    model = sgv.GraphVCI(adata, likelihood="nb", n_hidden=4, n_latent=2)
    model.is_trained_ = True
    return model


@given(treatment=TREATMENTS, arguments=CALLS)
def test_predict(attempt, model, treatment, arguments):
    found = attempt(model.predict, treatment, **arguments)
    assert found is attempt.refused or np.isfinite(found.X).all()


@given(treatment=TREATMENTS, arguments=CALLS, n_samples=st.sampled_from([1, 2, 0, -1]))
def test_sample(attempt, model, treatment, arguments, n_samples):
    found = attempt(model.sample, treatment, n_samples=n_samples, **arguments)
    assert found is attempt.refused or np.isfinite(found.X).all()


@given(arguments=EFFECTS)
def test_marginal_effect(attempt, model, arguments):
    found = attempt(model.marginal_effect, **arguments)
    if found is attempt.refused:
        return
    frame = found.to_frame()
    unsure = ~frame["status"].isin(["ok", "leak_detected"])
    assert frame.loc[unsure, ["std_error", "ci_low", "ci_high", "p_value"]].isna().all(axis=None)
    sure = frame[frame["ci_low"].notna()]
    assert (sure["ci_low"] <= sure["estimate"]).all()
    assert (sure["estimate"] <= sure["ci_high"]).all()
    assert sure["p_value"].between(0, 1).all()
