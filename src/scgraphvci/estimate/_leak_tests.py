"""Tests that predictions tell the arms of a stratum apart: see `_leak`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special

from scgraphvci.estimate._accumulate import OUTCOME, PREDICTED, EffectSums, FloatArray
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._clusters import Clusters, small_sample_factor
from scgraphvci.estimate._influence import Influence, Moments, cells_by_stratum, influence_function, point_estimates
from scgraphvci.estimate._multiplier import signs

N_DRAWS = 1999
"""Sign changes of the leak test."""
_ROUNDING = 1e-10  # a share is of order 1: errors below are those of sums over predictions that do not vary


def joint_tests(
    sums: EffectSums,
    moments: Moments,
    average: StratumAverage,
    clusters: Clusters,
    null: Influence,
    under_null: FloatArray,
) -> dict[str, FloatArray]:
    """Tests over all genes of every reported stratum: entries of `Leaks`, ``(n_reported,)``.

    `under_null` are totals of clusters of `null`, the influence function of the bias if arms do not differ.
    """
    estimates = point_estimates(moments)
    influence = bias_influence(moments)
    by_stratum = estimates.robust - estimates.observed
    bias = np.where(average.covered[:, None], average.mean(by_stratum), np.nan)
    # Clusters bring their own strata, whose biases may differ.
    effect = (
        np.where(np.isfinite(by_stratum), by_stratum, 0.0) if not clusters.independent else np.zeros_like(by_stratum)
    )
    # What centring on the arms adds to `under_null`, the same for all cells of a stratum and role.
    centring = influence.intercept + average.heterogeneity(effect)[:, None] - null.intercept
    variance, _ = average.cell_variance(moments, influence)
    precision = 1.0 / _prediction_variance(moments, average)
    varies = variance > 0
    # Direction in which a leak would push. Predicted by all cells, it is uncorrelated with differences between arms.
    shift = np.where(varies, average.mean(estimates.plugin), 0.0) if sums.with_reference else np.zeros_like(bias)
    weight = shift * precision
    brought = np.einsum("xcg,xg->xc", under_null, weight)
    brought += average.by_cluster(
        sums, cells_by_stratum(sums) @ np.einsum("srg,sg->sr", centring, weight[average.reported]).reshape(-1, 1)
    )[:, :, 0]

    names = ("dispersion", "p_any", "p_fitted", "share", "share_error", "share_df")
    tests = {name: np.full(len(bias), np.nan) for name in names}
    for row in np.flatnonzero(average.covered & (clusters.n > 1)):
        present = under_null[row].any(axis=1)
        tests["p_any"][row], tests["p_fitted"][row] = sign_test(under_null[row, present])
        if varies[row].any():
            tests["dispersion"][row] = np.mean(bias[row, varies[row]] ** 2 / variance[row, varies[row]])
        if weight[row].any():
            norm = weight[row] @ shift[row]
            spread = (brought[row] ** 2).sum() * small_sample_factor(clusters.effective[row])
            tests["share"][row] = -(weight[row] @ bias[row]) / norm
            tests["share_error"][row] = np.sqrt(spread) / norm
            tests["share_df"][row] = clusters.effective[row] - 1.0
    return tests


def p_share_of(share: FloatArray, error: FloatArray, df: FloatArray) -> FloatArray:
    known = error > _ROUNDING
    t = np.divide(share, error, out=np.full_like(share, np.nan), where=known)
    return np.asarray(2.0 * special.stdtr(df, -np.abs(t)))


def _prediction_variance(moments: Moments, average: StratumAverage) -> FloatArray:
    """Variance of predictions within strata and roles, pooled, ``(n_reported, n_genes)``; infinite where it is zero.

    Weights of genes rest on it and not on the variance of their bias: that comes from few cells or clusters, and
    genes that seem precise by chance would be preferred.
    """
    product = moments.product[moments.pairs.index((PREDICTED, PREDICTED))].sum(axis=1)
    variance = average.mean(product / np.maximum(moments.n_cells, 1)[:, None])
    return np.where(variance > 0, variance, np.inf)


def bias_influence(moments: Moments) -> Influence:
    """Influence function of `robust` less `observed`."""
    robust = influence_function(moments, "robust")  # that of `observed` is its part in the outcome
    weight = robust.weight.copy()
    weight[OUTCOME] = 0.0
    return Influence(weight, robust.intercept)


def uncentred(moments: Moments, influence: Influence) -> Influence:
    """The same as it is if arms do not differ: every cell less the mean of its stratum, not of its arm."""
    from_stratum = moments.mean - moments.stratum_mean[:, :, None]
    return Influence(influence.weight, np.einsum("vsr,vsrg->srg", influence.weight, from_stratum))


@lru_cache(maxsize=4)
def _draws(n_clusters: int) -> FloatArray:
    """Signs of the clusters in every draw, drawn once for all strata."""
    return signs(n_clusters, N_DRAWS, seed=0).astype(np.float64)


def sign_test(brought: FloatArray) -> tuple[float, float]:
    """Test that the bias of all genes is zero by changing the signs of whole clusters.

    If arms do not differ, what a cluster brings to the bias is symmetric around zero, independently of other clusters.
    All sign changes are then equally likely, however genes are correlated and however many there are. The statistic is
    the sum over genes of squared t statistics: a quadratic form in the signs, for which the clusters x clusters matrix
    of products is enough.

    Parameters
    ----------
    brought
        What every cluster brings to the bias, ``(n_clusters, n_genes)``.

    Returns
    -------
    P-values of a statistic this large, and of one this small.
    """
    square = np.einsum("cg,cg->g", brought, brought)
    if not square.any():
        return np.nan, np.nan
    unit = brought * np.sqrt(np.divide(1.0, square, out=np.zeros_like(square), where=square > 0))
    products = unit @ unit.T
    drawn = _draws(len(brought))
    statistic = ((drawn @ products) * drawn).sum(axis=1)
    tolerance = 1e-9 * float(np.trace(products))  # of rounding: the observed signs are among those drawn
    return float((statistic >= statistic[0] - tolerance).mean()), float((statistic <= statistic[0] + tolerance).mean())
