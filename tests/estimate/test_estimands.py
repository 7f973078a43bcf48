from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.estimate import EffectSums, Groups, coarsen_strata, marginal_effects

GENES = ["g0", "g1", "g2", "g3"]
STRATA = pd.DataFrame({"s": ["x", "y", "z"]})


def positive(cells):
    for name in ("outcome", "predicted", "predicted_reference"):
        setattr(cells, name, np.exp(0.3 * getattr(cells, name)))
    return cells


def estimate(cells, *, clustered=False, **options):
    return marginal_effects([("a", cells.sums(clustered=clustered))], strata=STRATA, genes=GENES, **options)


def arm_means(cells, x):
    here = cells.stratum == x
    return [cells.outcome[here & (cells.treatment == role)] for role in (0, 1)]


def test_ratio_and_fold_change_of_observed_means(make_cells):
    cells = positive(make_cells())
    ratio = estimate(cells, estimator="observed", estimand="ratio", pseudocount=0.5)
    fold = estimate(cells, estimator="observed", estimand="log_fold_change", pseudocount=0.5)
    for x in range(3):
        treated, reference = arm_means(cells, x)
        a, b = treated.mean(0) + 0.5, reference.mean(0) + 0.5
        va, vb = (arm.var(0, ddof=1) / len(arm) for arm in (treated, reference))
        np.testing.assert_allclose(ratio.estimate[0, x], a / b, rtol=1e-9)
        np.testing.assert_allclose(ratio.std_error[0, x], np.sqrt(va / b**2 + a**2 * vb / b**4), rtol=1e-9)
        np.testing.assert_allclose(fold.estimate[0, x], np.log2(a / b), rtol=1e-9)
        np.testing.assert_allclose(fold.std_error[0, x], np.sqrt(va / a**2 + vb / b**2) / np.log(2), rtol=1e-9)
    assert "log fold change to 'control'" in repr(fold)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("estimand", ["ratio", "log_fold_change"])
def test_error_is_the_spread_of_the_transformed_estimate(make_cells, estimand, clustered):
    """The delta method against its definition: the derivative along each cluster's influence, by finite differences."""
    cells = positive(make_cells(n_clusters=20))
    result = estimate(cells, clustered=clustered, estimand=estimand)
    totals = result.influence.total.astype(float)
    if clustered:
        n = result.influence.effective[:, :, None]
        np.testing.assert_allclose(np.sqrt(n / (n - 1) * (totals**2).sum(axis=2)), result.std_error, rtol=1e-4)
    plain = estimate(cells, clustered=clustered)
    means = marginal_effects(
        [("a", cells.sums(clustered=clustered, with_reference=False))], strata=STRATA, genes=GENES, reference=None
    )
    arm, difference = means.robust, plain.robust
    step = 1e-6
    total_arm, total_difference = means.influence.total.astype(float), plain.influence.total.astype(float)

    def value(a, d):
        ratio = a / (a - d)
        return ratio if estimand == "ratio" else np.log2(ratio)

    moved = value(arm[:, :, None] + step * total_arm, difference[:, :, None] + step * total_difference)
    expected = (moved - value(arm, difference)[:, :, None]) / step
    np.testing.assert_allclose(totals, expected, atol=1e-6 + 1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(result.robust, value(arm, difference), rtol=1e-9)


def test_means_are_standardised_before_they_are_compared(make_cells):
    cells = positive(make_cells())
    strata, reported = coarsen_strata(STRATA, [])
    result = marginal_effects(
        [("a", cells.sums())], strata=strata, genes=GENES, reported=reported, estimator="observed", estimand="ratio"
    )
    weight = np.bincount(cells.stratum) / len(cells.stratum)
    arms = [arm_means(cells, x) for x in range(3)]
    upper = sum(w * arm[0].mean(0) for w, arm in zip(weight, arms, strict=True))
    lower = sum(w * arm[1].mean(0) for w, arm in zip(weight, arms, strict=True))
    np.testing.assert_allclose(result.estimate[0, 0], upper / lower, rtol=1e-9)


def test_a_ratio_is_tested_against_one(make_cells):
    cells = positive(make_cells())
    ratio = estimate(cells, estimator="observed", estimand="ratio")
    t = (ratio.estimate - 1) / ratio.std_error
    assert ((np.abs(t) > 3) == (ratio.p_value < 0.005)).mean() > 0.9
    assert (ratio.p_value[np.abs(t) < 0.5] > 0.5).all()


def test_means_that_are_not_positive_have_no_fold_change(make_cells):
    cells = positive(make_cells())
    cells.outcome[:, 2] -= 10
    fold = estimate(cells, estimator="observed", estimand="log_fold_change")
    for value in (fold.estimate, fold.std_error, fold.p_value):
        assert np.isnan(value[..., 2]).all()
        assert np.isfinite(np.delete(value, 2, axis=-1)).all()
    low, high, _ = fold.joint_bands()
    assert np.isfinite(np.delete(high - low, 2, axis=-1)).all()


def test_fold_change_intervals_cover():
    """3,000 negative binomial genes, each a replicate."""
    rng = np.random.default_rng(2)
    treated = np.arange(600) % 3 == 0
    state = np.exp(0.3 * rng.normal(size=(600, 3000)) - 0.045)
    predicted = 4.0 * state
    outcome = rng.poisson(np.where(treated[:, None], 2 * predicted, predicted) * rng.gamma(5, 0.2, size=state.shape))
    groups, group = Groups.from_codes(np.zeros(600, dtype=int))
    sums = EffectSums(groups, 3000)
    sums.update(outcome, 2 * predicted, predicted, treated, ~treated, group)
    for estimator in ("observed", "robust"):
        fold = marginal_effects(
            [("a", sums)], strata=pd.DataFrame(index=[0]), genes=range(3000), estimator=estimator,
            estimand="log_fold_change", keep_influence=False,
        )  # fmt: skip
        assert 0.935 <= ((fold.ci_low <= 1.0) & (1.0 <= fold.ci_high)).mean() <= 0.965


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimand": "odds"}, "'odds'"),
        ({"estimand": "ratio", "pseudocount": -1}, "`pseudocount` is -1"),
        ({"estimand": "ratio", "max_leak": 0.1}, "'ratio'"),
    ],
)
def test_wrong_estimands_are_refused(make_cells, options, message):
    with pytest.raises(ValueError, match=message):
        estimate(make_cells(), **options)


def test_a_ratio_needs_a_reference(make_cells):
    sums = make_cells().sums(with_reference=False)
    with pytest.raises(ValueError, match="`reference`"):
        marginal_effects([("a", sums)], strata=STRATA, genes=GENES, reference=None, estimand="ratio")
