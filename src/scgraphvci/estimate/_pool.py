r"""Averages of the strata of a result.

Strata :math:`x` with effects :math:`\theta_x` and weights :math:`h_x`, which sum to :math:`H`, have the average
:math:`\theta = \sum_x h_x \theta_x / H`. A cluster that brings the share :math:`h_{xc}` of the weight of stratum
:math:`x`, and the influence total :math:`t_{xc}` in it, brings to the error of the average

.. math::
    t_c = \sum_x \left( h_x t_{xc} + h_{xc} (\theta_x - \theta) \right) / H,

whichever strata the cluster has cells in: strata that share donors are not independent, and their variances are never
added up as if they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, special
from scipy.sparse.csgraph import connected_components

from scgraphvci.estimate._accumulate import ARM, REFERENCE, BoolArray, FloatArray, IntArray, membership
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._bands import InfluenceTotals
from scgraphvci.estimate._clusters import Clusters
from scgraphvci.estimate._leak import TOLERATED
from scgraphvci.estimate._leak_tests import sign_test
from scgraphvci.estimate._stack import Stack
from scgraphvci.estimate._status import status_of
from scgraphvci.estimate._tables import coarsen_strata

if TYPE_CHECKING:
    from scgraphvci.estimate._result import MarginalEffects

PoolWeights = Literal["cells", "precision"]


def pool(effects: MarginalEffects, over: str | Sequence[str] | None, weights: PoolWeights) -> MarginalEffects:
    """See `MarginalEffects.pool`."""
    influence = effects._kept_influence()
    cells = _check(effects, influence, weights)
    strata, reported = _coarser(effects.strata, over)
    rows, totals = Stack(), Stack()
    for t in range(len(effects.treatments)):
        of_strata = Clusters(cells[t], effects.params["reference"] is not None, influence.independent)
        average, brought = _average(effects, t, of_strata, reported, len(strata), weights)
        clusters = _clusters(of_strata, average)
        kept = _pool_influence(effects, influence, t, average, clusters, brought)
        totals.add(kept)
        rows.add(_pool_rows(effects, t, average, of_strata, clusters, kept))
    changes: dict[str, Any] = {
        "strata": strata,
        "params": {**effects.params, "pool_weights": weights},
        "influence": InfluenceTotals(**totals.arrays, independent=influence.independent),
        "leaks": None,
        "bands": None,
        **rows.arrays,
    }
    return replace(effects, **changes)


def _check(effects: MarginalEffects, influence: InfluenceTotals, weights: str) -> IntArray:
    """Return the cells of the result, ``(n_treatments, n_strata, n_clusters, n_roles)``."""
    if weights not in get_args(PoolWeights):
        msg = f"Unknown `weights` {weights!r}. Choose one of {get_args(PoolWeights)}."
        raise ValueError(msg)
    if influence.cells is None:
        msg = "The strata of a contrast have two sets of cells, and no weights. Pool both results, then contrast them."
        raise ValueError(msg)
    estimand = effects.params.get("estimand", "difference")
    if estimand != "difference":
        msg = (
            f"A {estimand!r} compares means that are averaged over strata first, and its result holds none of them. "
            "Estimate it with a coarser `groupby`."
        )
        raise ValueError(msg)
    return influence.cells


def _coarser(strata: pd.DataFrame, over: str | Sequence[str] | None) -> tuple[pd.DataFrame, IntArray]:
    keys = [str(key) for key in strata]
    names = keys if over is None else [over] if isinstance(over, str) else list(over)
    unknown = [name for name in names if name not in keys]
    if unknown or not names:
        msg = f"Cannot pool over {unknown or names}. Choose from the stratum keys of this result, {keys}."
        raise KeyError(msg)
    return coarsen_strata(strata, [key for key in keys if key not in names])


def _average(
    effects: MarginalEffects, t: int, clusters: Clusters, reported: IntArray, n_reported: int, weights: PoolWeights
) -> tuple[StratumAverage, FloatArray]:
    """Return the average, and what each cluster brings to the weight of each stratum, ``(n_strata, n_clusters)``.

    The weight of a stratum is a function of its cells, homogeneous of degree one, and a cluster brings its own cells
    times the derivative by them. Strata without both arms enter only where all lack one, by their cells.
    """
    cells, with_reference = clusters.cells, clusters.with_reference
    of_stratum = cells.sum(axis=1)
    n_cells = of_stratum.sum(axis=1)
    arm, reference = of_stratum[:, ARM], of_stratum[:, REFERENCE]
    both_arms = ~np.isin(effects.status[t], ("extrapolated", "no_reference"))
    smaller_arm = np.where(both_arms, np.minimum(arm, reference) if with_reference else arm, 0)
    by_cells = cells.sum(axis=2).astype(np.float64)
    if weights == "cells":
        return StratumAverage.over(smaller_arm, n_cells, reported, n_reported), by_cells
    both = np.maximum(arm + reference, 1).astype(np.float64)
    of_arm, of_reference = ((reference / both) ** 2, (arm / both) ** 2) if with_reference else (1.0, 0.0)
    brought = of_arm * cells[:, :, ARM].T + of_reference * cells[:, :, REFERENCE].T
    covered = membership(reported, n_reported) @ smaller_arm > 0
    brought = np.where(covered[reported], brought, by_cells.T).T
    average = StratumAverage.over(smaller_arm, n_cells, reported, n_reported, size=brought.sum(axis=1))
    return average, brought


def _clusters(of_strata: Clusters, average: StratumAverage) -> Clusters:
    """Clusters of the averages."""
    cells = of_strata.cells
    used = (cells * average.used[:, None, None]).reshape(len(cells), -1)
    pooled = (membership(average.reported, average.n_reported) @ used).reshape(-1, *cells.shape[1:])
    return replace(of_strata, cells=pooled)


def _pool_influence(
    effects: MarginalEffects,
    influence: InfluenceTotals,
    t: int,
    average: StratumAverage,
    clusters: Clusters,
    brought: FloatArray,
) -> dict[str, NDArray[Any]]:
    """Entries of the influence totals of one treatment's averages."""
    total = np.where(average.used[:, None, None], influence.total[t], 0.0)
    pooled = (average.weight @ total.reshape(len(total), -1)).reshape(-1, *total.shape[1:])
    kept: dict[str, NDArray[Any]] = {
        "n_clusters": clusters.n,
        "effective": clusters.effective,
        "cells": clusters.cells,
    }
    if influence.variance is not None and influence.df is not None:
        variance, df = _independent(average, influence.variance[t], influence.df[t])
        kept |= {"variance": variance, "df": df}
    else:
        of_stratum = brought.sum(axis=1, keepdims=True)
        share = np.divide(brought, of_stratum, out=np.zeros_like(brought), where=of_stratum > 0)
        difference = average.heterogeneity(effects.estimate[t])
        for row in range(average.n_reported):
            member = np.flatnonzero(average.reported == row)
            weight = average.weight[[row]][:, member].toarray().ravel()
            pooled[row] += (weight[:, None] * share[member]).T @ difference[member]
    return {"total": pooled.astype(influence.total.dtype), **kept}


def _independent(average: StratumAverage, variance: FloatArray, df: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Variance of averages of independent strata, and its degrees of freedom by Welch and Satterthwaite."""
    known = average.used[:, None] & (variance > 0)
    variance = np.where(known, variance, 0.0)
    spread = np.divide(variance**2, df, out=np.zeros_like(variance), where=known)
    pooled, spread = average.weight.power(2) @ variance, average.weight.power(4) @ spread
    return pooled, np.divide(pooled**2, spread, out=np.full_like(pooled, np.nan), where=spread > 0)


def _pool_rows(
    effects: MarginalEffects,
    t: int,
    average: StratumAverage,
    of_strata: Clusters,
    clusters: Clusters,
    kept: dict[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    """Fields of the result of one treatment."""
    to_reported = membership(average.reported, average.n_reported)
    n_treated, n_reference, n_stratum = (
        to_reported @ getattr(effects, name)[t] for name in ("n_treated", "n_reference", "n_stratum")
    )
    n_clusters = None if clusters.independent else clusters.n
    status = status_of(
        clusters.cells.sum(axis=1),
        np.stack([n_treated, n_reference], axis=1),
        average.covered,
        n_clusters,
        effects.params["min_cells"],
        with_reference=clusters.with_reference,
    )
    # A gene with counts enough in a stratum has enough in the average.
    known = to_reported @ (~effects._without_error[t] & average.used[:, None]).astype(np.int64) > 0
    has_error = (status == "ok")[:, None] & known
    if clusters.independent:
        variance, df = kept["variance"], kept["df"]
    else:
        variance, df = clusters.variance_of(kept["total"].astype(np.float64)), (clusters.effective - 1.0)[:, None]
    std_error = np.where(has_error, np.sqrt(variance), np.nan)
    status[(status == "ok") & _leaks(effects, t, average, of_strata, std_error)] = "leak_detected"
    uncovered = ~average.covered[:, None]
    robust, observed = (
        np.where(uncovered, np.nan, average.mean(getattr(effects, n)[t])) for n in ("robust", "observed")
    )
    plugin = average.mean(effects.plugin[t])
    estimate = {"robust": robust, "observed": observed, "plugin": plugin}[effects.params["estimator"]]
    if effects.params["estimator"] == "robust":
        estimate = np.where((status == "extrapolated")[:, None], plugin, estimate)
    skewed = {}
    if effects.third_cumulant is not None:
        cumulant = np.where(average.used[:, None], effects.third_cumulant[t], 0.0)
        skewed["third_cumulant"] = average.weight.power(3) @ cumulant
    return {
        **skewed,
        "estimate": estimate,
        "std_error": std_error,
        "df": np.where(has_error, df, np.nan),
        "robust": robust,
        "observed": observed,
        "plugin": plugin,
        "n_treated": n_treated,
        "n_reference": n_reference,
        "n_stratum": n_stratum,
        "n_clusters": np.zeros(average.n_reported, dtype=np.int64) if n_clusters is None else n_clusters,
        "share": average.n_used / np.maximum(n_stratum, 1),
        "status": status,
    }


def _leaks(
    effects: MarginalEffects, t: int, average: StratumAverage, clusters: Clusters, std_error: FloatArray
) -> BoolArray:
    """Averages with a leak that matters, by tests that share the level; `clusters` are those of the strata.

    A leak of a stratum is found by its own test, with Bonferroni's bound over strata, for these share clusters. Where
    strata lie in a cluster each, or in few, none of these tests says anything: parts of the average that share no
    cluster are then what is drawn anew, and what they bring to its bias is tested as clusters are in one stratum.
    """
    found = np.zeros(average.n_reported, dtype=bool)
    if effects.params["estimator"] != "robust":
        return found
    if effects.leaks is None:  # an average of averages: what was found before
        found[average.reported[average.used & (effects.status[t] == "leak_detected")]] = True
        return found
    p_value = np.where(average.used, effects.leaks.p_value[t], np.nan)
    bias = effects.robust[t] - effects.observed[t]
    usable = average.used & np.isfinite(bias).all(axis=1)
    part = _parts(clusters)
    plugin = average.mean(effects.plugin[t])
    for row in np.flatnonzero(average.covered):
        of_row = average.reported == row
        own, member = p_value[of_row & np.isfinite(p_value)], np.flatnonzero(of_row & usable)
        p_values = [own.min() * own.size] if own.size else []
        weight = average.weight[[row]].toarray().ravel()[member]
        names, of_part = np.unique(part[member], return_inverse=True)
        brought = membership(of_part, len(names)) @ (weight[:, None] * bias[member])
        known = std_error[row] > 0
        predicted = plugin[row, known] / std_error[row, known] if clusters.with_reference else None
        in_errors = brought[:, known] / std_error[row, known]
        if len(brought) > 1 and known.any():
            p_values += _tests_of_parts(in_errors, predicted)
        if p_values and min(p_values) * len(p_values) <= effects.params["alpha"]:
            squared = in_errors.sum(axis=0) ** 2
            size = [squared.mean()] if known.any() else []
            if size and predicted is not None and predicted.any():
                size.append(np.average(squared, weights=predicted**2))
            found[row] = bool(size) and max(size) >= TOLERATED
    return found


def _parts(clusters: Clusters) -> IntArray:
    """Part of each stratum, ``(n_strata,)``: strata of different parts share no cluster."""
    if clusters.independent:
        return np.arange(len(clusters.cells))
    present = sparse.csr_array(clusters.cells.sum(axis=2) > 0).astype(np.int64)
    return np.asarray(connected_components(present @ present.T, directed=False)[1], dtype=np.int64)


def _tests_of_parts(brought: FloatArray, predicted: FloatArray | None) -> list[float]:
    """P-values that the bias is zero, from what parts bring to it in standard errors, ``(n_parts, n_genes)``."""
    p_values = [sign_test(brought)[0]]
    if predicted is not None:
        along = brought @ predicted
        spread = np.sqrt(len(along)) * along.std(ddof=1)
        if spread > 0:
            p_values.append(2.0 * special.stdtr(len(along) - 1.0, -abs(along.sum()) / spread))
    return [p for p in p_values if np.isfinite(p)]
