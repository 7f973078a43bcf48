"""From the sums of every treatment to `MarginalEffects`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scgraphvci.estimate._accumulate import ARM, REFERENCE, EffectSums, FloatArray, IntArray, membership
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._influence import Estimates, Estimator, influence_function, point_estimates, stratum_moments
from scgraphvci.estimate._multiplicity import Adjustment
from scgraphvci.estimate._result import MarginalEffects

_MIN_CELLS_FOR_VARIANCE = 2


def marginal_effects(
    sums: Iterable[tuple[str, EffectSums]],
    *,
    strata: pd.DataFrame,
    genes: Sequence[str] | pd.Index,
    reported: ArrayLike | None = None,
    estimator: Estimator = "robust",
    reference: str | None = "control",
    min_cells: int = 10,
    alpha: float = 0.05,
    p_adjust: Adjustment | None = "fdr_bh",
    params: Mapping[str, Any] | None = None,
) -> MarginalEffects:
    """Marginal effects of treatments, from sums over cells.

    Errors are clustered if the sums were made with clusters. Intervals are t intervals: with Welch and Satterthwaite's
    degrees of freedom at the level of cells, with G - 1 for G clusters.

    Parameters
    ----------
    sums
        Pairs of treatment name and its sums. Taken one at a time, so a generator need hold one only.
    strata
        Reported strata: one row each, one column per stratum key.
    genes
        Names of the genes.
    reported
        Row of `strata` for each stratum of the sums, ``(n_strata,)``, as `coarsen_strata` gives; by default each
        stratum is reported. Strata that share a row are averaged with weights proportional to their cells, over those
        that have both arms; the share of cells these hold is in the result. For the raw mean over a coarser stratum,
        make the sums with coarser strata instead.
    estimator
        `"robust"` (Eq. 4), `"observed"` or `"plugin"` (which has no error).
    reference
        Name of the reference; `None` if the sums were made without one.
    min_cells
        Fewest cells, in the arm and in the reference, for an error to be given; at least 2.
    alpha
        One minus the level of the intervals.
    p_adjust
        Adjustment over the genes of each treatment and stratum, see `adjust_p_values`.
    params
        Further entries for the parameters of the result (`perturbation_key`, `cluster_key`, `scale`, ...).

    Returns
    -------
    The effects, treatments in the order given.

    Raises
    ------
    ValueError
        If an option is not allowed, no treatment is given, or sums, strata and genes do not fit each other.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgraphvci.estimate import EffectSums, Groups
    >>> rng = np.random.default_rng(0)
    >>> treated = np.repeat([True, False], 50)
    >>> groups, group = Groups.from_codes(np.zeros(100, dtype=int))
    >>> sums = EffectSums(groups, n_genes=1)
    >>> outcome = rng.normal(size=(100, 1)) + 2 * treated[:, None]
    >>> sums.update(outcome, np.full((100, 1), 2.0), np.zeros((100, 1)), treated, ~treated, group)
    >>> marginal_effects([("STAT1", sums)], strata=pd.DataFrame(index=[0]), genes=["g"])
    MarginalEffects
        estimand: difference to 'control'
        size: 1 treatments x 1 strata x 1 genes
        strata: none
        estimator: robust
        errors: independent cells
        status: ok 1
    """
    _check_options(estimator, min_cells, alpha, p_adjust)
    names: list[str] = []
    rows: list[_Rows] = []
    for name, treatment_sums in sums:
        codes = _reported_codes(treatment_sums, reported, strata, genes, with_reference=reference is not None)
        names.append(name)
        rows.append(_estimate(treatment_sums, codes, len(strata), estimator, min_cells))
    if not rows:
        msg = "No treatment to estimate an effect of. Give at least one pair of name and sums."
        raise ValueError(msg)
    made_with = {"estimator": estimator, "reference": reference, "alpha": alpha, "p_adjust": p_adjust}
    return MarginalEffects(
        treatments=pd.Index(names, dtype=object),
        strata=strata.reset_index(drop=True),
        genes=pd.Index(genes),
        params={**made_with, "min_cells": min_cells, **(params or {})},
        **{name: np.stack([getattr(row, name) for row in rows]) for name in _Rows.__dataclass_fields__},
    )


def coarsen_strata(strata: pd.DataFrame, groupby: Sequence[str] | None) -> tuple[pd.DataFrame, IntArray]:
    """Joint levels of some stratum keys, and the one each stratum belongs to.

    Parameters
    ----------
    strata
        One row per stratum, one column per key.
    groupby
        Keys to keep, in this order; none of them (an empty list) gives one stratum of all cells, `None` changes
        nothing.

    Returns
    -------
    The coarser strata in order of first appearance, and for each row of `strata` its row there, ``(n_strata,)``.

    Raises
    ------
    ValueError
        If a key is not a column of `strata`.

    Examples
    --------
    >>> import pandas as pd
    >>> strata = pd.DataFrame({"cell_type": ["B", "B", "T"], "donor": ["1", "2", "1"]})
    >>> coarse, reported = coarsen_strata(strata, ["cell_type"])
    >>> coarse["cell_type"].tolist(), reported.tolist()
    (['B', 'T'], [0, 0, 1])
    """
    if groupby is None:
        return strata.reset_index(drop=True), np.arange(len(strata))
    keys = list(groupby)
    unknown = [key for key in keys if key not in strata]
    if unknown:
        msg = f"`groupby` has {unknown}, which are no registered covariates. Choose from {list(strata.columns)}."
        raise ValueError(msg)
    if not keys:
        return pd.DataFrame(index=pd.RangeIndex(1)), np.zeros(len(strata), dtype=np.int64)
    reported = strata.groupby(keys, sort=False, observed=True).ngroup().to_numpy().astype(np.int64)
    return strata[keys].drop_duplicates().reset_index(drop=True), reported


@dataclass(frozen=True)
class _Rows:
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


def _estimate(sums: EffectSums, reported: IntArray, n_reported: int, estimator: Estimator, min_cells: int) -> _Rows:
    moments = stratum_moments(sums)
    average = StratumAverage.of(moments, reported, n_reported)
    by_stratum = point_estimates(moments)
    uncovered = ~average.covered[:, None]
    averaged = Estimates(
        robust=np.where(uncovered, np.nan, average.mean(by_stratum.robust)),
        observed=np.where(uncovered, np.nan, average.mean(by_stratum.observed)),
        plugin=average.mean(by_stratum.plugin),
    )
    to_reported = membership(reported, n_reported)
    n_used = to_reported @ (moments.count * average.used[:, None])
    n_all = to_reported @ moments.count

    n_clusters = np.zeros(n_reported, dtype=np.int64)
    if estimator == "plugin":
        variance = np.full_like(averaged.plugin, np.nan)
        df = np.full((n_reported, 1), np.nan)
    else:
        influence = influence_function(moments, estimator)
        if sums.groups.cluster is None:
            variance, df = average.cell_variance(moments, influence)
        else:
            effect = getattr(by_stratum, estimator)
            variance, n_clusters = average.cluster_variance(sums, moments, influence, effect)
            df = (n_clusters - 1.0)[:, None]

    status = np.full(n_reported, "ok", dtype=object)
    if sums.groups.cluster is not None and estimator != "plugin":
        status[n_clusters < 2] = "too_few_clusters"
    arms = [ARM, REFERENCE] if sums.with_reference else [ARM]
    status[(n_used[:, arms] < min_cells).any(axis=1)] = "too_few_cells"
    extrapolated = n_all[:, ARM] == 0
    status[extrapolated] = "extrapolated"
    if sums.with_reference:
        # Also where the treated cells' strata lack the reference, though other strata have it.
        no_reference = ~average.covered & (~extrapolated | (n_all[:, REFERENCE] == 0))
        status[no_reference] = "no_reference"

    estimate = getattr(averaged, estimator)
    if estimator == "robust":
        estimate = np.where((status == "extrapolated")[:, None], averaged.plugin, estimate)
    has_error = (status == "ok")[:, None]
    n_stratum = n_all.sum(axis=1)
    return _Rows(
        estimate=estimate,
        std_error=np.where(has_error, np.sqrt(variance), np.nan),
        df=np.where(has_error, df, np.nan),
        robust=averaged.robust,
        observed=averaged.observed,
        plugin=averaged.plugin,
        n_treated=n_all[:, ARM],
        n_reference=n_all[:, REFERENCE],
        n_stratum=n_stratum,
        n_clusters=n_clusters,
        share=average.n_used / np.maximum(n_stratum, 1),
        status=status,
    )


def _reported_codes(
    sums: EffectSums,
    reported: ArrayLike | None,
    strata: pd.DataFrame,
    genes: Sequence[str] | pd.Index,
    *,
    with_reference: bool,
) -> IntArray:
    n_strata = sums.groups.n_strata
    codes = np.arange(n_strata) if reported is None else np.asarray(reported, dtype=np.int64)
    if codes.shape != (n_strata,) or (n_strata and not 0 <= codes.min() <= codes.max() < len(strata)):
        msg = (
            f"The sums have {n_strata} strata, `strata` {len(strata)} rows: `reported` must give each of the "
            f"{n_strata} a row in 0 to {len(strata) - 1}. Use `coarsen_strata`."
        )
        raise ValueError(msg)
    if len(genes) != sums.n_genes:
        msg = f"`genes` has {len(genes)} names, the sums have {sums.n_genes} genes. Give one name per gene."
        raise ValueError(msg)
    if sums.with_reference != with_reference:
        msg = f"The sums were made with_reference={sums.with_reference}; `reference` must be None if and only if not."
        raise ValueError(msg)
    return codes


def _check_options(estimator: str, min_cells: int, alpha: float, p_adjust: str | None) -> None:
    if estimator not in get_args(Estimator):
        msg = f"Unknown estimator {estimator!r}. Choose one of {get_args(Estimator)}."
        raise ValueError(msg)
    if min_cells < _MIN_CELLS_FOR_VARIANCE:
        msg = f"`min_cells` is {min_cells}, must be at least {_MIN_CELLS_FOR_VARIANCE}: one cell has no variance."
        raise ValueError(msg)
    if not 0 < alpha < 1:
        msg = f"`alpha` is {alpha}, must be between 0 and 1 (0.05 gives 95 % intervals)."
        raise ValueError(msg)
    if p_adjust is not None and p_adjust not in get_args(Adjustment):
        msg = f"Unknown `p_adjust` {p_adjust!r}. Choose one of {get_args(Adjustment)} or None."
        raise ValueError(msg)
