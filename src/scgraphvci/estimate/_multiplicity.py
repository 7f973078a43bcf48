"""Adjustment of p-values for many tests."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from scgraphvci.estimate._accumulate import FloatArray

Adjustment = Literal["fdr_bh", "holm", "bonferroni"]


def adjust_p_values(p_value: ArrayLike, method: Adjustment | None = "fdr_bh") -> FloatArray:
    """Adjust p-values for the number of tests along the last axis.

    NaN marks a test that was not done: it stays NaN and is not counted.

    Parameters
    ----------
    p_value
        P-values, shape ``(..., n_tests)``.
    method
        `"fdr_bh"` (false discovery rate; Benjamini and Hochberg, 1995), `"holm"` (family-wise error; Holm, 1979),
        `"bonferroni"` (family-wise error), or `None` (unchanged).

    Returns
    -------
    Adjusted p-values of the same shape.

    Raises
    ------
    ValueError
        If the method is unknown, or a p-value is outside [0, 1].

    Examples
    --------
    >>> adjust_p_values([0.01, 0.04, float("nan"), 0.03], "bonferroni").round(2).tolist()
    [0.03, 0.12, nan, 0.09]
    """
    p_value = np.array(p_value, dtype=np.float64)
    if np.any((p_value < 0) | (p_value > 1)):
        msg = f"p-values must be in [0, 1], found {np.nanmin(p_value):.3g} to {np.nanmax(p_value):.3g}."
        raise ValueError(msg)
    if method is None:
        return p_value
    if method not in get_args(Adjustment):
        msg = f"Unknown p-value adjustment {method!r}. Choose one of {get_args(Adjustment)} or None."
        raise ValueError(msg)
    n_tests = np.isfinite(p_value).sum(axis=-1, keepdims=True)
    if method == "bonferroni":
        return np.minimum(p_value * n_tests, 1.0)

    order = np.argsort(p_value, axis=-1)  # NaN last
    sorted_p = np.take_along_axis(p_value, order, axis=-1)
    rank = np.arange(1, p_value.shape[-1] + 1)
    if method == "holm":
        adjusted = np.maximum.accumulate(sorted_p * (n_tests - rank + 1), axis=-1)
    else:
        candidates = np.where(np.isnan(sorted_p), np.inf, sorted_p * n_tests / rank)
        adjusted = np.minimum.accumulate(candidates[..., ::-1], axis=-1)[..., ::-1]
    result = np.empty_like(p_value)
    np.put_along_axis(result, order, np.minimum(adjusted, 1.0), axis=-1)
    result[np.isnan(p_value)] = np.nan
    return result
