r"""Estimates and influence functions of one treatment, stratum by stratum.

Within a stratum of :math:`n` cells, of which :math:`n_a` received treatment :math:`a`, with outcome :math:`Y_k` and
predicted mean :math:`m_k` of cell :math:`k` under :math:`a`:

* observed: :math:`\bar Y_a`, the mean outcome of the arm;
* plugin: :math:`\bar m`, the mean prediction over all cells of the stratum;
* robust: :math:`\bar Y_a + s (\bar m - \bar m_a)`, which is Eq. 4 of Wu et al. (ICLR 2023) with predictions
  multiplied by :math:`s \le 1`, the trust in their differences between arms (see `_arm_variance`). Where predictions
  come from states of cells (see `_cell_states`) they are trusted, and plugin stays the mean of the model's.

Centred influence values (the arm mean of the residuals is a ratio with an estimated propensity :math:`n_a / n`):

.. math::
    \phi_k = m_k - \bar m + \frac{n}{n_a} 1[T_k = a] \left(Y_k - m_k - (\bar Y_a - \bar m_a)\right)

for robust with :math:`s = 1`, else with :math:`s m` for :math:`m`; :math:`m = 0` gives observed. The contrast to a
reference subtracts the influence values of the same cells. Whatever the estimator, :math:`\phi_k` is linear in the
variables of the cell, with coefficients that depend on its stratum and role alone. Its sum and its sum of squares
therefore need first and second moments only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import sparse

from scgraphvci.estimate._accumulate import (
    ARM,
    N_ROLES,
    OUTCOME,
    PREDICTED,
    PREDICTED_REFERENCE,
    REFERENCE,
    BoolArray,
    EffectSums,
    FloatArray,
    IntArray,
    membership,
)
from scgraphvci.estimate._arm_variance import trace_factor, trust
from scgraphvci.estimate._kernels import square_sums, weigh_groups

Estimator = Literal["robust", "observed", "plugin"]

Part = Literal["contrast", "arm", "reference"]
"""What is estimated: the difference of the arms (the arm's mean without a reference), or the mean of one of them."""


@dataclass(frozen=True)
class Moments:
    """Cells, means and centred products of one treatment, by stratum and role.

    Parameters
    ----------
    count
        Cells, ``(n_strata, n_roles)``.
    mean
        Means, ``(n_variables, n_strata, n_roles, n_genes)``; the offset of the sums where there is no cell.
    product
        Sums of products of variables less their means, ``(n_pairs, n_strata, n_roles, n_genes)``.
    pairs
        The pair of variables of each product.
    trust
        Share of Eq. 4's correction to make for an arm, ``(n_strata, n_roles)``.
    plugin
        Mean predictions of the model, ``(n_variables, n_strata, n_genes)``; `None` where those summed are the model's.
    unexpected
        Variance of `robust` that influence values do not tell, ``(n_strata, n_genes)``; `None` for none.
    """

    count: IntArray
    mean: FloatArray
    product: FloatArray
    pairs: tuple[tuple[int, ...], ...]
    trust: FloatArray
    plugin: FloatArray | None = None
    unexpected: FloatArray | None = None

    @property
    def n_cells(self) -> IntArray:
        """Cells of each stratum, ``(n_strata,)``."""
        return self.count.sum(axis=1)

    @cached_property
    def stratum_mean(self) -> FloatArray:
        """Means over all cells of each stratum, ``(n_variables, n_strata, n_genes)``; NaN without cells."""
        total = np.einsum("sr,vsrg->vsg", self.count.astype(np.float64), self.mean)
        n_cells = self.n_cells[:, None]
        return np.divide(total, n_cells, out=np.full_like(total, np.nan), where=n_cells > 0)

    @property
    def with_reference(self) -> bool:
        """Whether there is a reference to compare with."""
        return len(self.mean) > PREDICTED_REFERENCE

    @cached_property
    def contrast(self) -> Estimates:
        """What `point_estimates` gives for the difference, computed once for effects and leak tests."""
        arm = _arm_estimates(self, ARM, PREDICTED)
        if not self.with_reference:
            return arm
        other = _arm_estimates(self, REFERENCE, PREDICTED_REFERENCE)
        return Estimates(arm.robust - other.robust, arm.observed - other.observed, arm.plugin - other.plugin)

    @cached_property
    def robust_influence(self) -> Influence:
        """What `influence_function` gives for `robust` and the difference, computed once as well."""
        return _influence_of(self, "robust", "contrast")


@dataclass(frozen=True)
class Estimates:
    """The three point estimates, each of shape ``(n_strata, n_genes)``; NaN where an arm they need is empty."""

    robust: FloatArray
    observed: FloatArray
    plugin: FloatArray


@dataclass(frozen=True)
class Influence:
    """An influence function: intercept + sum over variables of weight * (variable - its mean in stratum and role).

    Parameters
    ----------
    weight
        ``(n_variables, n_strata, n_roles)``.
    intercept
        ``(n_strata, n_roles, n_genes)``.
    """

    weight: FloatArray
    intercept: FloatArray


def stratum_moments(
    sums: EffectSums,
    arm_variance: float = 0.0,
    concentrated: FloatArray | None = None,
    trusted: BoolArray | None = None,
) -> Moments:
    """Means and centred products by stratum and role, from sums by group.

    Parameters
    ----------
    sums
        Of one treatment.
    arm_variance, concentrated
        As in `trust`. Without `concentrated`, cells in neither arm are taken to be of many small arms.
    trusted
        Arms in whose predictions there are no traces, ``(n_strata, n_roles)``; none if left out.
    """
    count = membership(sums.groups.stratum, sums.groups.n_strata) @ sums.count
    cells = count[:, :, None]
    mean = sums.total / np.maximum(cells, 1)
    product = sums.second.copy()
    for total, (i, j) in zip(product, sums.pairs, strict=True):
        total -= sums.total[i] * mean[j]
    mean += sums.offset[:, None, :]
    n_cells = count.sum(axis=1, keepdims=True)
    if concentrated is None:
        concentrated = ((count[:, [ARM, REFERENCE]] / np.maximum(n_cells, 1)) ** 2).sum(axis=1)
    share = trust(count, n_cells, arm_variance, concentrated[:, None])
    traced = share * (count > 0)
    if trusted is not None:
        share, traced = np.where(trusted, 1.0, share), np.where(trusted, 0.0, traced)
    moments = Moments(count, mean, product, sums.pairs, share)
    if arm_variance == 0:
        return moments
    return replace(moments, unexpected=_trace_variance(moments, traced, arm_variance, concentrated))


def _trace_variance(moments: Moments, share: FloatArray, arm_variance: float, concentrated: FloatArray) -> FloatArray:
    r"""Variance that traces of treatments bring into the estimate, ``(n_strata, n_genes)``.

    An arm differs from its stratum by :math:`\sum_b (1[b = a] - \pi_b) \lambda_b` in traces, of variance
    :math:`\tau^2` each in units of that of predictions within arms (see `_arm_variance`), times :math:`s`. For one arm
    that is :math:`s^2 \tau^2 f = s (1 - s) v`: with the :math:`(1 - s)^2 v` of the states not corrected for, which
    influence values tell, it makes :math:`(1 - s) v`, the conditional variance of a Wiener filter.
    """
    n_cells = np.maximum(moments.n_cells, 1)
    freedom = np.maximum(moments.n_cells - (moments.count > 0).sum(axis=1), 1)
    of_stratum = moments.count / n_cells[:, None]
    factor = share**2 * trace_factor(of_stratum, concentrated[:, None])
    variance = factor[:, ARM, None] * _within(moments, PREDICTED, PREDICTED)
    if moments.with_reference:
        variance += factor[:, REFERENCE, None] * _within(moments, PREDICTED_REFERENCE, PREDICTED_REFERENCE)
        # The mean of the stratum holds all traces, and both arms are compared with it.
        shared = share[:, ARM] * share[:, REFERENCE] * (concentrated - of_stratum[:, [ARM, REFERENCE]].sum(axis=1))
        variance -= 2 * shared[:, None] * _within(moments, PREDICTED, PREDICTED_REFERENCE)
    return np.maximum(variance, 0) * (arm_variance / freedom)[:, None]


def _within(moments: Moments, one: int, other: int) -> FloatArray:
    """Sums of products of two variables less their means in stratum and role, ``(n_strata, n_genes)``."""
    return np.asarray(moments.product[moments.pairs.index((one, other))].sum(axis=1))


def point_estimates(moments: Moments, part: Part = "contrast") -> Estimates:
    """Point estimates of every stratum: of the difference to the reference, or of the arm's mean without one.

    Each is of shape ``(n_strata, n_genes)``, in units of the outcome. With `part`, of the mean of one arm.
    """
    if part == "contrast":
        return moments.contrast
    return _arm_estimates(moments, *((ARM, PREDICTED) if part == "arm" else (REFERENCE, PREDICTED_REFERENCE)))


def _arm_estimates(moments: Moments, role: int, variable: int) -> Estimates:
    predicted = moments.stratum_mean[variable]
    empty = (moments.count[:, role] == 0)[:, None]
    observed = np.where(empty, np.nan, moments.mean[OUTCOME, :, role])
    # Eq. 4, rearranged: the mean residual of the arm is its mean outcome less its mean prediction.
    robust = observed + moments.trust[:, role, None] * (predicted - moments.mean[variable, :, role])
    return Estimates(robust, observed, predicted if moments.plugin is None else moments.plugin[variable])


def influence_function(moments: Moments, estimator: Estimator, part: Part = "contrast") -> Influence:
    """Influence function of the estimate that `point_estimates` gives.

    Parameters
    ----------
    moments
        Moments of one treatment.
    estimator
        `"robust"` or `"observed"`.
    part
        As in `point_estimates`.

    Raises
    ------
    ValueError
        If the estimator has no influence function.
    """
    if estimator not in ("robust", "observed"):
        msg = f"The estimator {estimator!r} has no influence function. Choose 'robust' or 'observed'."
        raise ValueError(msg)
    if estimator == "robust" and part == "contrast":
        return moments.robust_influence
    return _influence_of(moments, estimator, part)


def _influence_of(moments: Moments, estimator: Estimator, part: Part) -> Influence:
    weight = np.zeros((*moments.mean.shape[:1], *moments.count.shape))
    intercept = np.zeros(moments.mean.shape[1:])
    arms = [] if part == "reference" else [(ARM, PREDICTED, 1.0)]
    if part == "reference" or (part == "contrast" and moments.with_reference):
        arms.append((REFERENCE, PREDICTED_REFERENCE, 1.0 if part == "reference" else -1.0))
    for role, variable, sign in arms:
        inverse_propensity = moments.n_cells / np.maximum(moments.count[:, role], 1)
        weight[OUTCOME, :, role] = sign * inverse_propensity
        if estimator == "robust":
            share = sign * moments.trust[:, role]
            weight[variable] = share[:, None]
            weight[variable, :, role] -= share * inverse_propensity
            from_stratum = moments.mean[variable] - moments.stratum_mean[variable][:, None, :]
            intercept += share[:, None, None] * from_stratum
    return Influence(weight, intercept)


def variance_by_role(moments: Moments, influence: Influence, *, small_sample: bool = True) -> FloatArray:
    """Share of every role in the variance of the estimate: sum of squared influence values over squared cells.

    The sum over roles is the variance at the level of cells.

    Parameters
    ----------
    moments
        Moments of one treatment.
    influence
        Influence function of the estimator.
    small_sample
        Multiply the sum of squares around the mean of each role by ``n / (n - 1)``, n its cells. `observed` then has
        the error of Welch's t-test.

    Returns
    -------
    Shape ``(n_strata, n_roles, n_genes)``.
    """
    weights = np.stack([(1.0 if i == j else 2.0) * influence.weight[i] * influence.weight[j] for i, j in moments.pairs])
    count = moments.count.astype(np.float64)
    n_cells = np.maximum(moments.n_cells, 1)[:, None]
    correction = count / np.maximum(count - 1, 1) if small_sample else np.ones_like(count)
    variance = np.zeros(influence.intercept.shape)
    square_sums(moments.product, weights / n_cells**2, influence.intercept, count / n_cells**2, correction, variance)
    return variance


def influence_totals(sums: EffectSums, moments: Moments, *influences: Influence) -> list[FloatArray]:
    """Sums of influence values over the cells of each group, ``(n_groups, n_genes)``, for each influence function."""
    centre = moments.mean - sums.offset[:, None, :]
    weight = np.stack([one.weight for one in influences])
    # Everything but the sums themselves is one constant per stratum and role.
    constant = np.stack([one.intercept - np.einsum("vsr,vsrg->srg", one.weight, centre) for one in influences])
    totals = np.zeros((len(influences), sums.groups.n_groups, sums.n_genes))
    weigh_groups(sums.first, sums.row, sums.count, sums.groups.stratum, weight, constant, totals)
    return list(totals)


def cells_by_stratum(sums: EffectSums) -> sparse.csr_array:
    """Cells of each group by stratum and role, sparse ``(n_groups, n_strata * n_roles)``.

    The product with a value of each stratum and role is the sum of that value over the cells of the group.
    """
    n_groups = sums.groups.n_groups
    column = sums.groups.stratum[:, None] * N_ROLES + np.arange(N_ROLES)
    start = np.arange(0, n_groups * N_ROLES + 1, N_ROLES)
    shape = (n_groups, sums.groups.n_strata * N_ROLES)
    return sparse.csr_array((sums.count.astype(np.float64).ravel(), column.ravel(), start), shape=shape)
