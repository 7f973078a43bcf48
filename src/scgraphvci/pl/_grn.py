"""Adjacency matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from scipy import sparse

from scgraphvci.grn._adata import refined_from
from scgraphvci.pl._base import BLUE, RED, Drawn, finish, legend_beside, listed, panels, starts_row

MAX_LABELS = 30


def grn_adjacency(
    adata: AnnData,
    *,
    keys: Sequence[str] | str = ("grn", "grn_refined"),
    cmap: str = "viridis_r",
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw networks as matrices of regulators x targets, all in the same order of genes.

    Regulators (genes with an edge to another gene in any of the networks) are ordered by their number of targets in the
    first network, targets by the first regulator that has them there. Self-loops are left out.

    Colour is the magnitude of weights. Where a network was refined by :func:`scgraphvci.tl.refine_grn` from another of
    those drawn, colour says which edges are kept, added and dropped instead, and opacity the magnitude.

    Parameters
    ----------
    adata
        Holds the networks in `varp`.
    keys
        Their keys.
    cmap
        Colour map of the weights' magnitude, where colour does not tell what became of edges.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If a network is missing.
    ValueError
        If none of the networks has an edge.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci import pl
    >>> adata = sgv.datasets.simulate(n_cells=50, n_genes=60, n_perturbations=4, seed=0)
    >>> axes = pl.grn_adjacency(adata, keys=["grn", "grn_true"], show=False)
    >>> [ax.get_xlabel() for ax in axes]
    ['targets', 'targets']
    """
    names = listed(keys)
    missing = [name for name in names if name not in adata.varp]
    if missing:
        msg = (
            f"Networks {missing} not found in varp. Keys: {list(adata.varp)}. Add one with `scgraphvci.grn.add_grn`, "
            "or refine one with `scgraphvci.tl.refine_grn`."
        )
        raise KeyError(msg)
    networks = [_edges(adata.varp[name]) for name in names]
    regulators, targets = _order(networks)
    if regulators.size == 0:
        msg = f"The networks {names} have no edge between two different genes."
        raise ValueError(msg)
    axes = panels(len(names), ax, figsize, (4.2, 3.6))
    for axis, name, network, is_first in zip(axes, names, networks, starts_row(axes), strict=True):
        block = sparse.coo_array(network[regulators][:, targets])
        row, column = block.coords
        size = float(np.clip(2000 / (regulators.size + targets.size), 0.6, 30))
        style = {"s": size, "marker": "s", "linewidths": 0, "rasterized": True}
        prior = refined_from(adata, name)
        if prior not in names:
            order = np.argsort(block.data)
            points = axis.scatter(column[order], row[order], c=block.data[order], cmap=cmap, norm=_norm(block.data),
                                  **style)  # fmt: skip
            axis.figure.colorbar(points, ax=axis, label="|weight|", shrink=0.8)
        else:
            _draw_changes(axis, sparse.coo_array(networks[names.index(prior)][regulators][:, targets]), block, style)
        axis.set(xlim=(-0.5, targets.size - 0.5), ylim=(regulators.size - 0.5, -0.5), xlabel="targets")
        axis.set_title(f"{name}: {block.nnz:,} edges", fontsize="medium")
        axis.set_ylabel("regulators" if is_first else "")
        axis.set_xticks([])
        _label_rows(axis, adata.var_names.astype(str).to_numpy()[regulators] if is_first else None)
    return finish(axes, show, return_fig)


def _draw_changes(axis: Axes, prior: sparse.coo_array, refined: sparse.coo_array, style: dict[str, Any]) -> None:
    """Draw edges of a refined network and those it dropped, each kind in its colour."""
    old, new = sparse.csr_array(prior), sparse.csr_array(refined)
    largest = float(refined.data.max()) if refined.nnz else 1.0
    parts = {
        "dropped": sparse.coo_array((old != 0) > (new != 0)),
        "kept": sparse.coo_array(new * (old != 0)),
        "added": sparse.coo_array(new - new * (old != 0)),
    }
    handles = []
    for (name, part), colour in zip(parts.items(), ("0.85", BLUE, RED), strict=True):
        row, column = part.coords
        opacity = 1.0 if name == "dropped" else 0.35 + 0.65 * part.data / largest
        axis.scatter(column, row, color=colour, alpha=opacity, label=name, **style)
        handles.append(Line2D([], [], linestyle="", marker="s", color=colour, label=f"{name} ({part.nnz:,})"))
    legend_beside(axis, handles=handles, handletextpad=0.1)


def _edges(matrix: object) -> sparse.csr_array:
    """Magnitudes of a network without self-loops."""
    network = abs(sparse.csr_array(matrix, dtype=np.float64)).tocoo()
    row, column = network.coords
    keep = (row != column) & (network.data > 0)
    return sparse.csr_array((network.data[keep], (row[keep], column[keep])), shape=network.shape)


def _order(networks: list[sparse.csr_array]) -> tuple[np.ndarray, np.ndarray]:
    """Return regulators and targets of any network, in the order to draw them."""
    present = sum((network != 0).astype(int) for network in networks)
    n_targets, n_any = (np.diff(network.indptr) for network in (networks[0], sparse.csr_array(present)))
    regulators = np.lexsort((-n_any, -n_targets))
    regulators = regulators[n_any[regulators] > 0]
    rank = np.empty(present.shape[0])
    rank[regulators] = np.arange(regulators.size)
    first = np.full((2, present.shape[1]), np.inf)
    for level, network in enumerate((networks[0], sparse.csr_array(present))):
        row, column = network.tocoo().coords
        np.minimum.at(first[level], column, rank[row])
    targets = np.lexsort((first[1], first[0]))
    return regulators, targets[np.isfinite(first[1][targets])]


def _norm(weight: np.ndarray) -> Normalize:
    """Logarithmic colours where weights span more than a factor of 30."""
    low, high = (float(weight.min()), float(weight.max())) if weight.size else (0.0, 1.0)
    if low > 0 and high / low > 30:
        return LogNorm(low, high)
    return Normalize(min(low, 0.0) if low < high else 0.0, high)


def _label_rows(axis: Axes, names: np.ndarray | None) -> None:
    """Name the regulators where there is room."""
    if names is None or names.size > MAX_LABELS:
        axis.set_yticks([])
        return
    axis.set_yticks(np.arange(names.size), names, fontsize="xx-small")
