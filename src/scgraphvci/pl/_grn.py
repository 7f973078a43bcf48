"""Adjacency matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from scipy import sparse

from scgraphvci.pl._base import Drawn, finish, panels

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

    Parameters
    ----------
    adata
        Holds the networks in `varp`.
    keys
        Their keys.
    cmap
        Colour map of the weights' magnitude.
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
    names = [keys] if isinstance(keys, str) else list(keys)
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
    for i, (axis, name, network) in enumerate(zip(axes, names, networks, strict=True)):
        block = sparse.coo_array(network[regulators][:, targets])
        row, column = block.coords
        size = float(np.clip(2000 / (regulators.size + targets.size), 0.6, 30))
        order = np.argsort(block.data)
        points = axis.scatter(
            column[order], row[order], c=block.data[order], s=size, marker="s", cmap=cmap, linewidths=0,
            norm=_norm(block.data), rasterized=True,
        )  # fmt: skip
        axis.set(xlim=(-0.5, targets.size - 0.5), ylim=(regulators.size - 0.5, -0.5), xlabel="targets")
        axis.set_title(f"{name}: {block.nnz:,} edges", fontsize="medium")
        axis.set_ylabel("regulators" if i == 0 else "")
        axis.set_xticks([])
        _label_rows(axis, adata.var_names.astype(str).to_numpy()[regulators] if i == 0 else None)
        axis.figure.colorbar(points, ax=axis, label="|weight|", shrink=0.8)
    return finish(axes, show, return_fig)


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
