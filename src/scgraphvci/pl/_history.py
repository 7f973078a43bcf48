"""Training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scgraphvci.pl._base import BLUE, ORANGE, Drawn, finish, listed, panels, tidy


def history(
    model: Any,
    *,
    metrics: Sequence[str] | str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the history of a training, one panel per metric.

    Parameters
    ----------
    model
        A trained model, whose `history` holds frames by epoch.
    metrics
        Names without "train" or "validation", such as "loss", "reconstruction_loss", "divergence", "pearson_shift".
        Both are drawn where both were logged. If None, the loss, and "pearson_shift" if it was logged.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    ValueError
        If the model has not been trained.
    KeyError
        If a metric was not logged.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci import pl
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> sgv.GraphVCI.setup_anndata(adata, split_key="split")
    >>> model = sgv.GraphVCI(adata)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> axes = pl.history(model, metrics=["loss", "divergence"], show=False)
    >>> [ax.get_ylabel() for ax in axes]
    ['loss', 'divergence']
    """
    log = getattr(model, "history", None)
    if not log:
        msg = "The model has no history. Call `model.train()` first."
        raise ValueError(msg)
    if metrics is None:
        metrics = ["loss", *(["pearson_shift"] if "pearson_shift_validation" in log else [])]
    curves = {name: _curves(log, name) for name in listed(metrics)}
    axes = panels(len(curves), ax, figsize, (3.6, 2.8))
    for axis, (name, parts) in zip(axes, curves.items(), strict=True):
        for label, series in parts.items():
            marker = "o" if len(series) < 30 else None
            colour = BLUE if label == "train" else ORANGE
            axis.plot(series.index, series, color=colour, label=label, marker=marker, markersize=3, linewidth=1.5)
        axis.set(xlabel="epoch", ylabel=name.replace("_", " "))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(frameon=False)
        tidy(axis)
    return finish(axes, show, return_fig)


def _curves(log: dict[str, pd.DataFrame], name: str) -> dict[str, pd.Series]:
    """Curves of a metric on training and validation cells, by epoch."""
    found = {
        label: log[key].iloc[:, 0].astype(float).dropna()
        for label in ("train", "validation")
        for key in (f"{name}_{label}", f"{label}_{name}", f"{name}_{label}_epoch", f"{label}_{name}_epoch")
        if key in log
    }
    if not found:
        msg = f"{name!r} was not logged. The history holds {sorted(log)}."
        raise KeyError(msg)
    return found
