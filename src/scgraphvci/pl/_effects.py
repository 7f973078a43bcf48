"""Marginal effects."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Text

from scgraphvci.estimate import MarginalEffects
from scgraphvci.estimate._one_stratum import one_stratum
from scgraphvci.pl._base import BLUE, GREY, ORANGE, RED, Drawn, finish, panels, tidy
from scgraphvci.pl._status import describe_status, say_status, shorten

LABELS = {"difference": "effect on mean expression", "ratio": "ratio of means", "log_fold_change": "log2 fold change"}
LONGEST_IN_AXES = 17  # characters of a name among points
CONTRAST_LABELS = {
    "difference": "difference of effects on mean expression",
    "ratio": "difference of ratios of means",
    "log_fold_change": "difference of log2 fold changes",
}


def effects_volcano(
    effects: MarginalEffects,
    *,
    treatment: str | None = None,
    stratum: Mapping[str, Any] | Hashable | None = None,
    alpha: float = 0.05,
    n_labels: int = 10,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw effects of a treatment in a stratum against their adjusted p-values.

    Where the status is not "ok", points are hollow; title and legend say why.

    Parameters
    ----------
    effects
        What :meth:`scgraphvci.GraphVCI.marginal_effect` returned.
    treatment
        Which treatment; may be left out if there is one.
    stratum
        One level for each stratum key, as in ``{"cell_type": "B"}``, or ``"B"`` itself where there is one
        key; may be left out if there is one stratum.
    alpha
        Genes with a smaller adjusted p-value are coloured.
    n_labels
        Number of genes to name, those with the smallest p-values.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If treatment or stratum are not in the result.
    ValueError
        If more than one treatment or stratum is meant, or none of its genes has a p-value.
    """
    chosen, title = one_row(effects, treatment, stratum)
    frame = chosen.to_frame()
    frame = frame[np.isfinite(frame["p_value_adj"])]
    if frame.empty:
        msg = (
            f"No gene has a p-value for {title.replace(chr(10), ', ')} ({_why_none(chosen)}). "
            "`pl.effects_forest` draws estimates without intervals."
        )
        raise ValueError(msg)
    smallest = frame["p_value_adj"][frame["p_value_adj"] > 0].min()
    frame["height"] = -np.log10(frame["p_value_adj"].clip(lower=smallest if np.isfinite(smallest) else 1e-300))
    axis = panels(1, ax, figsize, (5.4, 3.8))[0]
    significant = frame["p_value_adj"] < alpha
    up, down = significant & (frame["estimate"] > 0), significant & (frame["estimate"] < 0)
    groups = (("not significant", ~significant, GREY), ("up", up, ORANGE), ("down", down, BLUE))
    valid = chosen.status[0, 0] == "ok"
    for label, member, colour in groups:
        part = frame[member]
        axis.scatter(part["estimate"], part["height"], s=10 if valid else 14, facecolors=colour if valid else "none",
                     edgecolors=colour, linewidths=0 if valid else 0.8, alpha=0.7, label=f"{label} ({len(part)})",
                     rasterized=True)  # fmt: skip
    axis.axhline(-np.log10(alpha), color="black", linewidth=0.6, linestyle="--")
    axis.axvline(0, color=GREY, linewidth=0.6)
    limit = 1.25 * float(frame["estimate"].abs().max())
    axis.set(xlim=(-limit, limit), ylim=(0, 1.08 * max(float(frame["height"].max()), -np.log10(alpha))))
    axis.set(xlabel=effect_label(effects), ylabel=r"$-\log_{10}$ adjusted p-value")
    say_status(axis, title, chosen, handletextpad=0.1)
    tidy(axis)
    _name_points(axis, frame[significant].nsmallest(n_labels, "p_value"))
    return finish(np.array([axis]), show, return_fig, single=True)


def effects_forest(
    effects: MarginalEffects,
    *,
    treatment: str | None = None,
    stratum: Mapping[str, Any] | Hashable | None = None,
    genes: Sequence[str] | str | int = 15,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw effects of a treatment in a stratum with their intervals, beside the observed differences of means.

    Where the status is not "ok", markers are hollow, and intervals dashed or absent; title and legend say why.

    Parameters
    ----------
    effects, treatment, stratum
        As in :func:`effects_volcano`.
    genes
        Genes to draw, from top to bottom; or the number of genes with the largest effects in units of their errors,
        or, where there are no errors, with the largest effects.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If treatment, stratum or a gene are not in the result.
    ValueError
        If more than one treatment or stratum is meant, or no gene has an estimate.
    """
    chosen, title = one_row(effects, treatment, stratum)
    if isinstance(genes, int):
        frame = strongest(chosen.to_frame(), genes).sort_values("estimate", ascending=False)
    else:
        frame = chosen.to_frame(genes=genes)
    if not np.isfinite(frame["estimate"]).any():
        msg = f"No gene asked for has an estimate for {title.replace(chr(10), ', ')} ({_why_none(chosen)})."
        raise ValueError(msg)
    axis = panels(1, ax, figsize, (5.2, 1.0 + 0.24 * len(frame)))[0]
    position = np.arange(len(frame))
    axis.axvline(0, color=GREY, linewidth=0.8)
    beside = effects.params["estimator"] != "observed" and bool(np.isfinite(frame["observed"]).any())
    dodge = 0.16 if beside else 0.0  # the two estimates often agree to the width of a point
    valid = chosen.status[0, 0] == "ok"
    axis.hlines(position - dodge, frame["ci_low"], frame["ci_high"], color=BLUE, linewidth=1.5,
                linestyles="-" if valid else (0, (2, 1.5)))  # fmt: skip
    axis.plot(frame["estimate"], position - dodge, "o", color=BLUE, markersize=4.5, label=_estimate_label(chosen),
              markerfacecolor=BLUE if valid else "white")  # fmt: skip
    if beside:
        axis.plot(frame["observed"], position + dodge, "x", color=RED, markersize=4, label="observed")
    axis.set_yticks(position, frame["gene"], fontsize="small")
    axis.set(ylim=(len(frame) - 0.5, -0.5), xlabel=effect_label(effects))
    say_status(axis, title, chosen)
    tidy(axis)
    return finish(np.array([axis]), show, return_fig, single=True)


def one_row(
    effects: MarginalEffects, treatment: str | None, stratum: Mapping[str, Any] | Hashable | None
) -> tuple[MarginalEffects, str]:
    """Return the result for one treatment in one stratum, and a title."""
    if effects.params.get("estimand") == "ratio":
        msg = "Ratios are compared with 1, and this is drawn around 0. Estimate with `estimand='log_fold_change'`."
        raise ValueError(msg)
    chosen = effects.select(treatment)
    if len(chosen.treatments) != 1:
        msg = f"Name one `treatment`. The result holds {chosen.treatments.tolist()[:20]}."
        raise ValueError(msg)
    chosen = one_stratum(chosen, stratum)
    reference = effects.params["reference"]
    what = f"{chosen.treatments[0]} against {reference}" if reference else f"mean under {chosen.treatments[0]}"
    if effects.is_contrast:
        what = f"{chosen.treatments[0]}, each against {reference}" if reference else str(chosen.treatments[0])
    return chosen, "\n".join(filter(None, [what, levels_of(chosen)]))


def effect_label(effects: MarginalEffects) -> str:
    """Return what effects are, for an axis."""
    if effects.params["reference"] is None:
        return "difference of mean expression" if effects.is_contrast else "mean expression"
    if effects.is_contrast:
        return CONTRAST_LABELS[effects.params["contrast_of"]]
    return LABELS[effects.params.get("estimand", "difference")]


def levels_of(effects: MarginalEffects) -> str:
    """Return the levels of the only stratum."""
    return ", ".join(str(level) for level in effects.strata.iloc[0])


def strongest(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the rows with the largest effects in units of their errors (plain, if none has one), the largest first."""
    has_error = np.isfinite(frame["std_error"])
    size = (frame["estimate"] / frame["std_error"].where(has_error, np.nan if has_error.any() else 1.0)).abs()
    return frame.loc[size.fillna(-1.0).sort_values(ascending=False, kind="stable").index[:n]]


def _estimate_label(effects: MarginalEffects) -> str:
    """Say what the drawn estimate of the only treatment and stratum is."""
    name = "prediction" if effects.status[0, 0] == "extrapolated" else effects.params["estimator"]
    if not np.isfinite(effects.std_error).any():
        return f"{name}, no interval"
    return f"{name}, {100 * (1 - effects.params['alpha']):g} % interval"


def _why_none(effects: MarginalEffects) -> str:
    return describe_status(effects) or f"estimator {effects.params['estimator']!r}"


def _name_points(axis: Axes, named: pd.DataFrame) -> None:
    """Write gene names beside points, left of negative effects and right of positive ones, one below the other.

    The x axis, which is symmetric, is widened until all names lie within it; long ones lose their middle.
    """
    low, high = axis.get_ylim()
    limit = axis.get_xlim()[1]
    texts = []
    for side in (1, -1):
        part = named[np.sign(named["estimate"]) == side].sort_values("height", ascending=False)
        heights = _spread(part["height"].to_numpy(), low, high)
        for gene, x, y, height in zip(part["gene"], part["estimate"], part["height"], heights, strict=True):
            texts.append(
                axis.annotate(
                    shorten(gene, LONGEST_IN_AXES), (x, y), xytext=(x + side * 0.06 * limit, height),
                    fontsize="x-small", ha="left" if side == 1 else "right", va="center",
                    arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
                )
            )  # fmt: skip
    if not texts:
        return
    axis.figure.canvas.figure.draw_without_rendering()  # settles the layout, so that widths are known
    width = axis.get_window_extent().width
    # A quarter more than names take, for axes of a larger figure shrink when its other panels are drawn.
    share = [min(2.5 * (Text.get_window_extent(text).width + 6) / width, 0.8) for text in texts]
    limit = max([limit, *(abs(text.xyann[0]) / (1 - taken) for text, taken in zip(texts, share, strict=True))])
    axis.set_xlim(-limit, limit)


def _spread(height: np.ndarray, low: float, high: float) -> np.ndarray:
    """Heights of names of points, from top to bottom: at least a line apart, within the axis where they fit."""
    line = min(0.045 * (high - low), 0.9 * (high - low) / max(1, height.size))
    rank = np.arange(height.size)
    apart = np.minimum.accumulate(height + line * rank) - line * rank
    return np.maximum(apart, low + line * (height.size - 0.5 - rank))
