"""Intervals by resampling conditions, all of a treatment together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

QUANTILES = (0.025, 0.975)
MIN_CLUSTERS = 10  # fewer treatments are too few to be resampled: conditions are, as if they were independent


class Resamples(NamedTuple):
    """How often each condition occurs in each resample: the same for all that is compared.

    Attributes
    ----------
    weights
        Shape ``(n_bootstrap, n_conditions)``.
    cluster
        What was resampled: code of the cluster of each condition, shape ``(n_conditions,)``.
    """

    weights: np.ndarray
    cluster: np.ndarray


def resample(cluster: np.ndarray, n_bootstrap: int, seed: int) -> Resamples:
    """Resample clusters of conditions, or conditions where there are fewer than ten clusters.

    Parameters
    ----------
    cluster
        Code of the cluster of each condition, 0 to the number of clusters - 1, shape ``(n_conditions,)``.
    n_bootstrap
        Number of resamples.
    seed
        Of the draws.
    """
    if np.unique(cluster).size < MIN_CLUSTERS:
        cluster = np.arange(cluster.size)
    n = np.unique(cluster).size
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_bootstrap)
    return Resamples(drawn[:, cluster].astype(np.float64), cluster)


def mean_and_interval(values: np.ndarray, resamples: Resamples) -> tuple[float, float, float]:
    """Mean over conditions and its 95 % percentile interval.

    Parameters
    ----------
    values
        Shape ``(n_conditions,)``; NaN where the metric is not defined, which leaves the condition out.
    resamples
        Of :func:`resample`.

    Returns
    -------
    Mean and ends of the interval: all NaN where no condition counts; no interval with fewer than two clusters.
    """
    known = np.isfinite(values)
    if not known.any():
        return (np.nan, np.nan, np.nan)
    mean = float(values[known].mean())
    weights = resamples.weights[:, known]
    size = weights.sum(axis=1)
    if np.unique(resamples.cluster[known]).size < 2 or not (size > 0).any():
        return (mean, np.nan, np.nan)
    resampled = (weights @ values[known])[size > 0] / size[size > 0]
    low, high = np.quantile(resampled, QUANTILES)
    return (mean, float(low), float(high))
