"""Options of an estimation, and which go together."""

from __future__ import annotations

from typing import Literal, get_args

from scgraphvci.estimate._estimands import Estimand
from scgraphvci.estimate._influence import Estimator
from scgraphvci.estimate._multiplicity import Adjustment

EffectAdjustment = Literal[Adjustment, "romano_wolf"]

_MIN_CELLS_FOR_VARIANCE = 2


def check_request(
    estimator: str,
    reference: str | None,
    estimand: str,
    pseudocount: float,
    min_cells: int,
    min_counts: float,
    alpha: float,
    p_adjust: str | None,
    max_leak: float,
    keep_influence: bool | str,
) -> None:
    """Check the options of `marginal_effects`, which raises what this raises, before models of folds are trained.

    Raises
    ------
    ValueError
        If an option is not allowed, alone or with another.
    """
    _check_options(estimator, min_cells, alpha, p_adjust)
    _check_estimand(estimand, pseudocount, reference)
    _check_max_leak(max_leak, estimator, reference, estimand)
    if not min_counts >= 0:
        msg = f"`min_counts` is {min_counts}, must be 0 or larger."
        raise ValueError(msg)
    if keep_influence not in (True, False, "float64", "bands"):
        msg = (
            f"Unknown `keep_influence` {keep_influence!r}. Choose one of True, False, 'float64', 'bands', or for "
            "effects of a model 'cells'."
        )
        raise ValueError(msg)
    if p_adjust == "romano_wolf" and (estimator == "plugin" or keep_influence in (False, "bands")):
        msg = (
            f"p_adjust='romano_wolf' needs influence totals, but `estimator` is {estimator!r} and `keep_influence` is "
            f"{keep_influence!r}. Estimate 'robust' or 'observed' and keep them (True), or choose another adjustment."
        )
        raise ValueError(msg)


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
    if p_adjust is not None and p_adjust not in get_args(EffectAdjustment):
        msg = f"Unknown `p_adjust` {p_adjust!r}. Choose one of {get_args(EffectAdjustment)} or None."
        raise ValueError(msg)


def _check_estimand(estimand: str, pseudocount: float, reference: str | None) -> None:
    if estimand not in get_args(Estimand):
        msg = (
            f"Unknown estimand {estimand!r}. Choose one of {get_args(Estimand)}; `reference=None` gives means of arms."
        )
        raise ValueError(msg)
    if pseudocount < 0:
        msg = f"`pseudocount` is {pseudocount}, must be 0 or larger: it is added to both means of a fold change."
        raise ValueError(msg)
    if estimand != "difference" and reference is None:
        msg = f"A {estimand!r} needs a `reference` to compare with. Name one, or leave `estimand` at 'difference'."
        raise ValueError(msg)


def _check_max_leak(max_leak: float, estimator: str, reference: str | None, estimand: str) -> None:
    if not 0 <= max_leak < 1:
        msg = f"`max_leak` is {max_leak}, must be a share of the effect: at least 0 and below 1 (0.05 allows for 5 %)."
        raise ValueError(msg)
    if max_leak > 0 and (estimator != "robust" or reference is None or estimand != "difference"):
        msg = (
            f"`max_leak` bounds the bias of a 'robust' difference to a reference, but `estimator` is {estimator!r}, "
            f"`estimand` {estimand!r} and `reference` {reference!r}. Leave it at 0, or change those."
        )
        raise ValueError(msg)
