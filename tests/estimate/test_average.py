from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgraphvci.estimate import EffectSums, Groups, marginal_effects
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._clusters import small_sample_factor
from scgraphvci.estimate._influence import influence_function, point_estimates, stratum_moments


def observed_values(cells, x):
    """Observed difference and influence values of one stratum."""
    rows = np.flatnonzero(cells.stratum == x)
    outcome, treatment = cells.outcome[rows], cells.treatment[rows]
    phi = np.zeros_like(outcome)
    effect = np.zeros(outcome.shape[1])
    for role, sign in [(0, 1), (1, -1)]:
        arm = treatment == role
        effect += sign * outcome[arm].mean(axis=0)
        phi[arm] = sign * len(rows) / arm.sum() * (outcome[arm] - outcome[arm].mean(axis=0))
    return effect, phi, rows


def averaged(sums, reported, estimator="observed"):
    moments = stratum_moments(sums)
    average = StratumAverage.of(moments, np.asarray(reported), max(reported) + 1)
    return average, moments, influence_function(moments, estimator), getattr(point_estimates(moments), estimator)


def cluster_variance(average, sums, moments, influence, effect):
    n_clusters = average.clusters(sums).n
    totals = average.cluster_totals(sums, moments, influence, effect)
    return small_sample_factor(n_clusters)[:, None] * (totals**2).sum(axis=1), n_clusters


def test_weights_are_shares_of_cells_with_both_arms(make_cells):
    cells = make_cells(n_strata=4)
    cells.treatment[(cells.stratum == 1) & (cells.treatment == 1)] = 2  # no reference here
    average, *_, effect = averaged(cells.sums(), [0, 0, 0, 1])
    size = np.bincount(cells.stratum)
    expected = (size[0] * effect[0] + size[2] * effect[2]) / (size[0] + size[2])
    np.testing.assert_allclose(average.mean(effect)[0], expected, rtol=1e-12)
    np.testing.assert_allclose(average.mean(effect)[1], effect[3], rtol=1e-12)
    assert average.used.tolist() == [True, False, True, True]
    assert average.n_used.tolist() == [size[0] + size[2], size[3]]


def test_a_single_cell_enters_only_where_no_stratum_has_two(make_cells):
    cells = make_cells(n_strata=4)
    for x in (1, 3):
        treated = np.flatnonzero((cells.stratum == x) & (cells.treatment == 0))
        cells.treatment[treated[1:]] = 2
    average, *_ = averaged(cells.sums(), [0, 0, 0, 1])
    assert average.used.tolist() == [True, False, True, True]
    assert average.covered.tolist() == [True, True]


def test_where_no_stratum_has_both_arms_all_are_used(make_cells):
    cells = make_cells(n_strata=2)
    cells.treatment[cells.treatment == 0] = 2
    average, *_ = averaged(cells.sums(), [0, 0])
    assert average.used.all()
    assert not average.covered.any()


def test_cell_variance_adds_over_strata(make_cells):
    cells = make_cells()
    average, moments, influence, _ = averaged(cells.sums(), [0, 0, 0])
    variance, df = average.cell_variance(moments, influence)
    parts = []  # of one stratum and arm: weighted variance of its mean, cells less one
    for x in range(3):
        weight = (cells.stratum == x).mean()
        for role in (0, 1):
            arm = cells.outcome[(cells.stratum == x) & (cells.treatment == role)]
            parts.append((weight**2 * arm.var(axis=0, ddof=1) / len(arm), len(arm) - 1))
    total = sum(part for part, _ in parts)
    np.testing.assert_allclose(variance[0], total, rtol=1e-9)
    np.testing.assert_allclose(df[0], total**2 / sum(part**2 / freedom for part, freedom in parts), rtol=1e-9)


def test_one_stratum_is_welchs_test(make_cells):
    cells = make_cells(n_strata=1)
    average, moments, influence, effect = averaged(cells.sums(), [0])
    variance, df = average.cell_variance(moments, influence)
    welch = stats.ttest_ind(cells.outcome[cells.treatment == 0], cells.outcome[cells.treatment == 1], equal_var=False)
    np.testing.assert_allclose(effect[0] / np.sqrt(variance[0]), welch.statistic, rtol=1e-9)
    np.testing.assert_allclose(df[0], welch.df, rtol=1e-9)


def test_cluster_variance_equals_the_naive_computation(make_cells):
    cells = make_cells(n_strata=4)
    reported = np.array([0, 1, 0, 0])
    cells.treatment[(cells.stratum == 2) & (cells.treatment == 1)] = 2
    sums = cells.sums(clustered=True)
    average, moments, influence, effect = averaged(sums, reported)
    variance, n_clusters = cluster_variance(average, sums, moments, influence, effect)
    for r, strata in [(0, [0, 3]), (1, [1])]:
        parts = [observed_values(cells, x) for x in strata]
        n_cells = sum(len(rows) for *_, rows in parts)
        mean = sum(len(rows) * psi for psi, _, rows in parts) / n_cells
        total = np.zeros((5, cells.outcome.shape[1]))
        for psi, phi, rows in parts:
            for k, cell in enumerate(rows):
                total[cells.cluster[cell]] += phi[k] + psi - mean
        np.testing.assert_allclose(variance[r], 5 / 4 * (total**2).sum(axis=0) / n_cells**2, rtol=1e-9)
        assert n_clusters[r] == 5


def test_the_order_of_groups_does_not_matter(make_cells):
    cells = make_cells(n_strata=4)
    sums, shuffled = cells.sums(clustered=True), cells.sums(clustered=True)
    order = np.random.default_rng(0).permutation(sums.groups.n_groups)
    shuffled.groups = Groups(sums.groups.stratum[order], sums.groups.cluster[order], 4)
    shuffled.count, shuffled.row = sums.count[order], sums.row[order]
    totals = []
    for one in (sums, shuffled):
        average, moments, influence, effect = averaged(one, [0, 1, 2, 3], "robust")
        totals.append(average.cluster_totals(one, moments, influence, effect))
    np.testing.assert_allclose(totals[0], totals[1], rtol=0, atol=1e-12)


def test_one_cell_per_cluster_is_the_variance_of_cells(make_cells):
    cells = make_cells(n_strata=1)
    cells.cluster = np.arange(len(cells.stratum))
    sums = cells.sums(clustered=True)
    average, moments, influence, effect = averaged(sums, [0], "robust")
    by_cluster, n_clusters = cluster_variance(average, sums, moments, influence, effect)
    by_cell, _ = average.cell_variance(moments, influence)
    assert n_clusters[0] == min((cells.treatment == 0).sum(), (cells.treatment == 1).sum())
    np.testing.assert_allclose(by_cluster, by_cell, rtol=0.05)


def test_strata_nested_in_clusters_vary_by_their_effects(make_cells):
    cells = make_cells(n_strata=4)
    cells.cluster = cells.stratum
    sums = cells.sums(clustered=True)
    average, moments, influence, effect = averaged(sums, [0, 0, 0, 0])
    variance, n_clusters = cluster_variance(average, sums, moments, influence, effect)
    share = np.bincount(cells.stratum) / len(cells.stratum)
    deviation = share[:, None] * (effect - share @ effect)
    np.testing.assert_allclose(variance[0], 4 / 3 * (deviation**2).sum(axis=0), rtol=1e-9)
    assert n_clusters.tolist() == [4]


def test_clusters_are_those_of_the_scarcer_arm(make_cells):
    cells = make_cells(n_strata=1, n_clusters=6)
    cells.treatment[(cells.treatment == 0) & (cells.cluster > 1)] = 2
    sums = cells.sums(clustered=True)
    average, moments, influence, effect = averaged(sums, [0])
    assert cluster_variance(average, sums, moments, influence, effect)[1].tolist() == [2]


def test_sums_without_clusters_are_refused(make_cells):
    cells = make_cells()
    groups, group = Groups.from_codes(cells.stratum, n_blocks=0)
    sums = EffectSums(groups, 4, with_reference=False)
    sums.update(cells.outcome, cells.predicted, None, cells.treatment == 0, None, group)
    average, moments, influence, effect = averaged(sums, [0, 1, 2])
    with pytest.raises(ValueError, match="no clusters"):
        cluster_variance(average, sums, moments, influence, effect)


def test_strata_of_one_donor_each_are_summed_by_donor():
    """As many groups as reported strata times donors, and yet a donor with two groups and one with none."""
    rng = np.random.default_rng(0)
    donor = np.array([0, 0, 1, 2, 0, 1, 2, 3])  # of each stratum; the last donor lacks the first reported stratum
    stratum, arm = np.repeat(np.arange(8), 60), np.tile(np.arange(60) % 2, 8)
    outcome = arm[:, None] * 2 * rng.normal(size=(4, 1))[donor[stratum]] + 0.3 * rng.normal(size=(480, 3))
    variances = []
    for code in (donor, np.where(donor == 3, 9, donor)):
        groups, group = Groups.from_codes(stratum, code[stratum])
        sums = EffectSums(groups, 3)
        sums.update(outcome, np.zeros((480, 3)), np.zeros((480, 3)), arm == 1, arm == 0, group)
        average, moments, influence, effect = averaged(sums, [0, 0, 0, 0, 1, 1, 1, 1])
        totals = average.cluster_totals(sums, moments, influence, effect)
        variances.append(average.clusters(sums).variance_of(totals))
    np.testing.assert_allclose(*variances)
    by_stratum = np.stack([
        outcome[(stratum == x) & (arm == 1)].mean(axis=0) - outcome[(stratum == x) & (arm == 0)].mean(axis=0)
        for x in range(8)
    ])  # fmt: skip
    total = [0.25 * (by_stratum[:2] - by_stratum[:4].mean(axis=0)).sum(axis=0)]
    total += [0.25 * (by_stratum[x] - by_stratum[:4].mean(axis=0)) for x in (2, 3)]
    effective = 1 / (0.5**2 + 0.25**2 + 0.25**2)
    expected = effective / (effective - 1) * np.square(total).sum(axis=0)
    np.testing.assert_allclose(variances[0][0], expected, rtol=1e-10)


def test_intervals_and_bands_cover_with_donors_of_unequal_size():
    """Six donors of 5 cells and six of 60, with donor effects in level and effect."""
    rng = np.random.default_rng(0)
    n_replicates, n_genes = 300, 20
    donor = np.repeat(np.arange(12), [5] * 6 + [60] * 6)
    n, sd = len(donor), np.sqrt(0.1 / 0.9)
    stratum, arm = np.repeat(np.arange(n_replicates), n), np.tile(np.arange(n) % 2 == 0, n_replicates)
    level, response = sd * rng.normal(size=(2, n_replicates * 12, n_genes))
    here = stratum * 12 + np.tile(donor, n_replicates)
    outcome = rng.normal(size=(len(stratum), n_genes)) + level[here] + arm[:, None] * response[here]
    groups, group = Groups.from_codes(stratum, np.tile(donor, n_replicates))
    sums = EffectSums(groups, n_genes)
    zero = np.zeros_like(outcome)
    sums.update(outcome, zero, zero, arm, ~arm, group)
    effects = marginal_effects(
        [("a", sums)], strata=pd.DataFrame({"s": range(n_replicates)}), genes=range(n_genes), estimator="observed"
    )
    pointwise = ((effects.ci_low <= 0) & (effects.ci_high >= 0)).mean()
    low, high, method = effects.joint_bands()
    assert 0.93 <= pointwise <= 0.97
    assert ((low <= 0) & (high >= 0)).all(axis=2).mean() >= 0.912  # .95 less three Monte-Carlo errors
    assert (method == "bonferroni").all()
