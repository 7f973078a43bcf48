r"""The median of estimates that differ in their random folds alone.

With :math:`\hat\theta_r` and :math:`\hat\sigma_r` of repetition r, Chernozhukov et al. (Econometrics Journal 2018),
definition 3.3, take

.. math::
    \tilde\theta = \operatorname{median}_r \hat\theta_r, \qquad
    \tilde\sigma = \sqrt{\operatorname{median}_r \left( \hat\sigma_r^2 + (\hat\theta_r - \tilde\theta)^2 \right)},

so that the error holds what the draw of the folds adds, and one unlucky training counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scgraphvci.estimate._accumulate import FloatArray
from scgraphvci.estimate._bands import InfluenceTotals
from scgraphvci.estimate._clusters import small_sample_factor
from scgraphvci.estimate._leak import Leaks
from scgraphvci.estimate._result import MarginalEffects

_ERROR_OF = {"leak": "leak_error", "leak_reference": "leak_reference_error", "share": "share_error"}
_P_VALUES = ("p_any", "p_fitted", "p_any_made", "p_share_made")


def median_effects(repetitions: Iterable[MarginalEffects]) -> MarginalEffects:
    """Median over repetitions of the same estimation, such as cross-fitting with new folds.

    Influence totals are averaged over repetitions, which differ in the predictions only and estimate the same ones, and
    scaled gene by gene to the error of the median. Joint bands, contrasts and pooling then use the correlation of genes
    and strata that all repetitions tell of, at a size that includes what the draw of the folds adds.

    Parameters
    ----------
    repetitions
        Results of the same cells, taken one at a time: totals of one repetition and their sum are held.

    Returns
    -------
    `estimate`, `robust`, `observed`, `plugin` and `df` are medians, `std_error` follows definition 3.3. The leak, and
    the share that leaks, are treated alike; p-values of the leak tests are twice their medians, which holds whatever
    the dependence of the repetitions (Meinshausen et al., JASA 2009). `status` follows from them.

    Raises
    ------
    ValueError
        If there is no repetition.
    """
    held: list[MarginalEffects] = []
    totals = _Totals()
    for one in repetitions:
        if one.influence is not None:
            totals.add(one.influence)
        held.append(replace(one, influence=None))
    if not held:
        msg = "There is no repetition to take the median of. Give at least one result."
        raise ValueError(msg)
    estimates = [one.estimate for one in held]
    variance = _median_variance(estimates, [one.std_error**2 for one in held])
    leaks = _median_leaks([one.leaks for one in held if one.leaks is not None])
    status = np.where(held[0].status == "leak_detected", "ok", held[0].status)
    if leaks is not None and held[0].params["estimator"] == "robust":
        status[(status == "ok") & leaks.harmful(held[0].params["alpha"])] = "leak_detected"
    medians = {name: _median([getattr(one, name) for one in held]) for name in ("df", "robust", "observed", "plugin")}
    changes: dict[str, Any] = {
        **medians,
        "estimate": _median(estimates),
        "std_error": np.sqrt(variance),
        "status": status,
        "leaks": leaks,
        "influence": totals.scaled(estimates),
    }
    if held[0].bands is not None:
        level = _median([one.bands.level for one in held if one.bands is not None])
        changes["bands"] = replace(held[0].bands, level=level)
    if held[0].third_cumulant is not None:
        changes["third_cumulant"] = _median([one.third_cumulant for one in held if one.third_cumulant is not None])
    return replace(held[0], **changes)


class _Totals:
    """Sums over repetitions of influence totals and of their squared lengths, and every variance."""

    def __init__(self) -> None:
        self.one: InfluenceTotals | None = None
        self.total: NDArray[np.floating[Any]] = np.empty(0)
        self.square: FloatArray = np.empty(0)
        self.variances: list[FloatArray] = []
        self.dfs: list[FloatArray] = []

    def add(self, influence: InfluenceTotals) -> None:
        """Add a repetition."""
        square = _squares(influence.total)
        if self.one is None:
            self.one, self.total, self.square = influence, influence.total.copy(), square
        else:
            self.total += influence.total
            self.square += square
        if influence.variance is not None and influence.df is not None:
            self.variances.append(influence.variance)
            self.dfs.append(influence.df)
        else:
            self.variances.append(small_sample_factor(influence.effective)[:, :, None] * square)

    def scaled(self, estimates: list[FloatArray]) -> InfluenceTotals | None:
        """Mean of the totals, with the error of the median; `None` if none were kept."""
        if self.one is None:
            return None
        n, variance = len(estimates), _median_variance(estimates, self.variances)
        # Blocks of independent cells tell the variance up to noise, which stays as in a single repetition.
        usual, square = np.mean(self.variances, axis=0), _squares(self.total)
        known = np.isfinite(variance) & (usual > 0) & (square > 0)
        squared = np.full_like(variance, 1.0 / n**2)
        np.divide(variance * self.square, n * usual * square, out=squared, where=known)
        scale = np.sqrt(squared)
        self.total *= scale[:, :, None].astype(self.total.dtype)
        if not self.dfs:
            return replace(self.one, total=self.total)
        return replace(self.one, total=self.total, variance=variance, df=_median(self.dfs))


def _squares(total: NDArray[np.floating[Any]]) -> FloatArray:
    """Sums of squares over clusters, ``(n_treatments, n_strata, n_genes)``."""
    return np.einsum("txcg,txcg->txg", total, total, dtype=np.float64)


def _median(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.median(np.stack(values), axis=0)


def _median_variance(estimates: Sequence[NDArray[Any]], variances: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Variance of the median by definition 3.3."""
    centre = _median(estimates)
    return _median([v + (one - centre) ** 2 for one, v in zip(estimates, variances, strict=True)])


def _median_leaks(leaks: Sequence[Leaks]) -> Leaks | None:
    if not leaks:
        return None
    found = {field.name: _median([getattr(one, field.name) for one in leaks]) for field in fields(Leaks)}
    for name, error in _ERROR_OF.items():
        variances = [getattr(one, error) ** 2 for one in leaks]
        found[error] = np.sqrt(_median_variance([getattr(one, name) for one in leaks], variances))
    for name in _P_VALUES:
        found[name] = np.minimum(2.0 * found[name], 1.0)
    return Leaks(**found)
