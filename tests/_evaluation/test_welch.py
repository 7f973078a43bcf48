"""Welch's test from moments against scipy's from cells."""

from __future__ import annotations

import numpy as np
from scipy import stats

from scgraphvci._evaluation._welch import Group, welch


def test_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.gamma(1, size=(7, 40)), rng.gamma(2, size=(30, 40))
    t, p = welch(Group.of(a), Group.of(b))
    expected = stats.ttest_ind(a, b, equal_var=False)
    np.testing.assert_allclose(t, expected.statistic, rtol=1e-6)
    np.testing.assert_allclose(p, expected.pvalue, rtol=1e-6)


def test_groups_pool_to_their_union():
    rng = np.random.default_rng(1)
    parts = [rng.normal(i, 1 + i, size=(3 + i, 5)) for i in range(4)]
    mean, variance = (np.stack([getattr(part, name)(axis=0) for part in parts]) for name in ("mean", "var"))
    pooled, union = Group.pooled(mean, variance, np.array([len(part) for part in parts])), np.concatenate(parts)
    assert pooled.n == len(union)
    np.testing.assert_allclose(pooled.mean, union.mean(axis=0))
    np.testing.assert_allclose(pooled.variance, union.var(axis=0))


def test_a_single_cell_borrows_the_variance_of_the_others():
    rng = np.random.default_rng(2)
    one, many = rng.normal(size=(1, 6)), rng.normal(size=(50, 6))
    variance = many.var(axis=0, ddof=1)
    expected = (one[0] - many.mean(axis=0)) / np.sqrt(variance + variance / 50)
    t, p = welch(Group.of(one), Group.of(many))
    np.testing.assert_allclose(t, expected, rtol=1e-6)
    np.testing.assert_array_equal(p, 1)
    np.testing.assert_allclose(welch(Group.of(many), Group.of(one))[0], -expected, rtol=1e-6)


def test_genes_that_never_vary_are_finite():
    same, other = np.ones((4, 2)), np.array([[1.0, 3.0]] * 5)
    t, p = welch(Group.of(same), Group.of(other))
    assert np.isfinite(t).all()
    assert (t[0], p[0]) == (0, 1)
    assert p[1] < 1e-6
