"""Counterfactual expression against that of observed cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from scgraphvci.data._treatments import Dose
from scgraphvci.pl._base import (
    BLUE,
    GREY,
    ORANGE,
    Drawn,
    ends_row,
    finish,
    legend_beside,
    listed,
    panels,
    starts_row,
    tidy,
)
from scgraphvci.pl._counterfactual_cells import (
    CONTROL,
    COUNTERFACTUAL,
    OBSERVED,
    CounterfactualCells,
    counterfactual_cells,
)
from scgraphvci.pl._status import shorten

MIN_CELLS = 10  # below, cells are drawn one by one
WIDTH = 0.8
COLOUR = {CONTROL: GREY, OBSERVED: ORANGE, COUNTERFACTUAL: BLUE}

Side = Literal["both", "low", "high"]


def counterfactual_violins(
    model: Any,
    *,
    genes: Sequence[str] | str,
    treatments: Sequence[str] | str,
    stratum: Mapping[str, Any] | None = None,
    dose: Dose = None,
    seed: int = 0,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw counterfactual beside observed expression in a stratum, one panel per gene, as in Fig. 5 of the paper.

    For every treatment, the left half is of the cells that received it, if there are any, and the right half of draws
    for the control cells: one per cell, by ``model.sample``, or the predictions of what cannot draw. Dashes are means.
    The first violin is of the control cells themselves. Fewer than ten cells are drawn one by one.

    Names of treatments are followed by the number of observed cells, and by "held out" where none of them was trained
    on: only there the comparison tells whether the model can predict.

    Parameters
    ----------
    model
        A trained model of this package, with its data. Of counts, log1p(counts / library * s) is drawn, s being the
        model's standard library, and counterfactuals at the library of their cell.
    genes
        Genes, one panel each.
    treatments
        Treatments, in this order.
    stratum
        Levels of columns of ``obs``, as in ``{"cell_type": "CD8"}``; all cells if None.
    dose
        Of the treatments, as in :meth:`scgraphvci.GraphVCI.predict`.
    seed
        Of the draws.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    TypeError
        If the model is none of this package, or was set up on a MuData.
    KeyError
        If a gene or a column of `stratum` is not in the data.
    ValueError
        If a treatment is unknown, or the stratum has no control cells that are not held out.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci import pl
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> model = sgv.GraphVCI(adata)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> treatment = adata.obs["perturbation"].cat.categories[1]
    >>> axes = pl.counterfactual_violins(model, genes=adata.var_names[:2], treatments=treatment, show=False)
    >>> [ax.get_title() for ax in axes] == adata.var_names[:2].tolist()
    True
    """
    genes, names = listed(genes), listed(treatments)
    cells = counterfactual_cells(model, genes, names, stratum, dose, seed)
    upright = len(names) <= 4 and max(map(len, names)) <= 12
    labels = _labels(cells, names, "\n" if upright else ", ")
    per_violin, below = (0.75, 0.0) if upright else (0.45, 0.065 * max(map(len, "\n".join(labels).split("\n"))))
    width = 0.9 + max(per_violin * len(labels), 1.5)
    axes = panels(len(genes), ax, figsize, (width, 3.0 + below), beside=1.4)
    for axis, gene, is_first in zip(axes, genes, starts_row(axes), strict=True):
        _draw(axis, 0, cells.control[gene], CONTROL, "both")
        for position, name in enumerate(names, start=1):
            _draw(axis, position, cells.observed[name][gene], OBSERVED, "low")
            _draw(axis, position, cells.counterfactual[name][gene], COUNTERFACTUAL, "high")
        axis.set_xticks(range(1 + len(names)), labels, fontsize="small",
                        **({} if upright else {"rotation": 90}))  # fmt: skip
        axis.set(xlim=(-0.6, len(names) + 0.6), ylabel=cells.label if is_first else "")
        axis.set_title(gene, fontsize="medium")
        tidy(axis)
    kinds = [Patch(color=colour, alpha=0.6, label=kind) for kind, colour in COLOUR.items()]
    legend_beside(ends_row(axes), handles=kinds)
    return finish(axes, show, return_fig)


def _labels(cells: CounterfactualCells, names: Sequence[str], joint: str) -> list[str]:
    """Names of the violins, and below how many cells they are of."""
    labels = [f"{CONTROL}\nn = {len(cells.control):,}"]
    for name in names:
        n_cells = len(cells.observed[name])
        said = f"{joint}held out" if cells.held_out[name] and n_cells else ""
        labels.append(f"{shorten(name)}\nn = {n_cells:,}{said}")
    return labels


def _draw(axis: Axes, position: int, values: pd.Series, kind: str, side: Side) -> None:
    """Draw a violin or half of one, and its mean; single cells where there are few."""
    if values.empty:
        return
    shift = {"both": 0.0, "low": -WIDTH / 4, "high": WIDTH / 4}[side]
    if len(values) < MIN_CELLS:
        axis.scatter(np.full(len(values), position + shift), values, s=9, color=COLOUR[kind], linewidths=0, label=kind)
    else:
        drawn: Any = axis.violinplot(values, [position], widths=WIDTH, showextrema=False, side=side)
        for body in drawn["bodies"]:
            body.set(facecolor=COLOUR[kind], edgecolor="black", linewidth=0.4, alpha=0.6, label=kind)
    half = WIDTH / (2 if side == "both" else 4)
    axis.hlines(values.mean(), position + shift - half / 2, position + shift + half / 2, color="black", linewidth=1.6,
                label=f"mean, {kind}")  # fmt: skip
