"""Means and standard deviations over runs, as csv, markdown and on the screen."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

MAX_WIDTH = 10_000  # characters: what a table would take if there were room


class Report(NamedTuple):
    """What a command found.

    Attributes
    ----------
    title
        Of all.
    tables
        Frames of text for readers, by heading; the name of the index heads the first column.
    notes
        What readers should know.
    numbers
        Frames to write as csv, by name of file; their index is written where it has a name.
    """

    title: str
    tables: Mapping[str, pd.DataFrame]
    notes: Sequence[str]
    numbers: Mapping[str, pd.DataFrame]

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write ``<name>.md`` with the tables and notes, and one csv for each frame of numbers; return the paths."""
        sections = [f"## {heading}\n\n{to_markdown(table)}" for heading, table in self.tables.items()]
        paths = [folder / f"{name}.md"]
        paths[0].write_text("\n\n".join([f"# {self.title}", *sections, *self.notes]) + "\n", encoding="utf-8")
        for file, frame in self.numbers.items():
            paths.append(folder / f"{file}.csv")
            frame.to_csv(paths[-1], float_format="%.6g", index=frame.index.name is not None)
        return paths

    def print(self, console: Console) -> None:
        """Show the tables and notes; as markdown where a table is wider than the console."""
        console.rule(self.title)
        for heading, table in self.tables.items():
            shown = Table(str(table.index.name), *map(str, table.columns), title=heading, title_justify="left")
            for name, row in zip(table.index, table.to_numpy(), strict=True):
                shown.add_row(str(name), *row)
            if Measurement.get(console, console.options.update(width=MAX_WIDTH), shown).maximum <= console.width:
                console.print(shown)
            else:
                text = f"{heading}\n\n{to_markdown(table)}\n"
                console.print(text, markup=False, highlight=False, soft_wrap=True)
        for note in self.notes:
            console.print(note, markup=False, highlight=False)


def over_runs(runs: pd.DataFrame, row: str, columns: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return mean and standard deviation over runs (denominator n - 1; NaN for one run).

    Parameters
    ----------
    runs
        One row per run and row of the table: the column `row`, and numbers.
    row
        Column that names the rows of the table, which keep their order.
    columns
        The numbers.
    """
    grouped = runs.groupby(row, sort=False)[list(columns)]
    return grouped.mean(), grouped.std()


def mean_and_sd(mean: pd.DataFrame, sd: pd.DataFrame) -> pd.DataFrame:
    """Return both as numbers, each column followed by the one of its standard deviations."""
    return mean.join(sd.add_suffix("_sd"))[[part for column in mean for part in (column, f"{column}_sd")]]


def as_text(mean: pd.DataFrame, sd: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns as text such as "0.892 ± 0.003"."""
    return pd.DataFrame({name: list(map(_number, mean[name], sd[name])) for name in columns}, index=mean.index)


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a frame of text as a markdown table, its index first."""
    lines = [[str(frame.index.name), *map(str, frame.columns)], ["---"] * (1 + frame.shape[1])]
    lines += [[str(name), *row] for name, row in zip(frame.index, frame.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def versions() -> str:
    """Return the versions that numbers depend on."""
    names = ("scgraphvci", "scvi-tools", "torch")
    return f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names) + "."


def _number(mean: float, sd: float) -> str:
    if not np.isfinite(mean):
        return "n/a"
    return f"{mean:.3f} ± {sd:.3f}" if np.isfinite(sd) else f"{mean:.3f}"
