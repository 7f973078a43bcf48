"""Edge scores against naive computations, gene by gene."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import pearsonr, spearmanr

from scgraphvci.grn import _scores as scores
from scgraphvci.grn import score_edges

KEYS = {"perturbation_key": "treatment", "categorical_covariate_keys": ["type"]}
GENES = list("ABCDEFG")
REGULATORS = ["C", "A", "F"]


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"treatment": rng.choice(["x", "y"], 200), "type": rng.choice(["u", "v"], 200)})
    obs["split"] = rng.choice(["train", "test", "ood"], 200)
    obs.index = obs.index.astype(str)
    values = rng.normal(size=(200, 7)) @ rng.normal(size=(7, 7)) + 2.0 * (obs["treatment"] == "x").to_numpy()[:, None]
    values[:, 6] = 1.5  # a constant gene
    return ad.AnnData(np.maximum(values, 0).astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="module")
def prior() -> pd.DataFrame:
    edges = [("A", "B"), ("F", "B"), ("A", "C"), ("C", "D"), ("C", "C"), ("F", "A"), ("B", "D")]
    return pd.DataFrame(edges, columns=["source", "target"]).assign(weight=-2.0)


def residuals(adata: ad.AnnData) -> np.ndarray:
    frame = adata.to_df().astype(float)
    out = frame - frame.groupby([adata.obs["treatment"], adata.obs["type"]]).transform("mean")
    return out.to_numpy()


def as_dict(net: pd.DataFrame) -> dict[tuple[str, str], float]:
    return {(s, t): w for s, t, w in net[["source", "target", "weight"]].itertuples(index=False)}


def assert_scores(net: pd.DataFrame, expected) -> None:
    found = as_dict(net)
    assert len(found) == len(net) and net["weight"].is_monotonic_decreasing
    for source in REGULATORS:
        for target in GENES:
            want = 0.0 if source == target or target == "G" else expected(GENES.index(source), GENES.index(target))
            assert found.get((source, target), 0.0) == pytest.approx(want, abs=1e-6), (source, target)


@pytest.mark.parametrize(("method", "naive"), [("pearson", pearsonr), ("spearman", spearmanr)])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_correlation(adata, method, naive, layout) -> None:
    values = adata.X.astype(float)
    other = ad.AnnData(layout(adata.X), obs=adata.obs, var=adata.var)
    assert_scores(score_edges(other, method, REGULATORS), lambda i, j: abs(naive(values[:, i], values[:, j])[0]))
    left = residuals(adata)
    found = score_edges(other, f"residual_{method}", REGULATORS, **KEYS)
    assert_scores(found, lambda i, j: abs(naive(left[:, i], left[:, j])[0]))


def test_blocks_change_nothing(adata, monkeypatch) -> None:
    whole = score_edges(adata, "residual_spearman", REGULATORS, **KEYS)
    monkeypatch.setattr(scores, "BLOCK_VALUES", 2 * adata.n_obs)
    pd.testing.assert_frame_equal(score_edges(adata, "residual_spearman", REGULATORS, **KEYS), whole)


def test_prior_edges_by_residual_correlation(adata, prior) -> None:
    left = residuals(adata)
    listed = {(GENES.index(s), GENES.index(t)) for s, t in prior[["source", "target"]].itertuples(index=False)}
    found = score_edges(adata, "prior_residual", REGULATORS, prior=prior, **KEYS)
    assert_scores(found, lambda i, j: abs(pearsonr(left[:, i], left[:, j])[0]) if (i, j) in listed else 0.0)
    assert len(found) == 5


@pytest.mark.parametrize("with_prior", [False, True])
def test_ridge(adata, prior, with_prior) -> None:
    left = residuals(adata)
    left = (left - left.mean(axis=0)) / np.where(left.std(axis=0) > 1e-6, left.std(axis=0), np.inf)
    listed = {(GENES.index(s), GENES.index(t)) for s, t in prior[["source", "target"]].itertuples(index=False)}

    def expected(i: int, j: int) -> float:
        others = [k for k in map(GENES.index, REGULATORS) if k != j]
        penalty = [0.1 * (0.1 if with_prior and (k, j) in listed else 1.0) for k in others]
        x, y = left[:, others], left[:, j]
        coefficient = np.linalg.solve(x.T @ x / len(x) + np.diag(penalty), x.T @ y / len(x))
        return abs(coefficient[others.index(i)])

    method = "ridge_prior" if with_prior else "ridge"
    assert_scores(score_edges(adata, method, REGULATORS, prior=prior, **KEYS), expected)


def test_grnboost2_finds_the_regulator() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 4)).astype(np.float32)
    values[:, 3] = np.tanh(values[:, 1]) + 0.1 * rng.normal(size=300)
    adata = ad.AnnData(values, var=pd.DataFrame(index=GENES[:4]))
    net = score_edges(adata, "grnboost2", ["A", "B", "C"], seed=1)
    found = as_dict(net)
    assert net["target"].iloc[0] == "D" and net["source"].iloc[0] == "B"
    assert found["B", "D"] > 10 * max(found.get(("A", "D"), 0.0), found.get(("C", "D"), 0.0))
    pd.testing.assert_frame_equal(net, score_edges(adata, "grnboost2", ["A", "B", "C"], seed=1))


def test_only_train_cells_are_read(adata) -> None:
    changed = adata.copy()
    held_out = (adata.obs["split"] != "train").to_numpy()
    changed.X[held_out] = 1e6
    for method in ("residual_pearson", "ridge"):
        found = score_edges(changed, method, REGULATORS, split_key="split", **KEYS)
        pd.testing.assert_frame_equal(found, score_edges(adata[~held_out].copy(), method, REGULATORS, **KEYS))


def test_layer_and_regulators_of_the_prior(adata, prior) -> None:
    other = adata.copy()
    other.layers["y"], other.X = adata.X, np.ones_like(adata.X)
    found = score_edges(other, "pearson", prior=prior, layer="y")
    pd.testing.assert_frame_equal(found, score_edges(adata, "pearson", ["A", "B", "C", "F"]))


@pytest.mark.parametrize(
    ("method", "options", "error", "match"),
    [
        ("genie", {}, ValueError, "Unknown method 'genie'"),
        ("ridge_prior", {}, ValueError, "'ridge_prior' needs `prior`"),
        ("residual_pearson", {}, ValueError, "needs `perturbation_key` or"),
        ("pearson", {"regulators": None}, ValueError, "Neither `regulators` nor `prior`"),
        ("pearson", {"regulators": ["Q"]}, ValueError, "None of the regulators \\(Q"),
        ("pearson", {"layer": "none"}, KeyError, "Layer 'none' not found"),
        ("pearson", {"split_key": "none"}, KeyError, "none"),
        ("pearson", {"split_key": "type"}, ValueError, "0 cells are left"),
    ],
)
def test_bad_input(adata, method, options, error, match) -> None:
    with pytest.raises(error, match=match):
        score_edges(adata, method, **{"regulators": REGULATORS, **options})
