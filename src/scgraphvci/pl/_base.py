"""What all plots share: colours, and how figures are made and handed back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

Drawn = Figure | Axes | np.ndarray | None

# Okabe and Ito's palette: told apart with any kind of colour vision.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#999999"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE)  # of lines that stand for different things
WIDEST = 13.0  # inches of a row of panels
N_SAID = 20  # names that an error lists


def listed(names: Sequence[str] | str) -> list[str]:
    """Return names as a list: a plain string is one name."""
    return [names] if isinstance(names, str) else list(names)


def choose(kind: str, names: Sequence[str] | str | None, known: Iterable[str], hint: str = "") -> list[str]:
    """Return the names to draw, in the order asked for; all of those known if None.

    Parameters
    ----------
    kind
        What they are names of, in the plural and with a capital letter.
    names
        Those asked for; a plain string is one name.
    known
        All there are; may repeat.
    hint
        What else to say of names that are not known.

    Raises
    ------
    KeyError
        If a name is not known.
    ValueError
        If no name is asked for.
    """
    known = list(dict.fromkeys(known))
    chosen = known if names is None else listed(names)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        more = f" and {len(known) - N_SAID} more" if len(known) > N_SAID else ""
        msg = f"{kind} {unknown} are not in what is drawn. It holds {known[:N_SAID]}{more}.{' ' * bool(hint)}{hint}"
        raise KeyError(msg)
    if not chosen:
        msg = f"{kind} to draw: none. Name at least one of {known[:N_SAID]}, or leave the argument out for all."
        raise ValueError(msg)
    return chosen


def panels(
    n: int,
    ax: Axes | Sequence[Axes] | np.ndarray | None,
    figsize: tuple[float, float] | None,
    size: tuple[float, float],
    beside: float = 0.0,
) -> np.ndarray:
    """Return `n` axes, the user's or new ones in as few rows of like length as a page is wide.

    Parameters
    ----------
    n
        Number of panels.
    ax
        The user's axes.
    figsize
        Size of a new figure; `size` for each panel if None.
    size
        Width and height of a panel.
    beside
        Width to add for what stands beside the panels of a row.

    Raises
    ------
    ValueError
        If the number of axes is not `n`.
    """
    if ax is None:
        n_rows = ceil(n / max(1, int(WIDEST / size[0])))
        n_columns = ceil(n / n_rows)
        figure = plt.figure(figsize=figsize or (size[0] * n_columns + beside, size[1] * n_rows), layout="constrained")
        return np.array([figure.add_subplot(n_rows, n_columns, 1 + i) for i in range(n)], dtype=object)
    given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if given.size != n:
        msg = f"This plot has {n} panel(s), but {given.size} axes were given in `ax`."
        raise ValueError(msg)
    return given


def starts_row(axes: np.ndarray) -> list[bool]:
    """Say which axes have none of the others to their left: those that say what the vertical axis is."""
    left = [axis.get_position().x0 for axis in axes]
    return [True, *(after <= before + 1e-3 for before, after in pairwise(left))]


def ends_row(axes: np.ndarray) -> Axes:
    """Return the last axes of the first row: beside any other a legend would push columns apart."""
    second = next((i for i, starts in enumerate(starts_row(axes)) if i and starts), len(axes))
    return axes[second - 1]


def finish(axes: np.ndarray, show: bool | None, return_fig: bool, *, single: bool = False) -> Drawn:
    """Show the figure if asked to, and return what the caller wants."""
    figure: Any = axes[0].figure
    if show if show is not None else (sc.settings.autoshow and not return_fig):
        plt.show()
        return figure if return_fig else None
    if return_fig:
        return figure
    return axes[0] if single else axes


def legend_beside(ax: Axes, gap: float = 0.0, **kwargs: Any) -> Legend:
    """Write the legend right of the axes, at a gap in widths of these."""
    return ax.legend(frameon=False, fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0 + gap, 1.0), **kwargs)


def tidy(ax: Axes) -> None:
    """Remove the frame's upper and right side."""
    ax.spines[["top", "right"]].set_visible(False)
