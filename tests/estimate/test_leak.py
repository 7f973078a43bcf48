"""Leak: against definitions cell by cell, closed forms, and its level over replicates."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgraphvci.estimate import EffectSums, Groups, marginal_effects
from scgraphvci.estimate._leak import TOLERATED
from scgraphvci.estimate._leak_tests import sign_test

GENES = ["g0", "g1", "g2", "g3"]


def estimate(sums, n_strata=3, genes=GENES, **options):
    return marginal_effects([("a", sums)], strata=pd.DataFrame({"s": range(n_strata)}), genes=genes, **options)


def arms(cells, x):
    here = cells.stratum == x
    return (cells.predicted[here & (cells.treatment == role)] for role in (0, 1, 2))


def test_leak_is_the_difference_of_the_same_prediction(make_cells):
    cells = make_cells()
    frame = estimate(cells.sums()).leakage().to_frame()
    for x in range(3):
        arm, reference, rest = arms(cells, x)
        row = frame[frame["s"] == x]
        other = np.concatenate([reference, rest])
        np.testing.assert_allclose(row["leak"], arm.mean(0) - other.mean(0), rtol=1e-5)
        np.testing.assert_allclose(row["leak_reference"], arm.mean(0) - reference.mean(0), rtol=1e-5)
        welch = stats.ttest_ind(arm, reference, equal_var=False)
        t = row["leak_reference"] / row["leak_reference_error"]
        np.testing.assert_allclose(t, welch.statistic, rtol=1e-5)
        within = sum(len(r) * r.var(0, ddof=1) + len(r) * (r.mean(0) - other.mean(0)) ** 2 for r in (reference, rest))
        expected = np.sqrt(arm.var(0, ddof=1) / len(arm) + within / len(other) ** 2)
        np.testing.assert_allclose(row["std_error"], expected, rtol=1e-5)


def test_two_arms_alone_are_welchs_test(make_cells):
    cells = make_cells()
    cells.treatment[cells.treatment == 2] = 1
    frame = estimate(cells.sums()).leakage().to_frame()
    for x in range(3):
        arm, reference, _ = arms(cells, x)
        welch = stats.ttest_ind(arm, reference, equal_var=False)
        row = frame[frame["s"] == x]
        np.testing.assert_allclose(row["leak"] / row["std_error"], welch.statistic, rtol=1e-5)
        np.testing.assert_allclose(row["p_value"].min(), welch.pvalue.min(), rtol=0.05)  # fewest df over genes


def test_clustered_error_is_that_of_cluster_totals(make_cells):
    cells = make_cells()
    cells.treatment[cells.treatment == 2] = 1
    frame = estimate(cells.sums(clustered=True)).leakage().to_frame()
    for x in range(3):
        here = cells.stratum == x
        m, treated, cluster = cells.predicted[here], cells.treatment[here] == 0, cells.cluster[here]
        phi = np.where(treated[:, None], (m - m[treated].mean(0)) / treated.sum(), 0.0)
        phi -= np.where(treated[:, None], 0.0, (m - m[~treated].mean(0)) / (~treated).sum())
        totals = np.stack([phi[cluster == k].sum(0) for k in range(5)])
        shares = [np.bincount(cluster[arm]) / arm.sum() for arm in (treated, ~treated)]
        effective = min(1 / (share**2).sum() for share in shares)
        expected = np.sqrt(effective / (effective - 1) * (totals**2).sum(0))
        np.testing.assert_allclose(frame.loc[frame["s"] == x, "std_error"], expected, rtol=1e-5)


def test_bias_is_what_the_leaks_of_both_arms_do(make_cells):
    cells = make_cells()
    frame = estimate(cells.sums()).leakage().to_frame()
    for x in range(3):
        here = cells.stratum == x
        expected = 0.0
        for role, predicted, sign in [(0, cells.predicted, 1), (1, cells.predicted_reference, -1)]:
            arm = cells.treatment[here] == role
            leak = predicted[here][arm].mean(0) - predicted[here][~arm].mean(0)
            expected = expected - sign * (1 - arm.mean()) * leak
        np.testing.assert_allclose(frame.loc[frame["s"] == x, "bias"], expected, atol=1e-9)


def twins(leak, n_arms=2, n_twins=40, n_genes=6):
    """Cells whose states are the same in all arms, so that only the leak tells arms apart."""
    rng = np.random.default_rng(3)
    state = np.tile(rng.normal(size=(n_twins, n_genes)), (n_arms, 1))
    arm = np.repeat(np.arange(n_arms), n_twins)
    effects = np.vstack([rng.normal(size=n_genes), np.zeros(n_genes), rng.normal(size=(n_arms, n_genes))])[:n_arms]
    leaking = state + leak * effects[arm]
    groups, group = Groups.from_codes(np.zeros(len(arm), dtype=int))
    sums = EffectSums(groups, n_genes)
    outcome = state + effects[arm]
    sums.update(outcome, leaking + effects[0], leaking, arm == 0, arm == 1, group)
    return sums, effects[0]


@pytest.mark.parametrize("n_arms", [2, 4])
@pytest.mark.parametrize("leak", [0.0, 0.1, 0.5])
def test_the_contrast_loses_the_share_that_leaks_whatever_the_arms(leak, n_arms):
    sums, effect = twins(leak, n_arms)
    result = estimate(sums, 1, range(6))
    np.testing.assert_allclose(result.observed[0, 0], effect, atol=1e-9)
    np.testing.assert_allclose(result.robust[0, 0], (1 - leak) * effect, atol=1e-9)
    np.testing.assert_allclose(result.leaks.share, leak, atol=1e-9)


def test_the_mean_loses_less_where_more_cells_are_treated():
    """Without a reference the bias is -(1 - propensity) x leak x effect."""
    rng = np.random.default_rng(0)
    treated = np.repeat([True, False], [20, 60])
    state = np.tile(rng.normal(size=(20, 2)), (4, 1))
    groups, group = Groups.from_codes(np.zeros(80, dtype=int))
    sums = EffectSums(groups, 2, with_reference=False)
    leaking = state + 0.3 * 2.0 * treated[:, None]
    sums.update(state + 2.0 * treated[:, None], leaking + 2.0, None, treated, None, group)
    result = estimate(sums, 1, range(2), reference=None)
    np.testing.assert_allclose(result.robust - result.observed, -0.75 * 0.3 * 2.0, atol=1e-9)
    summary = result.leakage().summary()
    assert summary["share"].isna().all()  # no predicted effect without a reference
    assert summary["p_value"].item() == summary["p_any"].item()


def test_sign_test_equals_all_sign_changes():
    brought = np.random.default_rng(0).normal(size=(7, 30)) + 0.5
    scale = np.sqrt((brought**2).sum(0))
    statistics = [(((np.array(s) @ brought) / scale) ** 2).sum() for s in product([1, -1], repeat=7)]
    large, small = sign_test(brought)
    np.testing.assert_allclose(large, np.mean(np.array(statistics) >= statistics[0] - 1e-9))
    np.testing.assert_allclose(small, np.mean(np.array(statistics) <= statistics[0] + 1e-9))


def test_five_clusters_cannot_reject_in_all_directions():
    assert sign_test(np.ones((5, 10)))[0] == 1 / 16


def replicates(leak=0.0, *, n=200, share=0.3, n_donors=0, dip=False, n_replicates=200, n_genes=20):
    """Every stratum is one replicate with correlated genes."""
    rng = np.random.default_rng(5)
    effect = np.random.default_rng(1).normal(size=n_genes)
    stratum = np.repeat(np.arange(n_replicates), n)
    treated = rng.random(len(stratum)) < share
    loading = 0.4 * np.random.default_rng(2).normal(size=(3, n_genes))
    state = rng.normal(size=(len(stratum), 3)) @ loading + rng.normal(size=(len(stratum), n_genes))
    donor = np.tile(np.arange(n) % n_donors, n_replicates) if n_donors else None
    if n_donors:
        state += 0.5 * rng.normal(size=(n_replicates * n_donors, n_genes))[stratum * n_donors + donor]
    leaking = state + leak * treated[:, None] * effect
    if dip:  # predictions from residuals of the arms' own means: what a memorising model does
        arm = stratum * 2 + treated
        sums = np.zeros((2 * n_replicates, n_genes))
        np.add.at(sums, arm, leaking)
        leaking = leaking - (sums / np.bincount(arm)[:, None])[arm]
    groups, group = Groups.from_codes(stratum, donor)
    total = EffectSums(groups, n_genes)
    total.update(state + treated[:, None] * effect, leaking + effect, leaking, treated, ~treated, group)
    return estimate(total, n_replicates, range(n_genes))


@pytest.mark.parametrize("options", [{}, {"share": 0.08}, {"n_donors": 3}, {"n_donors": 12}])
def test_tests_keep_their_level(options):
    leaks = replicates(**options).leaks
    for p_value in (leaks.p_value, leaks.p_any, leaks.p_share, leaks.p_fitted):
        assert (p_value <= 0.05).mean() <= 0.095  # .05 and three Monte-Carlo errors
    if not options:
        assert 0.9 <= leaks.dispersion.mean() <= 1.15
        assert (leaks.p_value <= 0.05).mean() >= 0.01


def test_a_leak_is_found_and_its_size_is_told():
    effects = replicates(leak=0.4, n_replicates=50)
    summary = effects.leakage().summary()
    assert (effects.status == "leak_detected").mean() > 0.85
    assert summary["detected"].equals(pd.Series(effects.status[0] == "leak_detected", name="detected"))
    np.testing.assert_allclose(summary["share"].mean(), 0.4, atol=0.03)
    covered = (summary["share_low"] <= 0.4) & (0.4 <= summary["share_high"])
    assert covered.mean() >= 0.85


def test_the_detectable_share_is_found_with_the_power_stated():
    detectable = replicates(n_replicates=50).leakage().summary()["share_detectable"].mean()
    found = replicates(leak=detectable).leaks.p_share <= 0.05
    assert 0.7 <= found.mean() <= 0.9


def test_predictions_fitted_to_the_cells_are_noticed():
    leaks = replicates(dip=True, n_replicates=50).leaks
    assert (leaks.p_fitted <= 0.01).all()
    assert (leaks.dispersion < 1e-6).all()
    assert (leaks.p_value > 0.05).all()


def test_status_is_of_robust_alone(make_cells):
    sums, _ = twins(0.5)
    assert estimate(sums, 1, range(6)).status.item() == "leak_detected"
    assert np.isfinite(estimate(sums, 1, range(6)).std_error).all()
    assert estimate(sums, 1, range(6), estimator="observed").status.item() == "ok"


def test_rows_without_an_arm_have_no_leak(make_cells):
    cells = make_cells()
    cells.treatment[(cells.stratum == 1) & (cells.treatment == 0)] = 2
    effects = estimate(cells.sums())
    assert effects.status[0, 1] == "extrapolated"
    report = effects.leakage()
    numbers = ["p_value", "share", "dispersion", "p_fitted"]
    assert report.summary().loc[1, numbers].isna().all()
    assert report.summary().loc[[0, 2], numbers].notna().all(axis=None)
    assert report.to_frame(strata={"s": 1})[["leak", "std_error", "bias"]].isna().all(axis=None)
    assert "tested: 2 of 3" in repr(report)


def test_detectable_is_in_units_of_outcome_and_of_errors(make_cells):
    effects = estimate(make_cells().sums())
    frame = effects.leakage().to_frame("a", {"s": 2}, ["g3", "g1"])
    assert frame["gene"].tolist() == ["g3", "g1"]
    df = effects.leaks.df[0, 2]
    expected = (stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)) * frame["std_error"]
    np.testing.assert_allclose(frame["detectable"], expected)
    reach = stats.t.ppf(0.975, df) * frame["std_error"]
    np.testing.assert_allclose(frame[["ci_low", "ci_high"]].T, [frame["leak"] - reach, frame["leak"] + reach])
    np.testing.assert_allclose(frame["detectable_in_errors"], expected / effects.std_error[0, 2, [3, 1]])


def test_without_blocks_there_is_no_report(make_cells):
    cells = make_cells()
    groups, group = Groups.from_codes(cells.stratum, n_blocks=0)
    sums = EffectSums(groups, 4)
    sums.update(
        cells.outcome, cells.predicted, cells.predicted_reference, cells.treatment == 0, cells.treatment == 1, group
    )
    effects = estimate(sums)
    with pytest.raises(ValueError, match="no leak measured"):
        effects.leakage()
    with pytest.raises(ValueError, match="no influence totals"):
        effects.joint_bands()
    np.testing.assert_allclose(effects.std_error, estimate(cells.sums()).std_error, rtol=1e-9)


def screens(leak, *, noise, n_replicates=60, n=400, arm_variance=0.0):
    """Replicates with outcomes that predictions tell the fewer of, the larger the noise."""
    rng = np.random.default_rng(3)
    stratum, n_genes = np.repeat(np.arange(n_replicates), n), 40
    treated = np.tile(np.arange(n) % 4 == 0, n_replicates)
    effect = np.where(np.arange(n_genes) % 2 == 0, 1.0, 0.0)
    state = rng.normal(size=(len(stratum), n_genes))
    leaking = state + leak * treated[:, None] * effect
    outcome = state + treated[:, None] * effect + noise * rng.normal(size=state.shape)
    groups, group = Groups.from_codes(stratum)
    sums = EffectSums(groups, n_genes)
    sums.update(outcome, leaking + effect, leaking, treated, ~treated, group)
    effects = estimate(sums, n_replicates, range(n_genes), arm_variance=arm_variance)
    bias = leak * effect[None, :]
    return effects, ((effects.ci_low[0] <= effect) & (effect <= effects.ci_high[0]))[:, effect > 0].mean(), bias


@pytest.mark.parametrize(
    ("leak", "noise", "arm_variance", "flagged", "covers"),
    [
        (0.15, 0.3, 0.0, True, (0.0, 0.8)),  # as large as the errors: found, and it matters
        (0.15, 6.0, 0.0, False, (0.94, 0.96)),  # found as surely, and a fourteenth of an error
        (0.15, 0.3, 1.0, False, (0.93, 0.96)),  # what the guard lets through does not matter
    ],
)
def test_a_leak_found_flips_the_status_only_if_intervals_suffer(leak, noise, arm_variance, flagged, covers):
    effects, coverage, _ = screens(leak, noise=noise, arm_variance=arm_variance)
    summary = effects.leakage().summary()
    assert summary["detected"].mean() > 0.9
    assert ((effects.status[0] == "leak_detected").mean() > 0.9) == flagged
    assert ((effects.status[0] == "leak_detected").mean() < 0.1) == (not flagged)
    assert covers[0] <= coverage <= covers[1]
    assert (summary["bias_in_errors"].median() >= np.sqrt(TOLERATED)) == flagged


def test_the_bias_in_errors_is_that_of_the_estimates():
    """Against the bias known here: root mean square over genes with an effect, which hold the weight."""
    effects, _, bias = screens(0.3, noise=1.0)
    true = np.sqrt(((bias / effects.std_error[0]) ** 2)[:, bias[0] > 0].mean())
    assert effects.leakage().summary()["bias_in_errors"].mean() == pytest.approx(true, rel=0.1)


def test_what_is_tolerated_costs_two_hundredths_of_coverage():
    shift = np.sqrt(TOLERATED)
    covered = stats.norm.cdf(stats.norm.ppf(0.975) - shift) - stats.norm.cdf(stats.norm.ppf(0.025) - shift)
    assert covered == pytest.approx(0.93, abs=0.002)
