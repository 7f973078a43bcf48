"""What the figures share: how they are written, and one run's data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from rich.console import Console

from scgraphvci._reproduce._experiment import Experiment, Split
from scgraphvci._reproduce._tables import Report

DPI = 150


class FigureReport(NamedTuple):
    """A figure and what it shows.

    Attributes
    ----------
    figure
        The figure, which is closed once it is written.
    report
        Tables, notes and numbers.
    """

    figure: Figure
    report: Report

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write ``<name>.png`` and the report; return the paths."""
        path = folder / f"{name}.png"
        save_figure(self.figure, path)
        return [path, *self.report.write(folder, name)]

    def print(self, console: Console) -> None:
        """Show the tables and notes."""
        self.report.print(console)


def save_figure(drawn: Any, path: Path) -> None:
    """Write what a plot returned, and let go of it."""
    figure = as_figure(drawn)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def first_split(experiment: Experiment) -> Split:
    """Return the data of the first run and split, the network not yet refined."""
    return next(replace(experiment, models=()).splits())


def as_figure(drawn: Any) -> Figure:
    """Return what a plot was asked to return."""
    if not isinstance(drawn, Figure):
        msg = f"Expected a figure, got {type(drawn).__name__}."
        raise TypeError(msg)
    return drawn
