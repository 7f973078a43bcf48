"""Make the picture of the page on large data from the benchmarks' tables: `python docs/_scaling_picture.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
DPI = 100
TIMES = {"set-up": "set-up", "before training": "before the first step", "epoch": "an epoch"}
PEAKS = {"epoch": "training", "predict": "predicting 100,000 cells", "predict to a file": "the same, into a file"}
MODELS = {"default": "GraphVCI", "default, VCI": "without a network", "default, NB": "GraphVCI, counts"}


def main() -> None:
    """Draw time and memory by cells, time by genes, and memory as estimated and measured."""
    mpl.use("Agg")
    with plt.style.context("seaborn-v0_8-colorblind"):
        figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
        by_cells = pd.read_csv(RESULTS / "out_of_core.csv", index_col="cells")
        time_by_cells(axes[0, 0], by_cells)
        memory_by_cells(axes[0, 1], by_cells)
        time_by_genes(axes[1, 0], pd.read_csv(RESULTS / "speed_steps.csv"))
        estimated_memory(axes[1, 1], pd.read_csv(RESULTS / "memory.csv"))
        for ax in axes.flat:
            ax.spines[["top", "right"]].set_visible(False)
            ax.legend(frameon=False, fontsize="small")
    figure.savefig(DOCS / "_static" / "scaling.png", dpi=DPI)


def time_by_cells(ax: Axes, table: pd.DataFrame) -> None:
    """Seconds of each stage, beside those in proportion to cells."""
    for (column, label), marker in zip(TIMES.items(), "osD", strict=True):
        ax.loglog(table.index, table[f"{column} (s)"], marker=marker, label=label)
    first = table["epoch (s)"].iloc[0]
    ax.loglog(table.index, first * table.index / table.index[0], "--", color="0.6", label="in proportion to cells")
    ax.set(title="Time by cells, from a file", xlabel="cells x 2,000 genes", ylabel="processor time (s)")


def memory_by_cells(ax: Axes, table: pd.DataFrame) -> None:
    """Largest resident size of each stage, a process of its own."""
    for (column, label), marker in zip(PEAKS.items(), "osD", strict=True):
        ax.semilogx(table.index, table[f"{column} (GiB)"], marker=marker, label=label)
    ax.semilogx(table.index, table["libraries (GiB)"], "--", color="0.6", label="libraries and an open file")
    ax.set(title="Memory by cells, from a file", xlabel="cells x 2,000 genes", ylabel="largest resident size (GiB)")
    ax.set_ylim(0, 1.5 * table["epoch (GiB)"].max())


def time_by_genes(ax: Axes, table: pd.DataFrame) -> None:
    """Seconds of a training step, beside the bare matrix products of one of them."""
    for (model, label), marker in zip(MODELS.items(), "osD", strict=True):
        rows = table[table["model"] == model]
        ax.loglog(rows["genes"], rows["ours (s)"], marker=marker, label=label)
    rows = table[table["model"] == "default"]
    ax.loglog(rows["genes"], rows["bare products (s)"], "--", color="0.6", label="bare matrix products of GraphVCI")
    ax.set(title="Time by genes, batch 128", xlabel="genes", ylabel="processor time of a step (s)")


def estimated_memory(ax: Axes, table: pd.DataFrame) -> None:
    """Growth of the largest resident size beside its estimate, one point per screen and stage."""
    for (stage, rows), marker in zip(table.groupby("stage", sort=False), "osD", strict=True):
        ax.loglog(rows["estimated"], rows["measured"], marker, label=stage, alpha=0.8)
    ends = [table["measured"].min() / 1.5, table["measured"].max() * 1.5]
    ax.loglog(ends, ends, "--", color="0.6", label="measured as estimated")
    ax.set(title="Memory by estimate_memory", xlabel="estimated (MiB)", ylabel="measured (MiB)")


if __name__ == "__main__":
    main()
