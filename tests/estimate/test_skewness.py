"""Skewness of mean counts, and bands that allow for it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgraphvci.estimate import EffectSums, Groups, marginal_effects
from scgraphvci.estimate._skewness import reach

N_GENES = 20


def counts(n_strata, n_treated, n_control, mean=2.0, seed=0, **options):
    """Effects on negative binomial counts (shape 5) without a difference; every stratum a screen of its own."""
    rng = np.random.default_rng(seed)
    n = n_treated + n_control
    stratum, treated = np.repeat(np.arange(n_strata), n), np.tile(np.arange(n) < n_treated, n_strata)
    known = rng.gamma(20.0, 1 / 20.0, size=(len(stratum), N_GENES)) * mean
    outcome = rng.poisson(known * rng.gamma(5.0, 0.2, size=known.shape)).astype(float)
    groups, group = Groups.from_codes(stratum, seed=1)
    sums = EffectSums(groups, N_GENES)
    sums.update(outcome, known, known, treated, ~treated, group)
    options = {"estimator": "observed", "min_counts": 100.0, **options}
    return marginal_effects(
        [("a", sums)], strata=pd.DataFrame({"screen": range(n_strata)}), genes=range(N_GENES), **options
    )


@pytest.mark.parametrize("estimator", ["observed", "robust"])
@pytest.mark.parametrize(("n_treated", "n_control"), [(60, 600), (600, 60)])
def test_the_third_cumulant_is_that_of_the_estimates(estimator, n_treated, n_control):
    """Over 400 screens x 20 genes; with the smaller arm as reference it changes its sign."""
    effects = counts(400, n_treated, n_control, estimator=estimator)
    true = stats.skew(effects.estimate.ravel())
    stated = np.median(effects.third_cumulant / effects.std_error**3)
    assert abs(true) > 0.1
    assert stated == pytest.approx(true, rel=0.25)


def test_reach_is_the_inverse_of_halls_transformation():
    gamma, quantile = np.array([0.02, 0.1, 0.2]), np.array([2.0, 3.3, 4.0])
    below, above = reach(quantile, gamma)
    np.testing.assert_array_equal(below, quantile)
    t = -above
    np.testing.assert_allclose(t + gamma / 3 * t**2 + gamma**2 / 27 * t**3 + gamma / 6, -quantile, rtol=1e-10)
    mirrored = reach(quantile, -gamma)
    np.testing.assert_array_equal(mirrored[0], above)
    np.testing.assert_array_equal(mirrored[1], quantile)
    for same in reach(quantile, np.zeros(3)):
        np.testing.assert_array_equal(same, quantile)
    assert np.isfinite(reach(quantile, np.array([0.5, 5.0, 50.0]))[1]).all()


def test_bands_of_counts_hold():
    """Fixed seed, 300 screens of 60 treated cells with 2 counts each."""
    effects = counts(300, 60, 540)
    low, high, method = effects.joint_bands()
    assert set(method.ravel()) == {"multiplier_bootstrap"}
    inside = ((low <= 0) & (high >= 0)).all(axis=2).mean()
    reached = (effects.estimate - low)[0]
    symmetric = (np.abs(effects.estimate[0]) <= reached).all(axis=1).mean()
    assert 0.93 <= inside <= 0.97
    assert symmetric < inside - 0.03
    assert ((high - effects.estimate)[0] > reached).all()


def test_what_follows_from_a_result_keeps_the_cumulant():
    fine = counts(3, 80, 400)
    size = (fine.n_stratum / fine.n_stratum.sum())[0, :, None]
    pooled = fine.pool()
    np.testing.assert_allclose(pooled.third_cumulant[0, 0], (size**3 * fine.third_cumulant[0]).sum(axis=0))
    other = counts(3, 80, 400, seed=1)
    contrast = fine.contrast(other, independent=True)
    np.testing.assert_allclose(contrast.third_cumulant, fine.third_cumulant - other.third_cumulant)
    assert fine.select(strata={"screen": 1}).third_cumulant.shape == (1, 1, N_GENES)


@pytest.mark.parametrize("options", [{"min_counts": 0.0}, {"estimand": "log_fold_change"}, {"estimator": "plugin"}])
def test_nothing_else_is_taken_for_skewed(options):
    assert counts(2, 80, 400, **options).third_cumulant is None


@pytest.mark.parametrize(("n_treated", "mean", "shape", "known"), [(40, 4, 0.3, False), (150, 2, 1.0, True)])
def test_genes_that_vary_much_need_more_counts(n_treated, mean, shape, known):
    """160 counts of variance 14 times the mean are too skewed; 300 of three times the mean are not."""
    rng = np.random.default_rng(0)
    n_replicates, n = 150, n_treated + 300
    outcome = rng.poisson(rng.gamma(shape, mean / shape, size=(n_replicates * n, 20))).astype(float)
    stratum, arm = np.repeat(np.arange(n_replicates), n), np.tile(np.arange(n) < n_treated, n_replicates)
    groups, group = Groups.from_codes(stratum)
    sums = EffectSums(groups, 20)
    zero = np.zeros_like(outcome)
    sums.update(outcome, zero, zero, arm, ~arm, group)
    effects = marginal_effects(
        [("a", sums)], strata=pd.DataFrame({"s": range(n_replicates)}), genes=range(20), estimator="observed",
        min_counts=100.0,
    )  # fmt: skip
    has_error = np.isfinite(effects.std_error)
    assert has_error.mean() > 0.95 if known else has_error.mean() < 0.01
    if known:
        covers = ((effects.ci_low <= 0) & (effects.ci_high >= 0))[has_error].mean()
        assert 0.93 <= covers <= 0.97
