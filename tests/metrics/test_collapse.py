from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.metrics import mean_pairwise_correlation, mean_variance_ratio, variance_ratio


def test_variance_ratio_is_the_median_over_genes():
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(0, 1, (30, 9)), rng.normal(0, 2, (20, 9))
    ratios = [
        sum((predicted[:, g] - predicted[:, g].mean()) ** 2) / 19 / (sum((true[:, g] - true[:, g].mean()) ** 2) / 29)
        for g in range(9)
    ]
    assert variance_ratio(true, predicted) == pytest.approx(sorted(ratios)[4], rel=1e-12)


def test_variance_ratio_of_the_truth_and_of_collapse():
    true = np.random.default_rng(1).normal(size=(30, 9))
    assert variance_ratio(true, true) == 1
    assert variance_ratio(true, 3 * true) == pytest.approx(9)
    assert variance_ratio(true, np.tile(true.mean(axis=0), (30, 1))) == pytest.approx(0, abs=1e-20)


def test_genes_that_never_vary_do_not_count():
    true = np.random.default_rng(2).normal(size=(30, 3))
    predicted = 2 * true
    true[:, :2] = 1.0
    assert variance_ratio(true, predicted) == pytest.approx(4)
    assert np.isnan(variance_ratio(np.ones((5, 2)), predicted[:, :2]))
    assert np.isnan(variance_ratio(true, predicted[:1]))
    with pytest.raises(ValueError, match="same genes"):
        variance_ratio(true, predicted[:, 1:])


def test_mean_variance_ratio_tells_means_from_draws():
    """Draws of a collapsed model vary as cells do; its means do not, and their sampling noise is taken off."""
    rng = np.random.default_rng(4)
    centres, noise = rng.normal(0, 0.5, (400, 30)), 1.0
    true = centres + rng.normal(0, noise, (400, 30))
    assert mean_variance_ratio(true, centres) == pytest.approx(0.2, abs=0.02)
    draws = rng.normal(0, noise, (10, 400, 30))  # of a model that gives every cell the same mean
    sampling = draws.var(axis=0, ddof=1).mean(axis=0) / 10
    assert variance_ratio(true, draws[0]) == pytest.approx(0.8, abs=0.1)
    assert mean_variance_ratio(true, draws.mean(axis=0)) > 0.07
    assert mean_variance_ratio(true, draws.mean(axis=0), sampling) == pytest.approx(0, abs=0.01)
    good = centres + draws
    assert mean_variance_ratio(true, good.mean(axis=0), sampling) == pytest.approx(0.2, abs=0.03)
    assert np.isnan(mean_variance_ratio(true, centres[:1]))
    assert np.isnan(mean_variance_ratio(np.ones((3, 30)), centres))


def test_pairwise_correlation_is_the_mean_off_the_diagonal():
    shifts = np.random.default_rng(3).normal(0.3, 1, (7, 20))
    shifts += shifts[0]
    expected = np.corrcoef(shifts)[~np.eye(7, dtype=bool)].mean()
    assert mean_pairwise_correlation(shifts) == pytest.approx(expected, rel=1e-10)
    scaled = shifts * np.arange(1, 8)[:, None]
    assert mean_pairwise_correlation(scaled) == pytest.approx(expected, rel=1e-10)


def test_pairwise_correlation_of_collapse_and_of_opposites():
    shift = np.random.default_rng(4).normal(size=20)
    assert mean_pairwise_correlation(np.tile(shift, (5, 1))) == pytest.approx(1)
    assert mean_pairwise_correlation(np.stack([shift, -shift])) == pytest.approx(-1)


def test_constant_shifts_have_no_correlation():
    shifts = np.random.default_rng(5).normal(size=(4, 20))
    with_zero = np.concatenate([shifts, np.zeros((1, 20)), np.full((1, 20), 0.1)])
    assert mean_pairwise_correlation(with_zero) == pytest.approx(mean_pairwise_correlation(shifts), rel=1e-10)
    assert np.isnan(mean_pairwise_correlation(np.zeros((4, 20))))
    assert np.isnan(mean_pairwise_correlation(shifts[:1]))
