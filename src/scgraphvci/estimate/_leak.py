r"""How far predictions tell the arms of a stratum apart: the assumption of Eq. 4, measured.

Eq. 4 adds to the observed mean of the arm the mean prediction over the stratum less that over the arm,

.. math::
    \hat\Psi - \bar Y_a = \bar m - \bar m_a = -(1 - \pi) (\bar m_a - \bar m_{\mathrm{rest}}),

and is unbiased only if the same prediction has the same mean in both arms. The difference
:math:`\bar m_a - \bar m_{\mathrm{rest}}` is the leak: how much of the treatment received is still in the prediction.
If predictions of every cell contain a share l of the effect of what the cell received, then the mean under a
treatment is off by :math:`-(1 - \pi) l` times the difference between arm and rest. In the contrast of two arms the
mean of the rest cancels, and with it :math:`\pi`: the contrast is off by :math:`-l` times the effect, whatever the
arms' sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from scgraphvci.estimate._accumulate import (
    ARM,
    OUTCOME,
    PREDICTED,
    REFERENCE,
    REST,
    EffectSums,
    FloatArray,
    IntArray,
)
from scgraphvci.estimate._average import StratumAverage, cluster_variance_of, small_sample_factor
from scgraphvci.estimate._influence import (
    Influence,
    Moments,
    cells_by_stratum,
    influence_function,
    influence_totals,
    point_estimates,
)
from scgraphvci.estimate._multiplier import signs

N_DRAWS = 1999
"""Sign changes of the leak test."""
TOLERATED = 0.17
"""Mean squared bias, in squared standard errors, with which 95 % intervals still hold the truth in 93 % of cases."""


_ROUNDING = 1e-10  # a share is of order 1: errors below are those of sums over predictions that do not vary


@dataclass(frozen=True)
class Leaks:
    """What is known of the leak, arrays with leading axes ``(n_treatments, n_strata)``, those over genes float32.

    Parameters
    ----------
    leak, leak_error
        Mean prediction under the treatment in the arm less that in the rest of the stratum, and its standard error,
        ``(..., n_genes)``; NaN where a side has no cells.
    leak_reference, leak_reference_error
        The same, less that in the reference arm.
    df
        Degrees of freedom of both errors: the fewest over genes.
    dispersion
        Mean over genes of the squared t statistic of `robust` less `observed`: one if predictions know nothing of these
        cells but what the arms have in common, above one with a leak, below one if they were fitted to these cells.
    p_any
        P-value that `robust` and `observed` estimate the same in all genes, whatever the direction.
    p_fitted
        P-value that they agree no better than chance allows.
    share, share_error, share_df
        Share of the predicted effect that leaks, its standard error and degrees of freedom.
    excess, excess_share
        Squared bias that a leak leaves in `robust` as it was made, with a guard or without, in squared standard errors
        of the estimate. In any direction: the square of `robust` less `observed`, less what it has by chance and what
        errors allow for, which may be negative. Along the effect: that of the share that leaks. Means over genes with
        an error, the second and, if larger, the first weighted by squared predicted effects over errors.
    p_any_made, p_share_made
        P-values of the same tests of `robust` as it was made, where that is with other predictions than the model's;
        NaN where it is not.
    """

    leak: NDArray[np.float32]
    leak_error: NDArray[np.float32]
    leak_reference: NDArray[np.float32]
    leak_reference_error: NDArray[np.float32]
    df: FloatArray
    dispersion: FloatArray
    p_any: FloatArray
    p_fitted: FloatArray
    share: FloatArray
    share_error: FloatArray
    share_df: FloatArray
    excess: FloatArray
    excess_share: FloatArray
    p_any_made: FloatArray
    p_share_made: FloatArray

    def take(self, treatments: IntArray, strata: IntArray) -> Leaks:
        """The same for some treatments and strata."""
        chosen = np.ix_(treatments, strata)
        return Leaks(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    @property
    def p_share(self) -> FloatArray:
        """Two-sided p-value that no share of the predicted effect leaks, by a t-test."""
        return _p_share(self.share, self.share_error, self.share_df)

    @property
    def p_value(self) -> FloatArray:
        """P-value of the omnibus test: twice the smaller of `p_any` and `p_share`, at most one."""
        both = np.stack([self.p_any, self.p_share])
        n_tests = np.isfinite(both).sum(axis=0)
        smaller = np.where(np.isfinite(both), both, 1.0).min(axis=0)
        return np.where(n_tests > 0, np.minimum(n_tests * smaller, 1.0), np.nan)

    def harmful(self, alpha: float) -> NDArray[np.bool_]:
        """Rows in which a leak is found at a level, and what was found is large enough to matter for intervals."""
        of_model = np.isnan(self.p_any_made)
        p_any = np.where(of_model, self.p_any, self.p_any_made)
        p_share = np.where(of_model, self.p_share, self.p_share_made)
        n_tests = np.isfinite(p_any).astype(np.int64) + np.isfinite(p_share)
        in_any_direction = (n_tests * p_any <= alpha) & (self.excess >= TOLERATED)
        return in_any_direction | ((n_tests * p_share <= alpha) & (self.excess_share >= TOLERATED))


def measure_leak(
    sums: EffectSums,
    moments: Moments,
    average: StratumAverage,
    std_error: FloatArray,
    made: tuple[EffectSums, Moments] | None = None,
) -> Leaks:
    """Leak of one treatment, arrays without the leading axis of treatments.

    `std_error` is that of the estimate, ``(n_reported, n_genes)``, NaN where there is none; `made` are sums and moments
    with the predictions of `robust`, where these are not the model's.

    Raises
    ------
    ValueError
        If the sums have neither clusters nor blocks.
    """
    as_made = moments
    moments = replace(moments, trust=np.ones_like(moments.trust))  # what the model leaks, whatever is made of it
    differences = [_difference_by_stratum(moments, [REFERENCE, REST])]
    if sums.with_reference:
        differences.append(_difference_by_stratum(moments, [REFERENCE]))
    null = _uncentred(moments, _bias_influence(moments))
    clustered = differences if sums.groups.clustered else []
    influences = [average.with_heterogeneity(influence, effect) for effect, influence in clustered]
    *of_differences, under_null = (
        average.by_cluster(sums, total) for total in influence_totals(sums, moments, *influences, null)
    )
    leak, leak_error, df = _difference(sums, moments, average, *differences[0], of_differences[:1])
    reference, reference_error = np.full_like(leak, np.nan), np.full_like(leak, np.nan)
    if sums.with_reference:
        reference, reference_error, _ = _difference(sums, moments, average, *differences[1], of_differences[1:])
    tests = _joint_tests(sums, moments, average, null, under_null)
    if made is None:
        unknown = np.full(average.n_reported, np.nan)
        use = {"p_any_made": unknown, "p_share_made": unknown}
        use |= _excess(sums, as_made, moments, average, std_error, under_null, tests)
    else:
        use = _use(*made, average, std_error)
    return Leaks(
        leak=leak.astype(np.float32),
        leak_error=leak_error.astype(np.float32),
        leak_reference=reference.astype(np.float32),
        leak_reference_error=reference_error.astype(np.float32),
        df=df,
        **tests,
        **use,
    )


def _use(sums: EffectSums, as_made: Moments, average: StratumAverage, std_error: FloatArray) -> dict[str, FloatArray]:
    """Tests and size of the bias of `robust` made with other predictions than the model's: entries of `Leaks`."""
    moments = replace(as_made, trust=np.ones_like(as_made.trust))
    null = _uncentred(moments, _bias_influence(moments))
    under_null = average.by_cluster(sums, influence_totals(sums, moments, null)[0])
    tests = _joint_tests(sums, moments, average, null, under_null)
    p_share = _p_share(tests["share"], tests["share_error"], tests["share_df"])
    found = _excess(sums, as_made, moments, average, std_error, under_null, tests)
    return {"p_any_made": tests["p_any"], "p_share_made": p_share, **found}


def _excess(
    sums: EffectSums,
    as_made: Moments,
    published: Moments,
    average: StratumAverage,
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
    variance = average.cell_variance(as_made, _bias_influence(as_made))[0]
    if sums.groups.clustered:
        of_cells = average.cell_variance(published, _bias_influence(published))[0]
        of_clusters = cluster_variance_of(under_null, average.effective_clusters(sums))
        variance *= np.divide(of_clusters, of_cells, out=np.ones_like(variance), where=of_cells > 0)
    variance += average.unexpected_variance(as_made)
    known = (std_error > 0) & np.isfinite(bias)
    precision = np.divide(1.0, std_error**2, out=np.zeros_like(bias), where=known)
    in_errors = np.where(known, bias**2 - variance, 0.0) * precision
    excess, along = _weighted_mean(in_errors, known), np.full(len(bias), np.nan)
    if sums.with_reference:
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


def _p_share(share: FloatArray, error: FloatArray, df: FloatArray) -> FloatArray:
    known = error > _ROUNDING
    t = np.divide(share, error, out=np.full_like(share, np.nan), where=known)
    return np.asarray(2.0 * special.stdtr(df, -np.abs(t)))


def _point_bias(moments: Moments) -> FloatArray:
    """`robust` less `observed` of every stratum, ``(n_strata, n_genes)``."""
    estimates = point_estimates(moments)
    return estimates.robust - estimates.observed


def _weighted_mean(value: FloatArray, weight: FloatArray | NDArray[np.bool_]) -> FloatArray:
    """Mean over genes, ``(n_reported,)``; NaN where nothing has weight."""
    total = weight.sum(axis=1, dtype=np.float64)
    weighted = np.where(weight > 0, value * weight, 0.0).sum(axis=1)
    return np.divide(weighted, total, out=np.full(len(total), np.nan), where=total > 0)


def _difference(
    sums: EffectSums,
    moments: Moments,
    average: StratumAverage,
    effect: FloatArray,
    influence: Influence,
    totals: list[FloatArray],
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Average of a difference in mean predictions: estimate, standard error, degrees of freedom.

    With clusters the error follows from their totals, the only entry of the list.
    """
    estimate = average.mean(effect)
    df: FloatArray
    if totals:
        effective = average.effective_clusters(sums)
        variance = cluster_variance_of(totals[0], effective)
        df = effective - 1.0
    else:
        variance, by_gene = average.cell_variance(moments, influence)
        df = np.asarray(np.where(np.isfinite(by_gene), by_gene, np.inf).min(axis=1, initial=np.inf))
    df[~(np.isfinite(df) & (df >= 1))] = np.nan
    return estimate, np.where(np.isfinite(estimate) & np.isfinite(df)[:, None], np.sqrt(variance), np.nan), df


def _difference_by_stratum(moments: Moments, others: list[int]) -> tuple[FloatArray, Influence]:
    """Return the difference in every stratum, NaN where a side is empty, and its influence function."""
    mean = moments.mean[PREDICTED]
    count = moments.count.astype(np.float64)
    n_other = count[:, others].sum(axis=1)
    other = (count[:, others, None] * mean[:, others]).sum(axis=1) / np.maximum(n_other, 1)[:, None]
    weight = np.zeros((*moments.mean.shape[:1], *count.shape))
    intercept = np.zeros(mean.shape)
    weight[PREDICTED, :, ARM] = moments.n_cells / np.maximum(count[:, ARM], 1)
    for role in others:
        weight[PREDICTED, :, role] = -moments.n_cells / np.maximum(n_other, 1)
        occupied = (count[:, role] > 0)[:, None]
        intercept[:, role] = np.where(occupied, weight[PREDICTED, :, role, None] * (mean[:, role] - other), 0.0)
    both = ((count[:, ARM] > 0) & (n_other > 0))[:, None]
    return np.where(both, mean[:, ARM] - other, np.nan), Influence(weight, intercept)


def _joint_tests(
    sums: EffectSums, moments: Moments, average: StratumAverage, null: Influence, under_null: FloatArray
) -> dict[str, FloatArray]:
    """Tests over all genes of every reported stratum: entries of `Leaks`, ``(n_reported,)``.

    `under_null` are totals of clusters of `null`, the influence function of the bias if arms do not differ.
    """
    estimates = point_estimates(moments)
    influence = _bias_influence(moments)
    by_stratum = estimates.robust - estimates.observed
    bias = np.where(average.covered[:, None], average.mean(by_stratum), np.nan)
    # Clusters bring their own strata, whose biases may differ.
    effect = np.where(np.isfinite(by_stratum), by_stratum, 0.0) if sums.groups.clustered else np.zeros_like(by_stratum)
    # What centring on the arms adds to `under_null`, the same for all cells of a stratum and role.
    centring = influence.intercept + average.heterogeneity(effect)[:, None] - null.intercept
    variance, _ = average.cell_variance(moments, influence)
    precision = 1.0 / _prediction_variance(moments, average)
    n_clusters, effective = average.n_clusters(sums), average.effective_clusters(sums)
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
    for row in np.flatnonzero(average.covered & (n_clusters > 1)):
        present = under_null[row].any(axis=1)
        tests["p_any"][row], tests["p_fitted"][row] = sign_test(under_null[row, present])
        if varies[row].any():
            tests["dispersion"][row] = np.mean(bias[row, varies[row]] ** 2 / variance[row, varies[row]])
        if weight[row].any():
            norm = weight[row] @ shift[row]
            spread = (brought[row] ** 2).sum() * small_sample_factor(effective[row])
            tests["share"][row] = -(weight[row] @ bias[row]) / norm
            tests["share_error"][row] = np.sqrt(spread) / norm
            tests["share_df"][row] = effective[row] - 1.0
    return tests


def _prediction_variance(moments: Moments, average: StratumAverage) -> FloatArray:
    """Variance of predictions within strata and roles, pooled, ``(n_reported, n_genes)``; infinite where it is zero.

    Weights of genes rest on it and not on the variance of their bias: that comes from few cells or clusters, and
    genes that seem precise by chance would be preferred.
    """
    product = moments.product[moments.pairs.index((PREDICTED, PREDICTED))].sum(axis=1)
    variance = average.mean(product / np.maximum(moments.n_cells, 1)[:, None])
    return np.where(variance > 0, variance, np.inf)


def _bias_influence(moments: Moments) -> Influence:
    """Influence function of `robust` less `observed`."""
    robust = influence_function(moments, "robust")  # that of `observed` is its part in the outcome
    weight = robust.weight.copy()
    weight[OUTCOME] = 0.0
    return Influence(weight, robust.intercept)


def _uncentred(moments: Moments, influence: Influence) -> Influence:
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
