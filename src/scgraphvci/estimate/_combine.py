"""The difference of two results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgraphvci.estimate._accumulate import FloatArray
from scgraphvci.estimate._bands import InfluenceTotals
from scgraphvci.estimate._clusters import small_sample_factor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scgraphvci.estimate._result import MarginalEffects

_SAME = ("estimator", "estimand", "pseudocount", "scale", "alpha", "p_adjust")
"""Parameters in which results must agree to be comparable."""


def contrast(first: MarginalEffects, second: MarginalEffects, *, independent: bool) -> MarginalEffects:
    """See `MarginalEffects.contrast`."""
    _check_comparable(first, second)
    n_rows = max(len(first.treatments), len(second.treatments)), max(len(first.strata), len(second.strata))
    first, second = _repeated(first, n_rows), _repeated(second, n_rows)
    influence = None if independent else _difference_of_totals(first, second)
    if influence is None:
        variance, df = _independent_variance(first, second)
    else:
        total = influence.total.astype(np.float64)
        variance = small_sample_factor(influence.effective)[:, :, None] * (total**2).sum(axis=2)
        df = np.broadcast_to((influence.effective - 1.0)[:, :, None], variance.shape)
    has_error = np.isfinite(first.std_error) & np.isfinite(second.std_error)
    estimates = {
        name: getattr(first, name) - getattr(second, name) for name in ("estimate", "robust", "observed", "plugin")
    }
    fewer = {
        name: np.minimum(getattr(first, name), getattr(second, name))
        for name in ("n_treated", "n_reference", "n_stratum", "n_clusters", "share")
    }
    treatments = _joined(first.treatments, second.treatments)
    doses = [[(one.params.get("doses") or {}).get(name, "") for name in one.treatments] for one in (first, second)]
    return replace(
        first,
        treatments=treatments,
        strata=_joined_strata(first.strata, second.strata),
        std_error=np.where(has_error, np.sqrt(variance), np.nan),
        df=np.where(has_error, df, np.nan),
        status=np.where(first.status == "ok", second.status, first.status),
        # A difference of two ratios is none: its null value is zero.
        params={
            **first.params,
            "contrast_of": first.params.get("estimand", "difference"),
            "estimand": "difference",
            "doses": dict(zip(treatments, _joined(*doses), strict=True)) if first.params.get("doses") else {},
        },
        influence=influence,
        leaks=None,
        bands=None,
        third_cumulant=_difference_of_cumulants(first, second),
        **estimates,
        **fewer,
    )


def _independent_variance(first: MarginalEffects, second: MarginalEffects) -> tuple[FloatArray, FloatArray]:
    """Variance, and degrees of freedom by Welch and Satterthwaite, of results that share nothing."""
    one, two = first.std_error**2, second.std_error**2
    spread = one**2 / first.df + two**2 / second.df
    return one + two, np.divide((one + two) ** 2, spread, out=np.full_like(one, np.nan), where=spread > 0)


def _difference_of_totals(first: MarginalEffects, second: MarginalEffects) -> InfluenceTotals:
    one, two = first._kept_influence(), second._kept_influence()
    same_cells = all(first.params.get(key) == second.params.get(key) for key in ("cells", "cluster_key"))
    if not same_cells or one.independent != two.independent or one.total.shape[2] != two.total.shape[2]:
        msg = (
            "The two results are not of the same cells and clusters, so their covariance is unknown. Estimate both "
            "from the same data with the same `cluster_key`, or say `independent=True` if they share no cell and no "
            "cluster."
        )
        raise ValueError(msg)
    n_clusters = np.minimum(one.n_clusters, two.n_clusters)
    effective = np.minimum(one.effective, two.effective)
    return InfluenceTotals(one.total - two.total, n_clusters, effective, one.independent)


def _difference_of_cumulants(first: MarginalEffects, second: MarginalEffects) -> FloatArray | None:
    """Third cumulant of a difference of independent results, or of two with a common reference, which cancels."""
    if first.third_cumulant is None or second.third_cumulant is None:
        return None
    return first.third_cumulant - second.third_cumulant


def _check_comparable(first: MarginalEffects, second: MarginalEffects) -> None:
    if not first.genes.equals(second.genes):
        msg = (
            f"The results have different genes ({len(first.genes)} and {len(second.genes)}). Estimate both on the same."
        )
        raise ValueError(msg)
    if list(first.strata.columns) != list(second.strata.columns):
        msg = f"The results have different stratum keys: {list(first.strata.columns)}, {list(second.strata.columns)}."
        raise ValueError(msg)
    for key in _SAME:
        if first.params.get(key) != second.params.get(key):
            msg = f"`{key}` is {first.params.get(key)!r} in one result and {second.params.get(key)!r} in the other."
            raise ValueError(msg)
    if first.params.get("max_leak") or second.params.get("max_leak"):
        msg = "The leak allowed for by `max_leak` has no bound in a contrast. Estimate both with `max_leak=0`."
        raise ValueError(msg)


def _repeated(effects: MarginalEffects, n_rows: tuple[int, int]) -> MarginalEffects:
    """Repeat a single treatment or stratum to match another result."""
    have = len(effects.treatments), len(effects.strata)
    if any(n not in (1, wanted) for n, wanted in zip(have, n_rows, strict=True)):
        msg = f"One result has {have} treatments and strata, the other {n_rows}. Select as many in both, or one in one."
        raise ValueError(msg)
    treatments, strata = (
        np.zeros(wanted, dtype=np.int64) if n == 1 else np.arange(n) for n, wanted in zip(have, n_rows, strict=True)
    )
    return effects._take(treatments, strata)


def _joined(first: Iterable[object], second: Iterable[object]) -> pd.Index:
    """Names, or "a - b" where they differ."""
    names = [str(a) if a == b else f"{a} - {b}" for a, b in zip(first, second, strict=True)]
    return pd.Index(names, dtype=object)


def _joined_strata(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    if first.astype(str).equals(second.astype(str)):
        return first
    return pd.DataFrame({key: _joined(first[key], second[key]) for key in first})
