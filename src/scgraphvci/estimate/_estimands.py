r"""Scales on which two arms are compared, by the delta method.

With means :math:`\mu_a` of the arm and :math:`\mu_0` of the reference, and a pseudocount c:

* difference: :math:`\mu_a - \mu_0`;
* ratio: :math:`(\mu_a + c) / (\mu_0 + c)`;
* log fold change: :math:`\log_2 \left((\mu_a + c) / (\mu_0 + c)\right)`.

Means over several strata are standardised first and compared then. The variance is the quadratic form of the gradient
with variances and covariance of the two means, both from the same influence values.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from scgraphvci.estimate._accumulate import EffectSums, FloatArray
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._influence import Estimates, Estimator, Moments, Part, influence_function, point_estimates

Estimand = Literal["difference", "ratio", "log_fold_change"]

NULL: dict[str, float] = {"difference": 0.0, "ratio": 1.0, "log_fold_change": 0.0}
"""Value of an estimand where the arms have equal means."""


def compare(estimand: Estimand, arm: FloatArray, reference: FloatArray, pseudocount: float) -> FloatArray:
    """Compare two means on the scale of an estimand; NaN where a fold change of means not above zero is asked for."""
    if estimand == "difference":
        return arm - reference
    upper, lower = arm + pseudocount, reference + pseudocount
    ratio = np.divide(upper, lower, out=np.full_like(upper, np.nan), where=(upper > 0) & (lower > 0))
    return ratio if estimand == "ratio" else np.log2(ratio)


def gradient(
    estimand: Estimand, arm: FloatArray, reference: FloatArray, pseudocount: float
) -> tuple[FloatArray, FloatArray]:
    """Derivatives of `compare` by the mean of the arm and by that of the reference."""
    if estimand == "difference":
        return np.ones_like(arm), -np.ones_like(arm)
    ratio = compare("ratio", arm, reference, pseudocount)
    of_arm, of_reference = 1.0 / (reference + pseudocount), -ratio / (reference + pseudocount)
    if estimand == "log_fold_change":
        return of_arm / (ratio * np.log(2)), of_reference / (ratio * np.log(2))
    return np.where(np.isnan(ratio), np.nan, of_arm), of_reference


def standardised(moments: Moments, average: StratumAverage, part: Part) -> Estimates:
    """Estimates averaged over strata, ``(n_reported, n_genes)``; NaN where an arm they need has no cells."""
    by_stratum = point_estimates(moments, part)
    uncovered = ~average.covered[:, None]
    return Estimates(
        robust=np.where(uncovered, np.nan, average.mean(by_stratum.robust)),
        observed=np.where(uncovered, np.nan, average.mean(by_stratum.observed)),
        plugin=average.mean(by_stratum.plugin),
    )


def compared(estimand: Estimand, moments: Moments, average: StratumAverage, pseudocount: float) -> Estimates:
    """The three point estimates of an estimand, ``(n_reported, n_genes)``."""
    if estimand == "difference" or not moments.with_reference:
        return standardised(moments, average, "contrast")
    arm, reference = standardised(moments, average, "arm"), standardised(moments, average, "reference")
    return Estimates(
        **{
            name: compare(estimand, getattr(arm, name), getattr(reference, name), pseudocount)
            for name in ("robust", "observed", "plugin")
        }
    )


def error_variance(
    moments: Moments,
    average: StratumAverage,
    estimator: Estimator,
    estimand: Estimand,
    pseudocount: float,
) -> tuple[FloatArray, FloatArray]:
    """Variance and degrees of freedom of an estimate when cells are independent, each ``(n_reported, n_genes)``.

    Degrees of freedom are those of the difference. With clusters the variance follows from `error_totals`.
    """
    variance, df = _variance_of(moments, average, estimator, "contrast")
    if estimand == "difference" or not moments.with_reference:
        return variance, df
    of_arm, _ = _variance_of(moments, average, estimator, "arm")
    of_reference, _ = _variance_of(moments, average, estimator, "reference")
    covariance = (of_arm + of_reference - variance) / 2.0
    by_arm, by_reference = _gradient_at(moments, average, estimator, estimand, pseudocount)
    total = by_arm**2 * of_arm + by_reference**2 * of_reference + 2 * by_arm * by_reference * covariance
    return np.maximum(total, 0.0), df


def error_totals(
    sums: EffectSums,
    moments: Moments,
    average: StratumAverage,
    estimator: Estimator,
    estimand: Estimand,
    pseudocount: float,
) -> FloatArray:
    """Influence totals of an estimate, ``(n_reported, n_clusters, n_genes)``."""
    if estimand == "difference" or not moments.with_reference:
        return _totals_of(sums, moments, average, estimator, "contrast")
    by_arm, by_reference = _gradient_at(moments, average, estimator, estimand, pseudocount)
    of_arm = _totals_of(sums, moments, average, estimator, "arm")
    of_reference = _totals_of(sums, moments, average, estimator, "reference")
    return by_arm[:, None] * of_arm + by_reference[:, None] * of_reference


def _gradient_at(
    moments: Moments, average: StratumAverage, estimator: Estimator, estimand: Estimand, pseudocount: float
) -> tuple[FloatArray, FloatArray]:
    arm, reference = (getattr(standardised(moments, average, part), estimator) for part in ("arm", "reference"))
    return gradient(estimand, arm, reference, pseudocount)


def _variance_of(
    moments: Moments, average: StratumAverage, estimator: Estimator, part: Part
) -> tuple[FloatArray, FloatArray]:
    return average.cell_variance(moments, influence_function(moments, estimator, part))


def _totals_of(
    sums: EffectSums, moments: Moments, average: StratumAverage, estimator: Estimator, part: Part
) -> FloatArray:
    effect = getattr(point_estimates(moments, part), estimator) if sums.groups.clustered else None
    return average.cluster_totals(sums, moments, influence_function(moments, estimator, part), effect)
