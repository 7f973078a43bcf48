"""Folds of cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.model._folds import assign_folds


def test_cells_of_every_pair_are_dealt_out_evenly():
    rng = np.random.default_rng(0)
    stratum, condition = rng.integers(3, size=500), rng.integers(4, size=500)
    fold = assign_folds(5, stratum, condition, None, seed=1)
    counts = pd.crosstab([stratum, condition], fold).to_numpy()
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1
    assert np.ptp(np.bincount(fold)) <= 1


def test_clusters_stay_together_in_folds_of_similar_size():
    rng = np.random.default_rng(0)
    cluster = rng.choice(11, size=900, p=rng.dirichlet(np.full(11, 3.0)))
    fold = assign_folds(4, np.zeros(900, int), np.zeros(900, int), cluster, seed=0)
    assert (pd.Series(fold).groupby(cluster).nunique() == 1).all()
    size = np.bincount(fold)
    assert size.max() - size.min() <= np.bincount(cluster).max()


@pytest.mark.parametrize("seed", range(20))
def test_every_level_of_two_cells_is_in_two_folds(seed):
    """Two cells of a rare level in different strata were dealt to the same fold, by chance of the draw."""
    rng = np.random.default_rng(0)
    stratum, condition = rng.integers(6, size=120), rng.integers(4, size=120)
    rare = np.zeros(120, dtype=int)
    rare[[0, 1]], rare[2], rare[[3, 4, 5]] = 1, 2, 3
    before = assign_folds(3, stratum, condition, None, seed)
    fold = assign_folds(3, stratum, condition, None, seed, np.stack([stratum, rare], axis=1))
    folds = pd.Series(fold).groupby(rare).nunique()
    assert folds[1] >= 2 and folds[3] >= 2 and folds[2] == 1
    assert (fold != before).sum() <= 2
    assert np.ptp(np.bincount(fold)) <= 5


def test_levels_of_two_clusters_are_spread_and_clusters_stay_whole():
    cluster = np.repeat(np.arange(6), [100, 90, 80, 30, 20, 10])
    level = np.isin(cluster, [1, 2]).astype(int)  # the greedy rule puts the second and third largest together
    confined = 0
    for seed in range(5):
        zeros = np.zeros(330, int)
        before = assign_folds(2, zeros, zeros, cluster, seed)
        confined += pd.Series(before).groupby(level).nunique()[1] == 1
        fold = assign_folds(2, zeros, zeros, cluster, seed, level[:, None])
        assert (pd.Series(fold).groupby(level).nunique() == 2).all()
        assert (pd.Series(fold).groupby(cluster).nunique() == 1).all()
    assert confined == 5


@pytest.mark.parametrize("cluster", [None, np.arange(60) % 7])
def test_the_seed_decides(cluster):
    codes = np.arange(60) % 2, np.arange(60) % 3
    first, again, other = (assign_folds(3, *codes, cluster, seed) for seed in (0, 0, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("n_folds", "cluster", "message"),
    [
        (1, None, r"cross_fit=1 must be 0, or between 2 and the number of cells \(6\)"),
        (7, None, r"cross_fit=7 must be 0, or between 2 and the number of cells \(6\)"),
        (4, np.arange(6) // 2, r"cross_fit=4 must be 0, or between 2 and the number of clusters \(3\)"),
    ],
)
def test_too_few_units(n_folds, cluster, message):
    with pytest.raises(ValueError, match=message):
        assign_folds(n_folds, np.zeros(6, int), np.zeros(6, int), cluster, seed=0)


def test_levels_of_two_covariates_are_spread_together():
    """What spreads the levels of one covariate must not gather those of the other."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        stratum, zeros = rng.integers(3, size=80), np.zeros(80, dtype=int)
        levels = np.stack(
            [np.r_[rng.permutation(np.repeat(np.arange(20), 2)), np.full(40, 20)] for _ in range(2)], axis=1
        )
        fold = assign_folds(3, stratum, zeros, None, seed, levels)
        for column in levels.T:
            assert all(len(set(fold[column == level])) > 1 for level in np.unique(column))
