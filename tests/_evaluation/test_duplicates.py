"""Repeated experiments, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import scgraphvci as sgv
from scgraphvci._evaluation._conditions import held_out_conditions
from scgraphvci._evaluation._duplicates import INTERPOLATED, TECHNICAL, interpolate, score_duplicates
from scgraphvci._evaluation._predictors import resolve

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}


@pytest.fixture(scope="module")
def adata():
    return sgv.datasets.simulate(n_cells=1500, n_genes=60, n_perturbations=5, n_donors=2, seed=0)


def screen_and_conditions(adata, truth=None):
    model = sgv.baselines.NoChange(adata, **SETUP)
    screen, _ = resolve(model, None, None, None, None, truth, 0)
    return screen, held_out_conditions(screen, "ood", "control", truth, 50, 5)[0]


def test_halves_predict_each_other(adata):
    screen, conditions = screen_and_conditions(adata)
    one = conditions[0]
    cells = screen.rows(one.held_out)
    scores = score_duplicates(one, cells, screen.basis, np.random.default_rng(5), noise_free=False)
    order = np.random.default_rng(5).permutation(len(cells))
    a, b = cells[order[: len(cells) // 2]].mean(axis=0), cells[order[len(cells) // 2 :]].mean(axis=0)
    assert scores[TECHNICAL]["mse"] == pytest.approx(((a - b) ** 2).mean())
    r = [stats.pearsonr(x - one.reference, y - one.reference)[0] for x, y in ((a, b), (b, a))]
    assert scores[TECHNICAL]["pearson_shift"] == pytest.approx(np.mean(r))
    r2 = [1 - ((x - y) ** 2).sum() / ((x - x.mean()) ** 2).sum() for x, y in ((a, b), (b, a))]
    assert scores[TECHNICAL]["r2"] == pytest.approx(np.mean(r2))


def test_genes_are_chosen_by_the_half_that_is_predicted(adata):
    screen, conditions = screen_and_conditions(adata)
    one = replace(conditions[0], de_genes=conditions[0].de_genes[:8])
    cells = screen.rows(one.held_out)
    obs = adata.obs.reset_index(drop=True)
    here, x = obs["cell_type"] == one.levels["cell_type"], adata.X.toarray().astype(np.float64)
    control = x[here & (obs["perturbation"] == "control") & (obs["split"] != "ood")]
    rest = x[here & ~obs["perturbation"].isin(["control", one.treatment])]
    order = np.random.default_rng(5).permutation(len(cells))
    halves = cells[order[: len(cells) // 2]], cells[order[len(cells) // 2 :]]
    direction, r2_de, weighted_mse = [], [], []
    for a, b in (halves, halves[::-1]):
        guess, true = a.mean(axis=0), b.mean(axis=0)
        test = stats.ttest_ind(b, control, equal_var=False)
        found = stats.false_discovery_control(np.where(np.isnan(test.pvalue), 1, test.pvalue)) < 0.05
        right = np.sign(guess - one.reference) == np.sign(true - one.reference)
        direction.append(right[found].mean())
        de = np.argsort(-np.abs(np.nan_to_num(test.statistic)))[:8]
        r2_de.append(1 - ((true - guess)[de] ** 2).sum() / ((true[de] - true[de].mean()) ** 2).sum())
        t = np.abs(np.nan_to_num(stats.ttest_ind(b, rest, equal_var=False).statistic))
        weights = ((t - t.min()) / (t.max() - t.min())) ** 2
        weighted_mse.append(weights @ (true - guess) ** 2 / weights.sum())
    scores = score_duplicates(one, cells, screen.basis, np.random.default_rng(5), noise_free=False)[TECHNICAL]
    assert scores["de_direction"] == pytest.approx(np.mean(direction))
    assert scores["r2_de"] == pytest.approx(np.mean(r2_de), abs=1e-3)
    assert scores["weighted_mse"] == pytest.approx(np.mean(weighted_mse), rel=1e-3)


@pytest.mark.parametrize("is_known", [False, True])
def test_repeated_experiments_err_in_direction(is_known):
    """Genes chosen with the half that predicts would always move the right way."""
    adata = sgv.datasets.simulate(n_cells=3000, n_genes=100, n_perturbations=10, n_donors=2, seed=0)
    truth = sgv.datasets.truth(adata) if is_known else None
    screen, conditions = screen_and_conditions(adata, truth)
    cells = [screen.rows(one.held_out) for one in conditions]
    scores = [
        score_duplicates(one, x, screen.basis, np.random.default_rng(0), noise_free=is_known)[TECHNICAL]
        for one, x in zip(conditions, cells, strict=True)
    ]
    assert 0.8 < np.nanmean([row["de_direction"] for row in scores]) < (0.96 if is_known else 0.99)


def test_noise_free_weights_stay_with_the_truth(adata):
    screen, conditions = screen_and_conditions(adata, sgv.datasets.truth(adata))
    one = conditions[0]
    judge = one.judged_by(screen.rows(one.held_out)[:10], noise_free=True)
    np.testing.assert_array_equal(judge.weights, one.weights)
    np.testing.assert_array_equal(judge.de_genes, one.de_genes)
    assert (judge.significant != one.significant).any()


def test_interpolation_by_hand(adata):
    screen, conditions = screen_and_conditions(adata)
    one = conditions[0]
    cells = screen.rows(one.held_out)
    obs = adata.obs.reset_index(drop=True)
    others = (obs["cell_type"] == one.levels["cell_type"]) & ~obs["perturbation"].isin(["control", one.treatment])
    p = stats.ttest_ind(cells, adata.X.toarray()[others], equal_var=False).pvalue
    alpha = 1 - stats.false_discovery_control(np.where(np.isnan(p), 1, p))
    expected = alpha * cells.mean(axis=0) + (1 - alpha) * one.perturbed
    np.testing.assert_allclose(interpolate(one, cells), expected, atol=1e-4)
    assert 0 < alpha.mean() < 1


def test_against_a_known_truth_all_cells_predict(adata):
    truth = sgv.datasets.truth(adata)
    screen, conditions = screen_and_conditions(adata, truth)
    one = conditions[0]
    cells = screen.rows(one.held_out)
    known = truth.stratum_mean(one.treatment).loc[one.levels["cell_type"]].to_numpy()
    np.testing.assert_allclose(one.true, known)
    scores = score_duplicates(one, cells, screen.basis, np.random.default_rng(0), noise_free=True)
    assert scores[TECHNICAL]["mse"] == pytest.approx(((cells.mean(axis=0) - known) ** 2).mean())
    assert np.isfinite(scores[TECHNICAL]["energy_distance"]), "sets of cells are compared by halves"
    assert scores[INTERPOLATED]["mse"] == pytest.approx(((interpolate(one, cells) - known) ** 2).mean())
    assert np.isnan(scores[INTERPOLATED]["energy_distance"])


def test_too_few_cells_have_no_duplicates(adata):
    screen, conditions = screen_and_conditions(adata)
    cells = screen.rows(conditions[0].held_out)[:3]
    scores = score_duplicates(conditions[0], cells, screen.basis, np.random.default_rng(0), noise_free=False)
    assert scores == {TECHNICAL: {}, INTERPOLATED: {}}
