"""Checks of options, of expression against the likelihood, and of clusters against strata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

from scgraphvci._warn import warn
from scgraphvci.data._outcome_field import looks_like_counts
from scgraphvci.model._presets import Preset
from scgraphvci.module._baseline import Propagation
from scgraphvci.module._likelihood import Likelihood
from scgraphvci.module._networks import Pooling
from scgraphvci.module._objective import DistributionLoss

if TYPE_CHECKING:
    from scgraphvci.estimate import MarginalEffects

FEW_CLUSTERS = 2, 3
SMALL_PANEL = 300  # genes: with fewer intervals of `robust` have been seen to be too short (see the estimands guide)

CHOICES: dict[str, tuple[Any, ...]] = {
    "likelihood": get_args(Likelihood),
    "decoder": ("dot", "attention"),
    "distribution_loss": get_args(DistributionLoss),
    "distribution_target": ("stratum", "cell"),
    "preset": get_args(Preset),
    "dispersion": ("gene", "gene-cell"),
    "graph_pooling": get_args(Pooling),
    "propagation": get_args(Propagation),
}


def check_options(**options: Any) -> None:
    """Check the options that are one of a few words; others pass.

    Raises
    ------
    ValueError
        If a word is not among those allowed.
    """
    for name, allowed in CHOICES.items():
        if name in options and options[name] not in allowed:
            msg = f"Unknown {name} {options[name]!r}. Choose one of {list(allowed)}."
            raise ValueError(msg)


def check_outcome(state: Any, likelihood: str) -> None:
    """Check that expression suits the likelihood.

    Raises
    ------
    ValueError
        If a likelihood for counts is to be used on values that are not counts.
    """
    if likelihood != "normal" and (not state["integer"] or state["min"] < 0):
        what = f"negative values (smallest {state['min']})" if state["min"] < 0 else "values that are not whole numbers"
        msg = f"likelihood={likelihood!r} needs counts, but expression holds {what}. Name the layer of counts at setup."
        raise ValueError(msg)
    if likelihood == "normal" and looks_like_counts(state):
        msg = (
            f"Expression looks like raw counts (whole numbers up to {state['max']:.0f}), but likelihood='normal' "
            "expects log-normalised values. Use `sc.pp.normalize_total` and `sc.pp.log1p`, or likelihood='nb'."
        )
        warn(msg)


def check_clusters(
    cluster_key: str | None, cluster: np.ndarray | None, strata: pd.DataFrame, stratum: np.ndarray
) -> None:
    """Warn if every stratum lies in one cluster, so that no error can be clustered.

    Parameters
    ----------
    cluster_key
        Column with the clusters.
    cluster
        Code of every cell's cluster, shape ``(n_cells,)``; None without clusters.
    strata
        The strata that are reported, one column per key.
    stratum
        Row of `strata` of every cell, shape ``(n_cells,)``.
    """
    if cluster is None or cluster.size == 0:
        return
    if max(_n_clusters(stratum, cluster)) > 1:
        return
    overlap = [key for key in strata if max(_n_clusters(pd.factorize(strata[key])[0][stratum], cluster)) == 1]
    rest = [key for key in strata if key not in overlap]
    if cluster.max() == cluster.min():
        why = "all cells are of one cluster. Leave `cluster_key` out, or name a column of replicates"
    elif overlap:
        why = f"the strata are split by {overlap}. Leave that out: `groupby={rest}` averages over the clusters"
    else:
        why = f"the joint levels of {list(strata)} lie in one each. Leave some of them out of `groupby`"
    msg = (
        f"No stratum has two clusters of cluster_key={cluster_key!r}, so none gets an error (status "
        f"'too_few_clusters'): {why}."
    )
    warn(msg)


def warn_of_few_clusters(effects: MarginalEffects) -> None:
    """Warn if intervals rest on two or three clusters: they are valid, and so wide that a reader would wonder."""
    few = (effects.status == "ok") & np.isin(effects.n_clusters, FEW_CLUSTERS)
    if not few.any():
        return
    msg = (
        f"{few.sum()} of {few.size} rows rest on 2 or 3 clusters. Their t intervals have 1 or 2 degrees of freedom "
        "(95 % quantile 12.7 or 4.3), so they are valid and very wide. Add replicates, or average over more by a "
        "coarser `groupby`."
    )
    warn(msg)


def warn_of_small_panel(effects: MarginalEffects) -> None:
    """Warn where `robust` has been seen to state too small errors: panels, predicted by a model that saw the cells."""
    params = effects.params
    of_interest = params["estimator"] == "robust" and not params["cross_fit"] and np.isfinite(effects.std_error).any()
    if len(effects.genes) >= SMALL_PANEL or not of_interest:
        return
    msg = (
        f"Intervals of 'robust' can be too short with {len(effects.genes)} genes, when a model predicts the cells it "
        "was trained on: in panels 95 % intervals have held the truth in 90 to 95 % of cases, those of large effects "
        "in 79 to 93 %. Give `cross_fit=2`, with which they hold, or take estimator='observed'."
    )
    warn(msg)


def _n_clusters(group: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Return the number of clusters with cells in each group that has any."""
    return np.unique(np.unique(np.stack([group, cluster]), axis=1)[0], return_counts=True)[1]
