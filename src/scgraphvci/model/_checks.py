"""Checks of expression against the likelihood."""

from __future__ import annotations

import warnings
from typing import Any

RAW_COUNTS_FROM = 30  # log1p of normalised expression stays far below; whole numbers above this are raw counts


def check_outcome(state: Any, likelihood: str) -> None:
    """Check that expression suits the likelihood.

    Raises
    ------
    ValueError
        If the likelihood is unknown, or one for counts is to be used on values that are not counts.
    """
    if likelihood not in ("normal", "nb", "zinb"):
        msg = f"Unknown likelihood {likelihood!r}. Choose one of ['normal', 'nb', 'zinb']."
        raise ValueError(msg)
    if likelihood != "normal" and (not state["integer"] or state["min"] < 0):
        what = f"negative values (smallest {state['min']})" if state["min"] < 0 else "values that are not whole numbers"
        msg = f"likelihood={likelihood!r} needs counts, but expression holds {what}. Name the layer of counts at setup."
        raise ValueError(msg)
    if likelihood == "normal" and state["integer"] and state["max"] > RAW_COUNTS_FROM:
        msg = (
            f"Expression looks like raw counts (whole numbers up to {state['max']:.0f}), but likelihood='normal' "
            "expects log-normalised values. Use `sc.pp.normalize_total` and `sc.pp.log1p`, or likelihood='nb'."
        )
        warnings.warn(msg, UserWarning, stacklevel=3)
