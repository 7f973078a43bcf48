"""What plots say of effects that are not as valid as others."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes

from scgraphvci.estimate import MarginalEffects
from scgraphvci.pl._base import RED, legend_beside

LONGEST = 29  # characters of a name
WIDTH = 26  # characters of a line beside the axes
TITLE = 44  # characters of a line over the axes

MEANING = {
    "extrapolated": "no cell received it here: prediction only",
    "no_reference": "no cell received the reference here",
    "too_few_cells": "an arm is too small for an interval",
    "too_few_clusters": "too few clusters for an interval",
    "leak_detected": "predictions tell the arms apart: believe observed",
}


def describe_status(effects: MarginalEffects) -> str:
    """Return status and meaning of the only treatment and stratum; nothing where it is "ok"."""
    status = str(effects.status[0, 0])
    return "" if status == "ok" else f"{status}: {MEANING.get(status, 'see the guide on estimands')}"


def say_status(axis: Axes, title: str, effects: MarginalEffects, **legend: Any) -> None:
    """Write title and legend; where the status is not "ok", it is in the title, and its meaning over the legend.

    Parameters
    ----------
    axis
        Where to write.
    title
        The title.
    effects
        Result for one treatment in one stratum.
    **legend
        Arguments of :func:`legend_beside`.
    """
    status = describe_status(effects)
    title = "\n".join(fill(line, TITLE, break_on_hyphens=False) for line in title.splitlines())
    axis.set_title(f"{title}\n{status.split(':')[0]}" if status else title, fontsize="medium")
    if status:
        legend |= {"title": fill(status, WIDTH), "title_fontsize": "x-small", "alignment": "left"}
    legend_beside(axis, **legend).get_title().set_color(RED)


def with_status(names: Iterable[str], status: Iterable[str]) -> list[str]:
    """Return names of rows, followed by the status in brackets where it is not "ok"."""
    return [name + ("" if said == "ok" else f" ({said})") for name, said in zip(names, status, strict=True)]


def shorten(name: object, longest: int = LONGEST) -> str:
    """Return a name, with the middle left out where it is longer than `longest`."""
    text, half = str(name), (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"
