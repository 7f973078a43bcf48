from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scgraphvci.estimate._multiplier import joint_level, largest_statistics, romano_wolf, signs


def test_few_clusters_have_all_signs():
    drawn = signs(5, 1000, seed=0)
    assert drawn.shape == (16, 5)
    assert (drawn[0] == 1).all()
    assert (drawn[:, 0] == 1).all()
    assert len(np.unique(drawn, axis=0)) == 16


def test_many_clusters_are_drawn():
    drawn = signs(40, 500, seed=3)
    assert drawn.shape == (500, 40)
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    assert (drawn[0] == 1).all()
    np.testing.assert_array_equal(drawn, signs(40, 500, seed=3))
    assert not np.array_equal(drawn, signs(40, 500, seed=4))
    assert abs(drawn[1:].mean()) < 0.03


def naive_t(totals, sign):
    """Two-sample t statistics between clusters of either sign."""
    return stats.ttest_ind(totals[sign > 0], totals[sign < 0]).statistic


def test_largest_statistic_equals_a_loop():
    totals = np.random.default_rng(0).normal(size=(15, 700))  # more genes than a block holds
    totals -= totals.mean(axis=0)
    drawn = signs(15, 40, seed=1)
    expected = [np.abs(naive_t(totals, sign)).max() for sign in drawn[1:]]
    np.testing.assert_allclose(largest_statistics(totals, drawn), expected, rtol=1e-3)


def test_two_samples_are_the_changed_signs_with_their_own_error():
    """The statistic grows with the sum of changed totals over the error of that sum, centred."""
    totals = np.random.default_rng(1).normal(size=(12, 1))
    totals -= totals.mean()
    drawn = signs(12, 200, seed=0)[1:]
    sums = np.abs(drawn @ totals)[:, 0] / np.sqrt(12 - drawn.sum(axis=1) ** 2 / 12)
    assert (np.argsort(sums) == np.argsort(largest_statistics(totals, drawn))).mean() > 0.95


def test_one_gene_alone_keeps_the_level():
    totals = np.random.default_rng(2).normal(size=(30, 1))
    totals -= totals.mean()
    assert 0.04 <= joint_level(totals, 0.05, signs(30, 4000, seed=0)) <= 0.05


def test_copies_of_a_gene_cost_nothing_and_independent_genes_cost_bonferroni():
    rng = np.random.default_rng(0)
    drawn = signs(50, 4000, seed=0)
    one, many = (value - value.mean(axis=0) for value in (rng.normal(size=(50, 1)), rng.normal(size=(50, 100))))
    assert joint_level(np.tile(one, 100), 0.05, drawn) == pytest.approx(joint_level(one, 0.05, drawn))
    assert 0.05 / 100 * 0.8 <= joint_level(many, 0.05, drawn) <= 0.05 / 100 * 2


def naive_romano_wolf(p_value, totals, drawn):
    """Step-down by explicit loops: smallest p-value of the genes still in play, draw by draw."""
    n_genes = len(p_value)
    order = np.argsort(p_value)
    df = len(totals) - 2
    drawn_p = np.stack([2 * stats.t.sf(np.abs(naive_t(totals, sign)), df) for sign in drawn[1:]])
    result, before = np.empty(n_genes), 0.0
    for step, gene in enumerate(order):
        smallest = drawn_p[:, order[step:]].min(axis=1)
        raw = ((smallest <= p_value[gene]).sum() + 1) / len(drawn)
        before = max(before, raw)
        result[gene] = max(before, p_value[gene])
    return result


def test_romano_wolf_equals_a_loop():
    rng = np.random.default_rng(4)
    totals = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(20, 12))
    totals -= totals.mean(axis=0)
    p_value = rng.uniform(size=12) ** 4
    drawn = signs(20, 300, seed=0)
    np.testing.assert_allclose(romano_wolf(p_value, totals, drawn), naive_romano_wolf(p_value, totals, drawn))


def test_romano_wolf_is_ordered_passes_nan_on_and_beats_holm_for_copies():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(50, 1))
    totals = np.tile(one - one.mean(), 600)
    p_value = np.full(600, 0.02)
    p_value[7], p_value[8] = np.nan, 0.5
    adjusted = romano_wolf(p_value, totals, signs(50, 2000, seed=0))
    assert np.isnan(adjusted[7])
    assert 0.015 <= adjusted[0] <= 0.03  # copies of one test; Holm would give 1
    assert adjusted[8] >= 0.45
    assert (np.delete(adjusted, 7) >= np.delete(p_value, 7)).all()


def test_romano_wolf_controls_the_family_wise_error():
    rng = np.random.default_rng(0)
    wrong = 0
    drawn = signs(30, 400, seed=0)
    for _ in range(300):
        totals = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 15)) + rng.normal(size=(30, 15))
        p_value = stats.ttest_1samp(totals, 0.0).pvalue
        p_value[:5] = 1e-6  # true effects
        adjusted = romano_wolf(p_value, totals - totals.mean(axis=0), drawn)
        wrong += (adjusted[5:] <= 0.05).any()
    assert 0.02 <= wrong / 300 <= 0.09
