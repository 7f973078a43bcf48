"""The leak of predictions, and what remains of effects as it grows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from scgraphvci.estimate import MarginalEffects
from scgraphvci.pl._base import BLUE, COLOURS, GREY, RED, Drawn, finish, legend_beside, listed, panels, tidy
from scgraphvci.pl._effects import effect_label, one_row, strongest
from scgraphvci.pl._status import say_status, shorten, with_status


def effects_leakage(
    effects: MarginalEffects,
    *,
    treatments: str | Sequence[str] | None = None,
    strata: Mapping[str, Any] | None = None,
    n_rows: int = 40,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the share of the predicted effect that leaks, for every treatment and stratum.

    A point and a line are the share and its interval. The grey bar behind them reaches to the smallest share that a
    test at this number of cells finds with probability .8: a leak inside it may well be missed. Rows where the omnibus
    test of :meth:`~scgraphvci.estimate._leakage.Leakage.summary` finds a leak are of another colour, and filled unless
    what is left of it in `robust` is too small to matter for intervals (status "ok").

    Parameters
    ----------
    effects
        What :meth:`scgraphvci.GraphVCI.marginal_effect` returned.
    treatments, strata
        Which to draw, as in :meth:`scgraphvci.MarginalEffects.select`; all by default.
    n_rows
        Rows to draw at most, those with the smallest p-values.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If a treatment, stratum key or level is not in the result.
    ValueError
        If the leak was not measured, or no row has a share (there is none without a reference).
    """
    chosen = effects.select(treatments, strata)
    frame = chosen.leakage().summary()
    frame = frame[np.isfinite(frame["share"])]
    if frame.empty:
        msg = (
            "No treatment and stratum has a share of leak. It needs a reference, cells in both arms and two clusters: "
            "see `effects.leakage().summary()`."
        )
        raise ValueError(msg)
    n_all = len(frame)
    frame = frame.loc[frame["p_value"].nsmallest(n_rows).index.sort_values()]
    rows = [", ".join(map(shorten, row)) for row in frame[["treatment", *chosen.strata.columns]].to_numpy()]
    # What was found is drawn in another colour: only what keeps a row from having an interval is said beside its name.
    labels = with_status(rows, frame["status"].replace("leak_detected", "ok"))
    position = np.arange(len(frame))
    width = 4.8 + 0.065 * max(map(len, labels))
    axis = panels(1, ax, figsize, (width, 1.0 + 0.24 * len(frame)))[0]
    axis.use_sticky_edges = False  # a bar leaves a margin on its left as on its right
    axis.barh(position, 2 * frame["share_detectable"], left=-frame["share_detectable"], height=0.7, color="0.9",
              label="found with probability below .8")  # fmt: skip
    axis.axvline(0, color=GREY, linewidth=0.8)
    found, ok = frame["detected"].to_numpy(), (frame["status"] == "ok").to_numpy()
    level = 100 * (1 - effects.params["alpha"])
    for label, member, colour, fill in (
        ("no leak found", ~found, BLUE, "white"),
        ("leak found, intervals hold", found & ok, RED, "white"),
        ("leak found", found & ~ok, RED, RED),
    ):
        if not member.any():
            continue
        part = frame[member]
        axis.hlines(position[member], part["share_low"], part["share_high"], color=colour, linewidth=1.5)
        axis.plot(part["share"], position[member], "o", color=colour, markerfacecolor=fill, markersize=4.5,
                  label=f"{label} ({len(part)})")  # fmt: skip
    axis.set_yticks(position, labels, fontsize=_row_font(axis, len(frame)))
    axis.set(ylim=(len(frame) - 0.5, -0.5), xlabel=f"share of the effect that leaks, {level:g} % interval")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    if len(frame) < n_all:
        axis.set_title(f"{len(frame)} of {n_all} rows, those with the smallest p-values", fontsize="medium")
    legend_beside(axis, gap=0.02)
    tidy(axis)
    return finish(np.array([axis]), show, return_fig, single=True)


def effects_sensitivity(
    effects: MarginalEffects,
    *,
    treatment: str | None = None,
    stratum: Mapping[str, Any] | Hashable | None = None,
    genes: Sequence[str] | str | int = 3,
    max_leak: float = 0.3,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw intervals of effects against the leak that is allowed for, and the leak at which significance is lost.

    Parameters
    ----------
    effects, treatment, stratum
        As in :func:`effects_volcano`; of the estimator `robust`.
    genes
        Genes to draw, at most 5; or the number of genes with the largest effects in units of their errors.
    max_leak
        Largest leak, as a share of the predicted effect.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If treatment, stratum or a gene are not in the result.
    ValueError
        If more than one treatment or stratum is meant, there are more than 5 genes, `max_leak` is not above zero, or
        the result is not of `robust` with a reference.
    """
    chosen, title = one_row(effects, treatment, stratum)
    names = strongest(chosen.to_frame(), genes)["gene"].tolist() if isinstance(genes, int) else listed(genes)
    if not 1 <= len(names) <= len(COLOURS):
        msg = f"{len(names)} genes were asked for. Draw 1 to {len(COLOURS)} at a time."
        raise ValueError(msg)
    if max_leak <= 0:
        msg = f"`max_leak` is {max_leak}, must be above 0: 0.3 draws leaks up to 30 % of the effect."
        raise ValueError(msg)
    frame = chosen.sensitivity(np.linspace(0, max_leak, 61), genes=names)
    axis = panels(1, ax, figsize, (5.8, 3.4))[0]
    axis.axhline(0, color="black", linewidth=0.6, linestyle="--")
    for gene, colour in zip(names, COLOURS, strict=False):
        part = frame[frame["gene"] == gene]
        lost = float(part["leak_to_insignificance"].iloc[0])
        axis.fill_between(part["leak"], part["ci_low"], part["ci_high"], color=colour, alpha=0.15, linewidth=0)
        for end in ("ci_low", "ci_high"):
            axis.plot(part["leak"], part[end], color=colour, linewidth=0.8)
        axis.plot(
            part["leak"],
            part["estimate"],
            color=colour,
            linewidth=1.8,
            label=f"{shorten(gene)}: {_lost(lost, max_leak)}",
        )
        if lost <= max_leak:
            axis.plot(lost, 0.0, "X", color=colour, markeredgecolor="white", markersize=8, clip_on=False, zorder=3)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set(xlim=(0, max_leak), xlabel="leak allowed for, share of the effect", ylabel=effect_label(effects))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    say_status(axis, title, chosen, gap=0.02)
    tidy(axis)
    return finish(np.array([axis]), show, return_fig, single=True)


def _row_font(axis: Axes, n_rows: int) -> float:
    """Size of letters, in points, with which names of rows do not touch."""
    return float(np.clip(0.8 * 72 * axis.bbox.height / axis.figure.dpi / max(1, n_rows), 3.0, 8.0))


def _lost(leak: float, max_leak: float) -> str:
    """Say from which leak on an effect is no longer significant."""
    if np.isnan(leak):
        return "no interval"
    if leak == 0:
        return "not significant"
    return f"significant up to {leak:.1%}" if leak <= max_leak else f"significant beyond {max_leak:.0%}"
