"""Intervals against resampling in a loop, and their coverage."""

from __future__ import annotations

import numpy as np

from scgraphvci._evaluation._bootstrap import mean_and_interval, resample


def test_weights_are_resamples():
    weights = resample(np.arange(7), 200, seed=0).weights
    assert weights.shape == (200, 7)
    np.testing.assert_array_equal(weights.sum(axis=1), 7)
    np.testing.assert_array_equal(weights, resample(np.arange(7), 200, seed=0).weights)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.3)


def test_conditions_of_a_treatment_are_drawn_together():
    cluster = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 1, 2, 3, 4, 5])
    resamples = resample(cluster, 100, seed=0)
    np.testing.assert_array_equal(resamples.cluster, cluster)
    for code in range(10):
        own = resamples.weights[:, cluster == code]
        assert (own == own[:, :1]).all()
    first = np.unique(cluster, return_index=True)[1]
    np.testing.assert_array_equal(resamples.weights[:, first].sum(axis=1), 10)


def test_few_treatments_leave_conditions_to_be_drawn():
    resamples = resample(np.repeat(np.arange(9), 3), 100, seed=0)
    np.testing.assert_array_equal(resamples.cluster, np.arange(27))
    np.testing.assert_array_equal(resamples.weights, resample(np.arange(27), 100, seed=0).weights)


def test_intervals_cover_where_treatments_differ():
    """Ten strata show the same treatments: an interval over conditions would cover 95 % of the time by name only."""
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(20), 10)
    together, apart = resample(cluster, 300, seed=0), resample(np.arange(200), 300, seed=0)
    hits = np.zeros(2)
    for _ in range(200):
        values = rng.normal(0, 1, 20)[cluster] + rng.normal(0, 0.5, 200)
        intervals = [mean_and_interval(values, resamples) for resamples in (together, apart)]
        hits += [low <= 0 <= high for _, low, high in intervals]
    assert 0.87 < hits[0] / 200 < 0.98
    assert hits[1] / 200 < 0.6


def test_one_treatment_says_nothing_about_others():
    cluster = np.repeat(np.arange(10), 3)
    values = np.where(cluster == 4, np.arange(30.0), np.nan)
    mean, low, high = mean_and_interval(values, resample(cluster, 200, seed=0))
    assert mean == 13
    assert np.isnan([low, high]).all()


def test_interval_equals_a_loop():
    values = np.random.default_rng(0).normal(size=9)
    resamples = resample(np.arange(9), 100, seed=1)
    resampled = [np.mean(np.repeat(values, row.astype(int))) for row in resamples.weights]
    mean, low, high = mean_and_interval(values, resamples)
    np.testing.assert_allclose([mean, low, high], [values.mean(), *np.quantile(resampled, [0.025, 0.975])])


def test_undefined_conditions_are_left_out():
    values = np.array([1.0, np.nan, 3.0, 8.0])
    resamples = resample(np.arange(4), 500, seed=1)
    mean, low, high = mean_and_interval(values, resamples)
    resampled = []
    for row in resamples.weights.astype(int):
        drawn = np.repeat(values, row)
        if not np.isnan(drawn).all():
            resampled.append(np.nanmean(drawn))
    assert mean == 4
    np.testing.assert_allclose([low, high], np.quantile(resampled, [0.025, 0.975]))
    assert np.isnan(mean_and_interval(np.full(4, np.nan), resamples)).all()
    one = mean_and_interval(np.array([np.nan, 2.0, np.nan, np.nan]), resamples)
    assert one[0] == 2
    assert np.isnan(one[1:]).all(), "one condition says nothing about others"


def test_intervals_cover_the_mean():
    rng = np.random.default_rng(3)
    resamples = resample(np.arange(40), 400, seed=0)
    hits = 0
    for _ in range(300):
        _, low, high = mean_and_interval(rng.normal(1.0, 2.0, size=40), resamples)
        hits += low <= 1 <= high
    assert 0.88 < hits / 300 < 0.98
