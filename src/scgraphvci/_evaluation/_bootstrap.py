"""Intervals by resampling conditions."""

from __future__ import annotations

import numpy as np

QUANTILES = (0.025, 0.975)


def resampling_weights(n_conditions: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """Draw how often each condition occurs in each resample, shape ``(n_bootstrap, n_conditions)``."""
    rng = np.random.default_rng(seed)
    share = np.full(n_conditions, 1 / n_conditions)
    return rng.multinomial(n_conditions, share, size=n_bootstrap).astype(np.float64)


def mean_and_interval(values: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Mean over conditions and its 95 % percentile interval.

    Parameters
    ----------
    values
        Shape ``(n_conditions,)``; NaN where the metric is not defined, which leaves the condition out.
    weights
        Of :func:`resampling_weights`: the same for all that is compared.

    Returns
    -------
    Mean and ends of the interval: all NaN where no condition counts; no interval with fewer than two.
    """
    known = np.isfinite(values)
    if not known.any():
        return (np.nan, np.nan, np.nan)
    mean = float(values[known].mean())
    size = weights[:, known].sum(axis=1)
    if known.sum() < 2 or not (size > 0).any():
        return (mean, np.nan, np.nan)
    resampled = (weights[:, known] @ values[known])[size > 0] / size[size > 0]
    low, high = np.quantile(resampled, QUANTILES)
    return (mean, float(low), float(high))
