"""What all plots share: colours, and how figures are made and handed back."""

from __future__ import annotations

from collections.abc import Sequence
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


def panels(
    n: int,
    ax: Axes | Sequence[Axes] | np.ndarray | None,
    figsize: tuple[float, float] | None,
    size: tuple[float, float],
) -> np.ndarray:
    """Return `n` axes, the user's or new ones side by side.

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

    Raises
    ------
    ValueError
        If the number of axes is not `n`.
    """
    if ax is None:
        width, height = figsize or (size[0] * n, size[1])
        return plt.subplots(1, n, figsize=(width, height), squeeze=False, layout="constrained")[1].ravel()
    given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if given.size != n:
        msg = f"This plot has {n} panel(s), but {given.size} axes were given in `ax`."
        raise ValueError(msg)
    return given


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
