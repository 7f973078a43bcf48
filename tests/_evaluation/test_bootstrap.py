"""Intervals against resampling in a loop, and their coverage."""

from __future__ import annotations

import numpy as np

from scgraphvci._evaluation._bootstrap import mean_and_interval, resampling_weights


def test_weights_are_resamples():
    weights = resampling_weights(7, 200, seed=0)
    assert weights.shape == (200, 7)
    np.testing.assert_array_equal(weights.sum(axis=1), 7)
    np.testing.assert_array_equal(weights, resampling_weights(7, 200, seed=0))
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.3)


def test_interval_equals_a_loop():
    values = np.random.default_rng(0).normal(size=9)
    weights = resampling_weights(9, 100, seed=1)
    resampled = [np.mean(np.repeat(values, row.astype(int))) for row in weights]
    mean, low, high = mean_and_interval(values, weights)
    np.testing.assert_allclose([mean, low, high], [values.mean(), *np.quantile(resampled, [0.025, 0.975])])


def test_undefined_conditions_are_left_out():
    values = np.array([1.0, np.nan, 3.0, 8.0])
    weights = resampling_weights(4, 500, seed=1)
    mean, low, high = mean_and_interval(values, weights)
    resampled = []
    for row in weights.astype(int):
        drawn = np.repeat(values, row)
        if not np.isnan(drawn).all():
            resampled.append(np.nanmean(drawn))
    assert mean == 4
    np.testing.assert_allclose([low, high], np.quantile(resampled, [0.025, 0.975]))
    assert np.isnan(mean_and_interval(np.full(4, np.nan), weights)).all()
    one = mean_and_interval(np.array([np.nan, 2.0, np.nan, np.nan]), weights)
    assert one[0] == 2
    assert np.isnan(one[1:]).all(), "one condition says nothing about others"


def test_intervals_cover_the_mean():
    rng = np.random.default_rng(3)
    weights = resampling_weights(40, 400, seed=0)
    hits = 0
    for _ in range(300):
        _, low, high = mean_and_interval(rng.normal(1.0, 2.0, size=40), weights)
        hits += low <= 1 <= high
    assert 0.88 < hits / 300 < 0.98
