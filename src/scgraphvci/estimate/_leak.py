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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scgraphvci.estimate._accumulate import (
    ARM,
    PREDICTED,
    REFERENCE,
    REST,
    EffectSums,
    FloatArray,
    IntArray,
)
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._clusters import Clusters
from scgraphvci.estimate._influence import (
    Influence,
    Moments,
    influence_totals,
)
from scgraphvci.estimate._leak_size import squared_bias
from scgraphvci.estimate._leak_tests import bias_influence, joint_tests, p_share_of, uncentred

TOLERATED = 0.17
"""Mean squared bias, in squared standard errors, with which 95 % intervals still hold the truth in 93 % of cases."""


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
        return p_share_of(self.share, self.share_error, self.share_df)

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
    clusters: Clusters,
    std_error: FloatArray,
    made: tuple[EffectSums, Moments] | None = None,
) -> Leaks:
    """Leak of one treatment, arrays without the leading axis of treatments.

    `clusters` are those of the average; `std_error` is that of the estimate, ``(n_reported, n_genes)``, NaN where there
    is none; `made` are sums and moments with the predictions of `robust`, where these are not the model's.

    Raises
    ------
    ValueError
        If the sums have neither clusters nor blocks.
    """
    as_made = moments
    if (moments.trust != 1).any():
        moments = replace(moments, trust=np.ones_like(moments.trust))  # what the model leaks, whatever is made of it
    differences = [_difference_by_stratum(moments, [REFERENCE, REST])]
    if sums.with_reference:
        differences.append(_difference_by_stratum(moments, [REFERENCE]))
    null = uncentred(moments, bias_influence(moments))
    dependent = [] if clusters.independent else differences
    influences = [average.with_heterogeneity(influence, effect) for effect, influence in dependent]
    *of_differences, under_null = (
        average.by_cluster(sums, total) for total in influence_totals(sums, moments, *influences, null)
    )
    leak, leak_error, df = _difference(moments, average, clusters, *differences[0], of_differences[:1])
    reference, reference_error = np.full_like(leak, np.nan), np.full_like(leak, np.nan)
    if sums.with_reference:
        reference, reference_error, _ = _difference(moments, average, clusters, *differences[1], of_differences[1:])
    tests: dict[str, NDArray[Any]] = joint_tests(sums, moments, average, clusters, null, under_null)
    if made is None:
        unknown = np.full(average.n_reported, np.nan)
        use: dict[str, NDArray[Any]] = {"p_any_made": unknown, "p_share_made": unknown}
        use |= squared_bias(as_made, moments, average, clusters, std_error, under_null, tests)
    else:
        use = _use(*made, average, clusters, std_error)
    return Leaks(
        leak=leak.astype(np.float32),
        leak_error=leak_error.astype(np.float32),
        leak_reference=reference.astype(np.float32),
        leak_reference_error=reference_error.astype(np.float32),
        df=df,
        **tests,
        **use,
    )


def _use(
    sums: EffectSums, as_made: Moments, average: StratumAverage, clusters: Clusters, std_error: FloatArray
) -> dict[str, NDArray[Any]]:
    """Tests and size of the bias of `robust` made with other predictions than the model's: entries of `Leaks`."""
    moments = replace(as_made, trust=np.ones_like(as_made.trust))
    null = uncentred(moments, bias_influence(moments))
    under_null = average.by_cluster(sums, influence_totals(sums, moments, null)[0])
    tests = joint_tests(sums, moments, average, clusters, null, under_null)
    p_share = p_share_of(tests["share"], tests["share_error"], tests["share_df"])
    found = squared_bias(as_made, moments, average, clusters, std_error, under_null, tests)
    return {"p_any_made": tests["p_any"], "p_share_made": p_share, **found}


def _difference(
    moments: Moments,
    average: StratumAverage,
    clusters: Clusters,
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
        variance = clusters.variance_of(totals[0])
        df = clusters.effective - 1.0
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
