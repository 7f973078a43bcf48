"""Metrics of edge recovery against scikit-learn on dense vectors and against brute force over orders of ties."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from scgraphvci.grn._recovery import METRICS, curve, early_precision, keep_top, recovery


@pytest.fixture(params=[0.0, 0.9])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, of which a share is not listed, and labels that they tell something of."""
    rng = np.random.default_rng(0)
    true = rng.random(2000) < 0.1
    score = np.round(rng.random(2000) + 0.3 * true, 1) + 0.1
    return np.where(rng.random(2000) < request.param, 0.0, score), true


def test_agrees_with_sklearn_on_dense_vectors(case) -> None:
    score, true = case
    found = recovery(score, true)
    assert found["auprc"] == pytest.approx(average_precision_score(true, score), abs=1e-12)
    assert found["auroc"] == pytest.approx(roc_auc_score(true, score), abs=1e-12)
    assert found["density"] == pytest.approx(true.mean())
    assert found["auprc_ratio"] == pytest.approx(found["auprc"] / true.mean())
    assert found["early_precision_ratio"] == pytest.approx(found["early_precision"] / true.mean())
    assert (found["n_candidates"], found["n_true"], found["n_edges"]) == (2000, true.sum(), (score > 0).sum())


def test_curve_agrees_with_sklearn(case) -> None:
    score, true = case
    recall, precision = curve(score, true)
    expected = precision_recall_curve(true, score)
    np.testing.assert_allclose(precision, expected[0][::-1])
    np.testing.assert_allclose(recall, expected[1][::-1])
    assert (recall[0], recall[-1]) == (0, 1) and precision[-1] == pytest.approx(true.mean())


@pytest.mark.parametrize(
    "score", [[3, 2, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [5, 5, 2, 2, 2, 1], [0, 0, 1, 1, 1, 1]]
)
def test_early_precision_is_the_mean_over_orders_of_ties(score: list[float]) -> None:
    score, true = np.array(score, dtype=float), np.array([1, 0, 1, 0, 1, 0], dtype=bool)
    orders = [np.array(order) for order in permutations(range(6)) if (np.diff(score[list(order)]) <= 0).all()]
    assert early_precision(score, true) == pytest.approx(np.mean([true[order[:3]].mean() for order in orders]))


def test_hand_made() -> None:
    # Ranks: true, false, true | unlisted: true, false. Precision 1, 2/3, 3/5 at the true ones.
    found = recovery(np.array([3.0, 2.0, 1.0, 0.0, 0.0]), np.array([1, 0, 1, 1, 0], dtype=bool))
    assert found["auprc"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found["early_precision"] == pytest.approx(2 / 3)
    assert found["auroc"] == pytest.approx((2 + 1 + 0.5) / 6)


def test_without_scores_random_is_expected() -> None:
    true = np.arange(100) < 7
    found = recovery(np.zeros(100), true)
    assert [found[key] for key in METRICS] == pytest.approx([0.07, 1, 0.07, 1, 0.5])


@pytest.mark.parametrize("true", [np.zeros(3, dtype=bool), np.ones(3, dtype=bool)])
def test_undefined_where_nothing_can_be_told_apart(true: np.ndarray) -> None:
    found = recovery(np.array([1.0, 2.0, 0.0]), true)
    assert np.isnan([found[key] for key in METRICS]).all()
    assert found["n_true"] == true.sum()
    assert curve(np.ones(3), np.zeros(3, dtype=bool))[0].size == 0


def test_keep_top() -> None:
    score = np.array([[0.0, 3.0, 1.0], [2.0, 1.0, 0.0]])
    np.testing.assert_array_equal(keep_top(score, 2), [[0, 3, 0], [2, 0, 0]])
    assert keep_top(score, 4) is score
    kept = np.array([keep_top(score, 3, seed)[[0, 1], [2, 1]] > 0 for seed in range(60)])
    assert (kept.sum(axis=1) == 1).all()
    assert 15 < kept[:, 0].sum() < 45  # ties are broken at random
