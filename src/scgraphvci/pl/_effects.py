"""Marginal effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scgraphvci.estimate import MarginalEffects
from scgraphvci.pl._base import BLUE, GREY, ORANGE, RED, Drawn, finish, legend_beside, panels, tidy


def effects_volcano(
    effects: MarginalEffects,
    *,
    treatment: str | None = None,
    stratum: Mapping[str, Any] | None = None,
    alpha: float = 0.05,
    n_labels: int = 10,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw effects of a treatment in a stratum against their adjusted p-values.

    Parameters
    ----------
    effects
        What :meth:`scgraphvci.GraphVCI.marginal_effect` returned.
    treatment
        Which treatment; may be left out if there is one.
    stratum
        One level for each stratum key, as in ``{"cell_type": "B"}``; may be left out if there is one stratum.
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
        msg = f"No gene has a p-value for {title.replace(chr(10), ', ')}. `effects.to_frame()['status']` says why."
        raise ValueError(msg)
    smallest = frame["p_value_adj"][frame["p_value_adj"] > 0].min()
    frame["height"] = -np.log10(frame["p_value_adj"].clip(lower=smallest if np.isfinite(smallest) else 1e-300))
    axis = panels(1, ax, figsize, (4.4, 3.8))[0]
    significant = frame["p_value_adj"] < alpha
    up, down = significant & (frame["estimate"] > 0), significant & (frame["estimate"] < 0)
    groups = (("not significant", ~significant, GREY), ("up", up, ORANGE), ("down", down, BLUE))
    for label, member, colour in groups:
        part = frame[member]
        axis.scatter(part["estimate"], part["height"], s=10, color=colour, linewidths=0, alpha=0.7,
                     label=f"{label} ({len(part)})", rasterized=True)  # fmt: skip
    axis.axhline(-np.log10(alpha), color="black", linewidth=0.6, linestyle="--")
    axis.axvline(0, color=GREY, linewidth=0.6)
    limit = 1.25 * float(frame["estimate"].abs().max())
    axis.set(xlim=(-limit, limit), ylim=(0, 1.08 * max(float(frame["height"].max()), -np.log10(alpha))))
    axis.set(xlabel="effect on mean expression", ylabel=r"$-\log_{10}$ adjusted p-value")
    axis.set_title(title, fontsize="medium")
    _name_points(axis, frame[significant].nsmallest(n_labels, "p_value"))
    legend_beside(axis, handletextpad=0.1)
    tidy(axis)
    return finish(np.array([axis]), show, return_fig, single=True)


def effects_forest(
    effects: MarginalEffects,
    *,
    treatment: str | None = None,
    stratum: Mapping[str, Any] | None = None,
    genes: Sequence[str] | int = 15,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw effects of a treatment in a stratum with their intervals, beside the observed differences of means.

    Parameters
    ----------
    effects, treatment, stratum
        As in :func:`effects_volcano`.
    genes
        Genes to draw, from top to bottom; or the number of genes with the largest effects in units of their errors.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If treatment, stratum or a gene are not in the result.
    ValueError
        If more than one treatment or stratum is meant.
    """
    chosen, title = one_row(effects, treatment, stratum)
    if isinstance(genes, int):
        frame = strongest(chosen.to_frame(), genes).sort_values("estimate", ascending=False)
    else:
        frame = chosen.to_frame(genes=genes)
    axis = panels(1, ax, figsize, (4.0, 0.8 + 0.24 * len(frame)))[0]
    position = np.arange(len(frame))
    axis.axvline(0, color=GREY, linewidth=0.8)
    dodge = 0.16  # the two estimates often agree to the width of a point
    axis.hlines(position - dodge, frame["ci_low"], frame["ci_high"], color=BLUE, linewidth=1.5)
    level = 100 * (1 - effects.params["alpha"])
    axis.plot(frame["estimate"], position - dodge, "o", color=BLUE, markersize=4,
              label=f"{effects.params['estimator']}, {level:g} % interval")  # fmt: skip
    axis.plot(frame["observed"], position + dodge, "x", color=RED, markersize=4, label="observed")
    axis.set_yticks(position, frame["gene"], fontsize="small")
    axis.set(ylim=(len(frame) - 0.5, -0.5), xlabel="effect on mean expression")
    axis.set_title(title, fontsize="medium")
    legend_beside(axis)
    tidy(axis)
    return finish(np.array([axis]), show, return_fig, single=True)


def one_row(
    effects: MarginalEffects, treatment: str | None, stratum: Mapping[str, Any] | None
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
    return chosen, "\n".join(filter(None, [what, levels_of(chosen)]))


def one_stratum(effects: MarginalEffects, stratum: Mapping[str, Any] | None) -> MarginalEffects:
    """Return the result for one stratum."""
    chosen = effects.select(strata=stratum)
    if len(chosen.strata) != 1:
        first = chosen.strata.iloc[0].to_dict() if len(chosen.strata) else dict(stratum or {})
        msg = f"{len(chosen.strata)} strata are left. Name one with `stratum`, such as {first}."
        raise ValueError(msg)
    return chosen


def levels_of(effects: MarginalEffects) -> str:
    """Return the levels of the only stratum."""
    return ", ".join(str(level) for level in effects.strata.iloc[0])


def strongest(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the rows with the largest effects in units of their errors, the largest first."""
    size = (frame["estimate"] / frame["std_error"]).abs().fillna(-1.0)
    return frame.loc[size.sort_values(ascending=False).index[:n]]


def _name_points(axis: Axes, named: pd.DataFrame) -> None:
    """Write gene names beside points, left of negative effects and right of positive ones, one below the other."""
    gap = 0.045 * float(np.diff(axis.get_ylim())[0])
    for right in (True, False):
        below = np.inf
        offset = 0.03 * float(np.diff(axis.get_xlim())[0]) * (1 if right else -1)
        side = named[(named["estimate"] > 0) == right].sort_values("height", ascending=False)
        for gene, x, y in zip(side["gene"], side["estimate"], side["height"], strict=True):
            below = min(y, below - gap)
            axis.annotate(
                str(gene), (x, y), xytext=(x + offset, below), fontsize="x-small",
                ha="left" if right else "right", va="center",
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
            )  # fmt: skip
