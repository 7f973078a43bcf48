"""Graph files of PyTorch Geometric, as the authors of graphVCI write them."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import torch
from safetensors import SafetensorError
from torch_geometric.data import Data
from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
from torch_geometric.data.storage import GlobalStorage

from scgraphvci._untrusted import check_stored

# What torch's unpickler raises on what it refuses, and on files that are no pickle or end early.
_UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, EOFError, LookupError, RuntimeError, TypeError, ValueError),
    *(AttributeError, ArithmeticError, SafetensorError),
)


def load_graph_file(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Load a pickled `Data` without running code from the file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Sources and targets of edges, shape ``(2, n_edges)``; weights, shape ``(n_edges,)``, or None; the number of nodes.

    Raises
    ------
    ValueError
        If the file does not hold a graph with edges and at most one weight for each, or is compressed.
    """
    with open(path, "rb") as file:
        check_stored(file, path)
    try:
        with torch.serialization.safe_globals([Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]):
            graph = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        msg = f"{os.fspath(path)!r} holds more than a graph of tensors, or is damaged; nothing was loaded from it."
        raise ValueError(msg) from error
    if not isinstance(graph, Data) or graph.edge_index is None:
        msg = f"{os.fspath(path)!r} holds a {type(graph).__name__}, not a graph of torch_geometric with an edge_index."
        raise ValueError(msg)
    index, weight = graph.edge_index, graph.edge_attr
    for name, value in {"edge_index": index, "edge_attr": weight, "x": graph.x}.items():
        if value is not None and not _is_plain(value):
            msg = f"{name!r} in the graph of {os.fspath(path)!r} is no dense tensor of numbers that lies in the file."
            raise ValueError(msg)
    n_nodes = len(graph.x) if graph.x is not None else graph.num_nodes
    if type(n_nodes) is not int:
        msg = f"The graph of {os.fspath(path)!r} does not tell its number of nodes (`num_nodes` is {n_nodes!r})."
        raise ValueError(msg)
    if index.shape == (n_nodes, n_nodes) != (2, 2) and (weight is None or weight.shape == index.shape):
        matrix = index if weight is None else weight
        index = index.nonzero().t()
        weight = matrix[index[0], index[1]]
    if index.dim() != 2 or index.shape[0] != 2 or (weight is not None and weight.numel() != index.shape[1]):
        shapes = f"edge_index {tuple(index.shape)}, edge_attr {None if weight is None else tuple(weight.shape)}"
        msg = f"The graph of {os.fspath(path)!r} holds {shapes}; expected (2, n_edges) and one weight for each edge."
        raise ValueError(msg)
    if index.is_floating_point() and not torch.equal(index, index.round()):
        msg = f"The edge_index of {os.fspath(path)!r} holds numbers that are not whole, so it names no nodes."
        raise ValueError(msg)
    weights = None if weight is None else weight.reshape(-1).double().numpy()
    return index.long().numpy(), weights, n_nodes


def _is_plain(value: object) -> bool:
    """Whether this is an array of numbers whose elements are all in memory; strides can declare any size for free."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_nested or value.is_complex() or value.is_quantized)
        and value.dim() > 0
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )
