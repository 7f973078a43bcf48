"""How large the bias is that a leak leaves in an estimate, in its standard errors: see `_leak`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scgraphvci.estimate._accumulate import FloatArray
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._clusters import Clusters
from scgraphvci.estimate._influence import Moments, point_estimates
from scgraphvci.estimate._leak_tests import bias_influence


def squared_bias(
    as_made: Moments,
    published: Moments,
    average: StratumAverage,
    clusters: Clusters,
    std_error: FloatArray,
    under_null: FloatArray,
    tests: dict[str, FloatArray],
) -> dict[str, FloatArray]:
    """Squared bias of `robust` as it was made, see `Leaks`, ``(n_reported,)``; NaN where no gene has an error.

    `under_null` are totals of clusters of the bias of Eq. 4 as `published`: they say by how much the variance between
    clusters exceeds that between cells.
    """
    estimates = point_estimates(as_made)
    bias = average.mean(_point_bias(as_made))
    variance = average.cell_variance(as_made, bias_influence(as_made))[0]
    if not clusters.independent:
        of_cells = average.cell_variance(published, bias_influence(published))[0]
        of_clusters = clusters.variance_of(under_null)
        variance *= np.divide(of_clusters, of_cells, out=np.ones_like(variance), where=of_cells > 0)
    variance += average.unexpected_variance(as_made)
    known = (std_error > 0) & np.isfinite(bias)
    precision = np.divide(1.0, std_error**2, out=np.zeros_like(bias), where=known)
    in_errors = np.where(known, bias**2 - variance, 0.0) * precision
    excess, along = _weighted_mean(in_errors, known), np.full(len(bias), np.nan)
    if clusters.with_reference:
        predicted = np.where(known, average.mean(estimates.plugin), 0.0)
        weight = predicted**2 * precision
        excess = np.fmax(excess, _weighted_mean(in_errors, weight))
        # The share found, as far as the guard lets it through, and less what it is by chance.
        published_bias = average.mean(_point_bias(published))
        size = np.where(known, published_bias, 0.0) ** 2 * precision
        passed = _weighted_mean(np.divide(bias, published_bias, out=np.zeros_like(bias), where=size > 0), size)
        share = np.maximum(tests["share"] ** 2 - tests["share_error"] ** 2, 0.0) * passed**2
        along = share * _weighted_mean(predicted**2 * precision, weight)
    return {"excess": excess, "excess_share": along}


def _point_bias(moments: Moments) -> FloatArray:
    """`robust` less `observed` of every stratum, ``(n_strata, n_genes)``."""
    estimates = point_estimates(moments)
    return estimates.robust - estimates.observed


def _weighted_mean(value: FloatArray, weight: FloatArray | NDArray[np.bool_]) -> FloatArray:
    """Mean over genes, ``(n_reported,)``; NaN where nothing has weight."""
    total = weight.sum(axis=1, dtype=np.float64)
    weighted = np.where(weight > 0, value * weight, 0.0).sum(axis=1)
    return np.divide(weighted, total, out=np.full(len(total), np.nan), where=total > 0)
