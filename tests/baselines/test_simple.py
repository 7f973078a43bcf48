"""Profiles of the simple predictors against means computed by hand."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgraphvci.baselines import Additive, ContextShift, ControlLevel, NoChange, StratumMean, TrainMean

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split", "combination_sep": "+"}
# Cells per stratum and treatment, "train" unless marked; "A+B" is never a training treatment in "x".
DESIGN = {
    ("x", "control"): 7,
    ("x", "A"): 5,
    ("y", "control"): 6,
    ("y", "A"): 4,
    ("y", "B"): 3,
    ("z", "control"): 5,
    ("z", "A"): 8,
    ("z", "B"): 2,
    ("z", "A+B"): 4,
}
HELD_OUT = {("x", "B"): 4, ("y", "A+B"): 3, ("z", "control"): 3}


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    cells = [(s, t, "train") for (s, t), n in DESIGN.items() for _ in range(n)]
    cells += [(s, t, "ood") for (s, t), n in HELD_OUT.items() for _ in range(n)]
    rng.shuffle(cells)
    obs = pd.DataFrame(cells, columns=["cell_type", "perturbation", "split"]).rename(index=str)
    values = rng.gamma(2.0, size=(len(cells), 6)) + (obs["split"] == "ood").to_numpy()[:, None] * 1000.0
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(6)]))


def mean(adata: ad.AnnData, stratum: str | None, treatment: str) -> np.ndarray:
    """Mean of training cells, cell by cell."""
    rows = [
        adata.X[i]
        for i, row in enumerate(adata.obs.itertuples())
        if row.split == "train" and row.perturbation == treatment and stratum in (None, row.cell_type)
    ]
    return sum(rows) / len(rows)


def controls(adata: ad.AnnData, stratum: str) -> np.ndarray:
    wanted = (adata.obs == [stratum, "control", "train"]).all(axis=1)
    return np.flatnonzero(wanted)


def predicted_mean(baseline, stratum: str, treatment: str) -> np.ndarray:
    return baseline.predict(treatment, indices=controls(baseline.adata, stratum)).X.mean(axis=0)


def test_no_change_returns_the_cells(adata):
    baseline = NoChange(adata, **SETUP)
    np.testing.assert_allclose(baseline.predict("A+B", source="all").X, adata.X, rtol=1e-6)


def test_train_mean_is_the_mean_of_perturbation_means(adata):
    expected = (mean(adata, None, "A") + mean(adata, None, "B") + mean(adata, None, "A+B")) / 3
    for stratum in "xyz":
        np.testing.assert_allclose(predicted_mean(TrainMean(adata, **SETUP), stratum, "B"), expected, rtol=1e-5)


def test_stratum_mean_is_that_of_the_stratum(adata):
    baseline = StratumMean(adata, **SETUP)
    expected = (mean(adata, "y", "A") + mean(adata, "y", "B")) / 2
    np.testing.assert_allclose(predicted_mean(baseline, "y", "A+B"), expected, rtol=1e-5)
    np.testing.assert_allclose(predicted_mean(baseline, "x", "B"), mean(adata, "x", "A"), rtol=1e-5)


def test_context_shift_averages_the_other_strata_by_treated_cells(adata):
    baseline = ContextShift(adata, **SETUP)
    shift = {(s, t): mean(adata, s, t) - mean(adata, s, "control") for s, t in DESIGN}
    expected = mean(adata, "x", "control") + (3 * shift["y", "B"] + 2 * shift["z", "B"]) / 5
    np.testing.assert_allclose(predicted_mean(baseline, "x", "B"), expected, rtol=1e-5)
    # Where the pair itself was trained on, its own cells still do not count.
    expected = mean(adata, "y", "control") + (5 * shift["x", "A"] + 8 * shift["z", "A"]) / 13
    np.testing.assert_allclose(predicted_mean(baseline, "y", "A"), expected, rtol=1e-5)
    # Known here alone.
    expected = mean(adata, "z", "A+B")
    np.testing.assert_allclose(predicted_mean(baseline, "z", "A+B"), expected, rtol=1e-5)


def test_additive_sums_the_shifts_of_members(adata):
    baseline = Additive(adata, **SETUP)
    shift = {(s, t): mean(adata, s, t) - mean(adata, s, "control") for s, t in DESIGN}
    expected = mean(adata, "y", "control") + shift["y", "A"] + shift["y", "B"]
    np.testing.assert_allclose(predicted_mean(baseline, "y", "A+B"), expected, rtol=1e-5)
    elsewhere = (3 * shift["y", "B"] + 2 * shift["z", "B"]) / 5
    expected = mean(adata, "x", "control") + shift["x", "A"] + elsewhere
    np.testing.assert_allclose(predicted_mean(baseline, "x", "A+B"), expected, rtol=1e-5)


def test_additive_knows_what_was_observed(adata):
    """A combination of the training cells of a stratum has its own mean there, not the sum of its members."""
    baseline = Additive(adata, **SETUP)
    np.testing.assert_allclose(predicted_mean(baseline, "z", "A+B"), mean(adata, "z", "A+B"), rtol=1e-5)
    np.testing.assert_allclose(predicted_mean(baseline, "z", "A"), mean(adata, "z", "A"), rtol=1e-5)


def test_control_level_is_a_penalised_fit(adata):
    """By gradient-free arithmetic: the normal equations of levels and intercept hold at the prediction."""
    baseline = ControlLevel(adata, **SETUP)
    n = {"x": 7, "y": 6, "z": 5}
    level = {s: predicted_mean(baseline, s, "A") for s in n}
    np.testing.assert_allclose(sum(n[s] * (mean(adata, s, "control") - level[s]) for s in n), 0, atol=1e-4)
    # Residuals n (c - b - o) = 2 o of one covariate; offsets sum to 0 with them.
    offset = {s: n[s] * (mean(adata, s, "control") - level[s]) / 2 for s in n}
    intercept = [level[s] - offset[s] for s in n]
    np.testing.assert_allclose(intercept[1:], [intercept[0]] * 2, atol=1e-4)
    for treatment in ("B", "A+B"):
        np.testing.assert_allclose(predicted_mean(baseline, "y", treatment), level["y"], rtol=1e-6)


def test_control_level_adds_up_over_covariates():
    """Of strata whose levels add up it is nearer to the truth than the stratum's own mean."""
    rng = np.random.default_rng(0)
    line, batch = rng.normal(0, 1, (6, 20)), rng.normal(0, 1, (5, 20))
    codes = np.repeat([(i, j) for i in range(6) for j in range(5)], 5, axis=0)
    values = line[codes[:, 0]] + batch[codes[:, 1]] + rng.normal(0, 1, (len(codes), 20)) + 9
    obs = pd.DataFrame({"line": codes[:, 0].astype(str), "batch": codes[:, 1].astype(str)}).rename(index=str)
    obs["perturbation"] = "control"
    treated = ad.AnnData(values[:2], obs=obs[:2].assign(perturbation="A"))
    treated.obs_names = ["a", "b"]
    screen = ad.concat([ad.AnnData(values, obs=obs), treated])
    baseline = ControlLevel(screen, categorical_covariate_keys=["line", "batch"])
    cells = np.arange(0, 150, 5)
    level = np.stack([baseline.predict("A", indices=np.arange(i, i + 5)).X.mean(axis=0) for i in cells])
    true = (line[codes[:, 0]] + batch[codes[:, 1]] + 9)[cells]
    own = np.stack([values[i : i + 5].mean(axis=0) for i in cells])
    assert np.square(level - true).mean() < 0.5 * np.square(own - true).mean()
    alone = ControlLevel(screen).predict("A", indices=np.arange(150)).X.mean(axis=0)
    np.testing.assert_allclose(alone, values.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("cls", [NoChange, TrainMean, StratumMean, ControlLevel, ContextShift, Additive])
def test_to_control_and_back(adata, cls):
    """Treated cells lose their profile under the baseline; control cells stay under control."""
    baseline = cls(adata, **SETUP)
    index = controls(adata, "y")
    np.testing.assert_allclose(baseline.predict("control", indices=index).X, adata.X[index], rtol=1e-6)
    treated = np.flatnonzero((adata.obs["perturbation"] == "A") & (adata.obs["cell_type"] == "y"))
    move = predicted_mean(baseline, "y", "A") - mean(adata, "y", "control")
    back = baseline.predict("control", indices=treated).X
    np.testing.assert_allclose(back, adata.X[treated] - move, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("convert", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.asfortranarray])
def test_any_matrix(adata, convert):
    other = adata.copy()
    other.X = convert(adata.X)
    expected = ContextShift(adata, **SETUP).predict("B").X
    np.testing.assert_allclose(ContextShift(other, **SETUP).predict("B").X, expected, rtol=1e-5)


@pytest.mark.parametrize("cls", [TrainMean, StratumMean, ControlLevel, ContextShift, Additive])
def test_held_out_cells_change_nothing(adata, cls):
    other = adata.copy()
    held_out = (other.obs["split"] == "ood").to_numpy()
    other.X[held_out] = 1e6
    index = np.flatnonzero(~held_out)
    for treatment in ("A", "B", "A+B"):
        before, after = (cls(data, **SETUP).predict(treatment, indices=index).X for data in (adata, other))
        np.testing.assert_array_equal(before, after)


def test_treatment_never_trained_on_shifts_by_the_mean_shift(adata):
    train = adata.copy()
    train.obs.loc[train.obs["perturbation"] == "B", "split"] = "ood"
    baseline = ContextShift(train, **SETUP)
    shift = {(s, t): mean(train, s, t) - mean(train, s, "control") for s, t in DESIGN if t != "B"}
    of_a = (5 * shift["x", "A"] + 4 * shift["y", "A"] + 8 * shift["z", "A"]) / 17
    expected = mean(train, "x", "control") + (of_a + shift["z", "A+B"]) / 2
    np.testing.assert_allclose(predicted_mean(baseline, "x", "B"), expected, rtol=1e-5)


def test_stratum_without_control_uses_all_controls(adata):
    other = adata.copy()
    other.obs.loc[(other.obs["cell_type"] == "x") & (other.obs["perturbation"] == "control"), "split"] = "ood"
    baseline = StratumMean(other, **SETUP)
    rows = np.flatnonzero((other.obs["cell_type"] == "x") & (other.obs["perturbation"] == "control"))
    move = baseline.predict("A", indices=rows).X - other.X[rows]
    np.testing.assert_allclose(move[0], mean(other, "x", "A") - mean(other, None, "control"), rtol=1e-3)
