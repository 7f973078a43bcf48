"""Checks of options, and of expression against the likelihood."""

from __future__ import annotations

import warnings
from typing import Any, get_args

from scgraphvci.model._presets import Preset
from scgraphvci.module._baseline import Propagation
from scgraphvci.module._likelihood import Likelihood
from scgraphvci.module._networks import Pooling
from scgraphvci.module._objective import DistributionLoss

RAW_COUNTS_FROM = 30  # log1p of normalised expression stays far below; whole numbers above this are raw counts

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
    if likelihood == "normal" and state["integer"] and state["max"] > RAW_COUNTS_FROM:
        msg = (
            f"Expression looks like raw counts (whole numbers up to {state['max']:.0f}), but likelihood='normal' "
            "expects log-normalised values. Use `sc.pp.normalize_total` and `sc.pp.log1p`, or likelihood='nb'."
        )
        warnings.warn(msg, UserWarning, stacklevel=3)
