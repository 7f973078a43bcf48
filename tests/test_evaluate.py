"""Scores of held-out pairs against scores computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scgraphvci.baselines import ContextShift, NoChange
from scgraphvci.datasets import simulate, truth
from scgraphvci.evaluate import evaluate, evaluate_pairs, predicted_shifts

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}


@pytest.fixture(scope="module")
def adata():
    return simulate(n_cells=1200, n_genes=50, n_perturbations=5, n_donors=2, seed=0)


class Oracle:
    """Predicts the truth."""

    def __init__(self, adata, known):
        self.adata, self.known = adata, known

    def predict(self, treatment, source=None, indices=None, dose=None, adata=None):
        predicted = NoChange(self.adata, **SETUP).predict(treatment, indices=indices)
        group = self.adata.obs["cell_type"].iloc[indices].to_numpy()
        predicted.X = self.known.stratum_mean(treatment).loc[group].to_numpy()
        return predicted


def test_pairs_by_hand(adata):
    shift = ContextShift(adata, **SETUP)
    pairs = evaluate_pairs({"shift": shift}, baselines=None, n_de=10)
    obs, x = adata.obs, adata.X.toarray()
    held_out = obs[obs["split"] == "ood"].groupby(["perturbation", "cell_type"], observed=True).size()
    assert set(zip(pairs["treatment"], pairs["cell_type"], strict=True)) == set(held_out[held_out >= 5].index)
    for row in pairs.itertuples():
        here = (obs["cell_type"] == row.cell_type).to_numpy()
        treated = x[here & ((obs["perturbation"] == row.treatment) & (obs["split"] == "ood")).to_numpy()]
        control = x[here & ((obs["perturbation"] == "control") & (obs["split"] != "ood")).to_numpy()]
        sources = np.flatnonzero(here & (obs["perturbation"] == "control").to_numpy())
        predicted = shift.predict(row.treatment, indices=sources).X.mean(axis=0)
        true = treated.mean(axis=0)
        assert row.n_cells == len(treated)
        spread = ((true - true.mean()) ** 2).sum()
        assert row.r2 == pytest.approx(1 - ((true - predicted) ** 2).sum() / spread, abs=1e-5)
        base = control.mean(axis=0)
        assert row.pearson_shift == pytest.approx(stats.pearsonr(true - base, predicted - base)[0], abs=1e-4)
        error = np.sqrt(treated.var(axis=0) / len(treated) + control.var(axis=0) / len(control) + 1e-12)
        de = np.argsort(-np.abs(true - base) / error)[:10]
        expected = 1 - ((true[de] - predicted[de]) ** 2).sum() / ((true[de] - true[de].mean()) ** 2).sum()
        assert row.r2_de == pytest.approx(expected, abs=1e-4)


def test_oracle_is_perfect_and_baselines_are_added(adata):
    known = truth(adata)
    scores = evaluate({"oracle": Oracle(adata, known), "shift": ContextShift(adata, **SETUP)}, adata, truth=known)
    assert scores.index.tolist()[:2] == ["oracle", "shift"]
    assert {"no change", "train mean", "stratum mean", "context shift", "additive"} < set(scores.index)
    np.testing.assert_allclose(scores.loc["oracle", ["r2", "r2_de", "pearson_shift"]].astype(float), 1.0, atol=1e-5)
    np.testing.assert_array_equal(scores.loc["shift"], scores.loc["context shift"])
    assert scores.loc["context shift", "r2_de"] > scores.loc["no change", "r2_de"] + 0.1


def test_shifts_carry_the_scores(adata):
    shift = ContextShift(adata, **SETUP)
    pairs = evaluate_pairs(shift, baselines=None)
    shifts = predicted_shifts(shift, baselines=None)
    assert shifts["predictor"].unique().tolist() == ["ContextShift"]
    for (treatment, cell_type), part in shifts.groupby(["treatment", "cell_type"]):
        row = pairs[(pairs["treatment"] == treatment) & (pairs["cell_type"] == cell_type)].iloc[0]
        assert row["pearson_shift"] == pytest.approx(stats.pearsonr(part["true"], part["predicted"])[0], abs=1e-5)


def test_held_out_cells_are_no_source(adata):
    """Held-out cells enter as truth alone: other sources change nothing of what is predicted from."""
    other = adata.copy()
    control = (other.obs["perturbation"] == "control").to_numpy()
    hidden = control & (np.arange(other.n_obs) % 3 == 0)
    other.obs.loc[hidden, "split"] = "ood"
    before = evaluate_pairs(NoChange(other, **SETUP), baselines=None)
    values = other.X.toarray()
    values[hidden] = 50.0
    other.X = values
    after = evaluate_pairs(NoChange(other, **SETUP), baselines=None)
    np.testing.assert_allclose(before["r2"], after["r2"], atol=1e-6)


def test_bad_input(adata):
    shift = ContextShift(adata, **SETUP)
    with pytest.raises(ValueError, match="Lower `min_cells`"):
        evaluate(shift, min_cells=10_000)
    with pytest.raises(ValueError, match="how the screen is set up"):
        evaluate({"oracle": Oracle(adata, None)}, adata)
    with pytest.raises(ValueError, match="Unknown baselines 'all'"):
        evaluate(shift, baselines="all")
