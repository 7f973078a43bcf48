"""Networks in the file format of graphVCI's authors."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from scgraphvci.grn._frame import names_of, read_edges


def read_graphvci(path: str | os.PathLike[str], var_names: Sequence[str]) -> pd.DataFrame:
    """Read a `.pth` file of graphVCI's authors, a pickled graph of PyTorch Geometric.

    The file is loaded with `weights_only`: tensors and the graph that holds them, no code. It names no genes, so their
    order must be known: that of the `var_names` of the AnnData the file was made for.

    Parameters
    ----------
    path
        The file. Its `edge_index` holds sources and targets, shape ``(2, n_edges)``, or is a square matrix of sources x
        targets; weights are in `edge_attr`, 1 if absent. Node features are left out.
    var_names
        Gene names in the order of the graph's nodes.

    Returns
    -------
    Columns `source`, `target` and `weight` (float64), in the order of the file.

    Raises
    ------
    ValueError
        If the file holds something else, or names do not fit its nodes.

    Examples
    --------
    >>> import pathlib, tempfile, torch
    >>> from torch_geometric.data import Data
    >>> from scgraphvci.grn import read_graphvci
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "grn.pth"
    >>> torch.save(Data(torch.zeros(3, 8), torch.tensor([[0, 0], [1, 2]])), path)
    >>> read_graphvci(path, ["STAT1", "IRF1", "GBP1"]).values.tolist()
    [['STAT1', 'IRF1', 1.0], ['STAT1', 'GBP1', 1.0]]
    """
    # The one reader whose format is torch's own; the rest of this room, and its import, do without torch.
    from scgraphvci.data._graph_file import load_graph_file

    names = pd.Index(names_of(var_names))
    if not names.is_unique:
        msg = f"`var_names` repeat, such as {names[names.duplicated()][0]!r}. Take those the file was made for."
        raise ValueError(msg)
    edge_index, weight, n_nodes = load_graph_file(path)
    if n_nodes != len(names):
        msg = (
            f"The graph has {n_nodes} nodes, but there are {len(names)} `var_names`. The file names no genes: pass "
            "those of the AnnData it was made for, in its order."
        )
        raise ValueError(msg)
    if edge_index.size and (edge_index.min() < 0 or edge_index.max() >= n_nodes):
        msg = f"Edges of the graph point beyond its {n_nodes} nodes. The file is damaged."
        raise ValueError(msg)
    genes = names.to_numpy(dtype=object)
    weights = np.ones(edge_index.shape[1]) if weight is None else weight
    return read_edges(
        pd.DataFrame({"source": genes[edge_index[0]], "target": genes[edge_index[1]], "weight": weights}), "path"
    )
