r"""Bands of means of counts, which are skewed.

A studentised mean of skewed outcomes misses to one side: where the mean comes out small, so does its error. Far out,
where bands are read, that matters long after it has ceased to matter for a single interval. Hall's transformation
(Journal of the Royal Statistical Society B 1992) of a t statistic takes the skewness :math:`\gamma` of the mean out,

.. math::
    T(t) = t + \frac{\gamma}{3} t^2 + \frac{\gamma^2}{27} t^3 + \frac{\gamma}{6},

and its inverse says how much further the band must reach on the side to which it misses. The third cumulant need not
be estimated from third powers, which a few cells cannot do: for counts that are negative binomial with mean
:math:`\mu` and variance :math:`V` it is :math:`V (2 V / \mu - 1)`.
"""

from __future__ import annotations

import numpy as np

from scgraphvci.estimate._accumulate import ARM, OUTCOME, PREDICTED, PREDICTED_REFERENCE, REFERENCE, FloatArray
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._influence import Estimator, Moments


def third_cumulant(moments: Moments, average: StratumAverage, estimator: Estimator) -> FloatArray:
    """Third cumulant of an average of differences of mean counts (of means without a reference), cells independent.

    What an arm adds is that of its mean residual; predictions are averaged over all cells, and add next to nothing.

    Returns
    -------
    Shape ``(n_reported, n_genes)``, in units of the outcome to the third power.
    """
    cumulant = _of_arm(moments, estimator, ARM, PREDICTED)
    if moments.with_reference:
        cumulant = cumulant - _of_arm(moments, estimator, REFERENCE, PREDICTED_REFERENCE)
    return np.asarray(average.weight.power(3) @ np.where(average.used[:, None], cumulant, 0.0))


def _of_arm(moments: Moments, estimator: Estimator, role: int, variable: int) -> FloatArray:
    """Third cumulant of the mean residual of an arm, ``(n_strata, n_genes)``; 0 where it has no cell."""
    product = dict(zip(moments.pairs, moments.product[:, :, role], strict=True))
    variance = product[OUTCOME, OUTCOME].copy()
    if estimator == "robust":
        share = moments.trust[:, role, None]
        variance += share**2 * product[variable, variable] - 2 * share * product[OUTCOME, variable]
    count = moments.count[:, role, None].astype(np.float64)
    variance = np.maximum(variance, 0.0) / np.maximum(count - 1, 1)
    mean = moments.mean[OUTCOME, :, role]
    over_mean = np.divide(variance, mean, out=np.zeros_like(variance), where=(mean > 0) & (count > 0))
    return variance * np.maximum(2 * over_mean - 1, 0.0) / np.maximum(count, 1) ** 2


def reach(quantile: FloatArray, skewness: FloatArray) -> tuple[FloatArray, FloatArray]:
    """How far a band reaches below and above the estimate, in standard errors: nowhere less than `quantile`.

    Parameters
    ----------
    quantile
        Of the t statistic, were it symmetric.
    skewness
        Of the estimate, broadcast against `quantile`.

    Examples
    --------
    >>> import numpy as np
    >>> below, above = reach(np.array([3.3]), np.array([0.12]))
    >>> below.round(2).tolist(), above.round(2).tolist()
    ([3.3], [3.9])
    """
    # With more skewness the cubic is flat where it is to be inverted, and its inverse says nothing.
    size = np.minimum(np.abs(skewness), 3 * (np.sqrt(quantile**2 + 2 / 3) - quantile))
    known = size > np.finfo(np.float32).eps
    safe = np.where(known, size, 1.0)
    cube = np.maximum(1 - safe * (quantile + safe / 6), 0.0)
    further = np.where(known, np.maximum(3 / safe * (1 - np.cbrt(cube)), quantile), quantile)
    return np.where(skewness < 0, further, quantile), np.where(skewness > 0, further, quantile)
