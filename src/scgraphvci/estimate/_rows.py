"""Estimates of one treatment, and their errors where the data allow one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scgraphvci.estimate._accumulate import ARM, OUTCOME, REFERENCE, FloatArray, IntArray, membership
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._clusters import Clusters
from scgraphvci.estimate._estimands import Estimand, compared, error_variance
from scgraphvci.estimate._influence import Estimator, Moments
from scgraphvci.estimate._status import status_of

_RESOLUTION = 1e-7  # of float32, relative: an outcome that varies less is constant


@dataclass(frozen=True)
class Rows:
    """What `MarginalEffects` holds for one treatment, without its leading axis."""

    estimate: FloatArray
    std_error: FloatArray
    df: FloatArray
    robust: FloatArray
    observed: FloatArray
    plugin: FloatArray
    n_treated: IntArray
    n_reference: IntArray
    n_stratum: IntArray
    n_clusters: IntArray
    share: FloatArray
    status: NDArray[np.object_]


def estimate_rows(
    moments: Moments,
    average: StratumAverage,
    clusters: Clusters | None,
    estimator: Estimator,
    estimand: Estimand,
    pseudocount: float,
    min_cells: int,
    min_counts: float,
    totals: FloatArray | None,
) -> tuple[Rows, FloatArray, FloatArray]:
    """Return what is estimated, and variance and degrees of freedom of all genes, with an error or without.

    `totals` are those of the clusters or blocks, if there are any; what influence values do not tell is added to them.
    """
    n_reported = average.n_reported
    averaged = compared(estimand, moments, average, pseudocount)
    to_reported = membership(average.reported, n_reported)
    n_used = to_reported @ (moments.count * average.used[:, None])
    n_all = to_reported @ moments.count

    dependent = None if clusters is None or clusters.independent or estimator == "plugin" else clusters
    variance, df = np.full_like(averaged.plugin, np.nan), np.full((n_reported, 1), np.nan)
    if dependent is not None and totals is not None:
        variance, df = dependent.variance_of(totals), (dependent.effective - 1.0)[:, None]
    elif estimator != "plugin":
        variance, df = error_variance(moments, average, estimator, estimand, pseudocount)

    if estimator == "robust" and moments.unexpected is not None:
        unexpected = average.unexpected_variance(moments)
        if totals is not None:  # scaled, so that bands, contrasts and averages hold it, too
            relative = np.divide(unexpected, variance, out=np.zeros_like(variance), where=variance > 0)
            totals *= np.sqrt(1 + relative)[:, None]
        variance = variance + unexpected

    n_clusters = None if dependent is None else dependent.n
    status = status_of(n_used, n_all, average.covered, n_clusters, min_cells, with_reference=moments.with_reference)

    estimate = getattr(averaged, estimator)
    if estimator == "robust":
        estimate = np.where((status == "extrapolated")[:, None], averaged.plugin, estimate)
    has_error = (status == "ok")[:, None] & _varies(moments, average)
    if min_counts > 0:
        has_error &= _expected_counts(moments, average) >= min_counts
    n_stratum = n_all.sum(axis=1)
    rows = Rows(
        estimate=estimate,
        std_error=np.where(has_error, np.sqrt(variance), np.nan),
        df=np.where(has_error, df, np.nan),
        robust=averaged.robust,
        observed=averaged.observed,
        plugin=averaged.plugin,
        n_treated=n_all[:, ARM],
        n_reference=n_all[:, REFERENCE],
        n_stratum=n_stratum,
        n_clusters=np.zeros(n_reported, dtype=np.int64) if n_clusters is None else n_clusters,
        share=average.n_used / np.maximum(n_stratum, 1),
        status=status,
    )
    return rows, variance, df


def _varies(moments: Moments, average: StratumAverage) -> NDArray[np.bool_]:
    """Genes whose outcome varies within an arm, ``(n_reported, n_genes)``: elsewhere an error would be of rounding."""
    arms = [ARM, REFERENCE] if moments.with_reference else [ARM]
    product = moments.product[moments.pairs.index((OUTCOME, OUTCOME))][:, arms]
    size = moments.count[:, arms, None] * moments.mean[OUTCOME][:, arms] ** 2
    varies = (product > _RESOLUTION**2 * size).any(axis=1) & average.used[:, None]
    return membership(average.reported, average.n_reported) @ varies.astype(np.int64) > 0


def _expected_counts(moments: Moments, average: StratumAverage) -> FloatArray:
    r"""Cells of the smaller arm times the mean outcome over both arms, ``(n_reported, n_genes)``.

    Less where counts vary much more than Poisson variables do. With r the variance over the mean, the squared skewness
    of a mean of N negative binomial counts in all is :math:`(2 r - 1)^2 / (r N)`; at most four times that of N Poisson
    counts is accepted, so N counts as :math:`N \min(1, 4 r / (2 r - 1)^2)`.
    """
    arms = [ARM, REFERENCE] if moments.with_reference else [ARM]
    count = moments.count[:, arms] * average.used[:, None]
    to_reported = membership(average.reported, average.n_reported).astype(np.float64)
    total = to_reported @ np.einsum("xr,xrg->xg", count.astype(np.float64), moments.mean[OUTCOME][:, arms])
    cells = to_reported @ count
    share = cells.min(axis=1) / np.maximum(cells.sum(axis=1), 1)
    square = moments.product[moments.pairs.index((OUTCOME, OUTCOME))][:, arms].sum(axis=1)
    square = to_reported @ np.where(average.used[:, None], square, 0.0)
    over_mean = np.maximum(np.divide(square, total, out=np.ones_like(total), where=total > 0), 1.0)
    return np.asarray(total * share[:, None] * np.minimum(4 * over_mean / (2 * over_mean - 1) ** 2, 1.0))
