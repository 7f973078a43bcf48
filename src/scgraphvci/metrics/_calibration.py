"""Whether intervals hold what they promise, and whether a metric can tell good predictions from bad on a data set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scgraphvci.metrics._arrays import same_shape


class IntervalCoverage(NamedTuple):
    """How often intervals hold the truth, and how wide they are."""

    coverage: float
    """Share of true values inside their intervals."""
    width: float
    """Mean width of the intervals, in units of the values."""


def interval_coverage(true: np.ndarray, low: np.ndarray, high: np.ndarray) -> IntervalCoverage:
    r"""Coverage of intervals, :math:`\frac{1}{G} \sum \mathbf{1}[l \le y \le h]`, and their mean width.

    Primary. Coverage ranges over [0, 1] and should be the nominal level, say .95: neither more nor less. At equal
    coverage, narrower intervals (in units of expression) are better; wide enough intervals cover without information.

    Parameters
    ----------
    true
        True values held out from the fit, shape ``(n_genes,)``.
    low, high
        Ends of the intervals, shape ``(n_genes,)``; entries with NaN in any of the three do not count.

    Returns
    -------
    `coverage` and `width`, NaN where no entry counts.

    Raises
    ------
    ValueError
        If shapes differ, or an interval ends before it starts.

    Examples
    --------
    >>> import numpy as np
    >>> interval_coverage(np.array([0.0, 5.0]), low=np.array([-1.0, 1.0]), high=np.array([1.0, 3.0]))
    IntervalCoverage(coverage=0.5, width=2.0)
    """
    true, low, high = same_shape(1, true=true, low=low, high=high)
    known = ~np.isnan(true + low + high)
    true, low, high = true[known], low[known], high[known]
    if (low > high).any():
        msg = f"{(low > high).sum()} intervals have `low` above `high`. Swap the ends."
        raise ValueError(msg)
    if true.size == 0:
        return IntervalCoverage(float("nan"), float("nan"))
    return IntervalCoverage(float(np.mean((low <= true) & (true <= high))), float(np.mean(high - low)))


def dynamic_range_fraction(duplicate: float, baseline: float, perfect: float) -> float:
    """Dynamic range fraction (DRF) of a metric, (duplicate - baseline) / (perfect - baseline).

    The part of the way from an uninformative baseline to a perfect score that a duplicate experiment covers, for any
    direction of the metric (Miller et al., 2025). Range [-1, 1], clipped; 1 is best, 0 means that the metric cannot
    tell a replicate from a baseline on these data. The published formula adds 1e-6 to the denominator, which is left
    out here: it changes the sign for errors of that size.

    Parameters
    ----------
    duplicate, baseline
        Values of the metric for a technical or interpolated duplicate and for an uninformative baseline.
    perfect
        Value of the metric for a perfect prediction.

    Returns
    -------
    NaN where the baseline is perfect, so that the metric has no range.

    Examples
    --------
    >>> dynamic_range_fraction(duplicate=0.75, baseline=0.5, perfect=1.0)
    0.5
    """
    if perfect == baseline:
        return float("nan")
    return float(np.clip((duplicate - baseline) / (perfect - baseline), -1, 1))


def bound_discrimination_score(positive: np.ndarray, negative: np.ndarray, higher_is_better: bool) -> float:
    """Bound discrimination score (BDS): share of treatments where the positive control beats the negative one.

    Equal values count half. Range [0, 1]; .5 means that the metric cannot tell them apart (scPertEval, 2026).

    Parameters
    ----------
    positive, negative
        Values of the metric for a duplicate and for an uninformative baseline, shape ``(n,)``: one per treatment and
        stratum. Pairs with NaN do not count.
    higher_is_better
        Direction of the metric.

    Returns
    -------
    NaN where no pair counts.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> bound_discrimination_score(np.array([0.9, 0.8]), np.array([0.5, 0.85]), higher_is_better=True)
    0.5
    """
    positive, negative = same_shape(1, positive=positive, negative=negative)
    gain = positive - negative if higher_is_better else negative - positive
    gain = gain[~np.isnan(gain)]
    return float(np.mean(np.where(gain == 0, 0.5, gain > 0))) if gain.size else float("nan")
