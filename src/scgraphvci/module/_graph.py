"""The graph encoder: gene embeddings from the regulatory network (Eq. 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch_geometric.nn import GCNConv

from scgraphvci.module._sampled_graph import csr, product

if TYPE_CHECKING:
    from torch import Tensor


class GraphEncoder(nn.Module):
    """GCN over the regulatory network, H = GNN(V, A).

    Node states are gene features projected to `n_hidden`, plus a learned embedding per gene. The network enters as
    dense edge-list buffers (sparse buffers break distributed training), normalised once.

    Parameters
    ----------
    n_genes
        Number of nodes.
    edge_index
        Source and target of each edge, shape ``(2, n_edges)``.
    edge_weight
        Weight of each edge, shape ``(n_edges,)``; signs are kept, magnitudes are normalised.
    features
        Gene features, shape ``(n_genes, n_features)``, or None.
    n_hidden
        Width of node states and of the embeddings.
    n_layers
        Number of graph convolutions.
    """

    edge_index: Tensor
    edge_weight: Tensor
    row_pointer: Tensor
    column_pointer: Tensor
    target_by_source: Tensor
    weight_by_source: Tensor

    def __init__(
        self,
        n_genes: int,
        edge_index: np.ndarray,
        edge_weight: np.ndarray,
        features: np.ndarray | None,
        n_hidden: int,
        n_layers: int,
    ) -> None:
        super().__init__()
        index, weight = normalised_edges(n_genes, edge_index, edge_weight)
        by_source = np.lexsort((index[1], index[0]))
        buffers = {
            "edge_index": index,
            "edge_weight": weight,
            "row_pointer": pointers(n_genes, index[1]),
            "column_pointer": pointers(n_genes, index[0][by_source]),
            "target_by_source": index[1][by_source],
            "weight_by_source": weight[by_source],
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.embedding = nn.Parameter(torch.randn(n_genes, n_hidden) / n_hidden**0.5)
        self.project: nn.Linear | None = None
        if features is not None:
            self.register_buffer("features", torch.from_numpy(np.asarray(features, np.float32)), persistent=False)
            self.project = nn.Linear(features.shape[1], n_hidden, bias=False)
        self.convolutions = nn.ModuleList(
            [GCNConv(n_hidden, n_hidden, normalize=False, add_self_loops=False) for _ in range(n_layers)]
        )
        # Zero: genes start with embeddings of their own, and take from their neighbours what training finds useful.
        self.gates = nn.Parameter(torch.zeros(n_layers, n_hidden))

    def forward(self) -> Tensor:
        """Return gene embeddings H, shape ``(n_genes, n_hidden)``."""
        state: Tensor = self.embedding
        if self.project is not None:
            state = state + self.project(self.features)
        layers: Any = self.convolutions
        for convolution, gate in zip(layers, self.gates, strict=True):
            # The convolution's own way gathers one row of features per edge, which takes 20 times as long.
            message = self._from_sources(convolution.lin(state)) + convolution.bias
            state = state + gate * torch.relu(message)
        return state

    def _from_sources(self, state: Tensor) -> Tensor:
        """Sum over each gene's regulators of edge weight times state, shape ``(n_genes, n_hidden)``."""
        incoming = self.row_pointer, self.edge_index[0], self.edge_weight
        outgoing = self.column_pointer, self.target_by_source, self.weight_by_source
        return _NetworkProduct.apply(state.to(self.edge_weight.dtype), incoming, outgoing)


class _NetworkProduct(torch.autograd.Function):
    """Constant sparse times dense. The transpose is stored, too: torch would sort the edges again at every step."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, incoming: tuple[Tensor, ...], outgoing: tuple[Tensor, ...]) -> Tensor:
        ctx.outgoing = outgoing
        return product(csr(*incoming), state)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return product(csr(*ctx.outgoing), gradients[0].contiguous()), None, None


def pointers(n_genes: int, row: np.ndarray) -> np.ndarray:
    """Return where the edges of each row begin among sorted rows, and their number; shape ``(n_genes + 1,)``."""
    return np.searchsorted(row, np.arange(n_genes + 1)).astype(np.int64)


def normalised_edges(n_genes: int, edge_index: np.ndarray, edge_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Add self-loops and normalise symmetrically, :math:`D^{-1/2} (A + I) D^{-1/2}`.

    Degrees are sums of absolute weights, so that repressing edges cannot make them vanish; weights are first scaled
    to a mean magnitude of 1, which makes the self-loop comparable to an edge on any scale of weights.

    Returns
    -------
    Edge index of shape ``(2, n_edges + n_genes)`` and weights of shape ``(n_edges + n_genes,)``, float32; sorted by
    target, then source.
    """
    weight = np.asarray(edge_weight, dtype=np.float64)
    keep = edge_index[0] != edge_index[1]
    weight = weight[keep] / max(np.abs(weight[keep]).mean() if keep.any() else 1.0, 1e-12)
    loops = np.arange(n_genes)
    index = np.concatenate([edge_index[:, keep], np.stack([loops, loops])], axis=1)
    weight = np.concatenate([weight, np.ones(n_genes)])
    out_degree = np.bincount(index[0], weights=np.abs(weight), minlength=n_genes)
    in_degree = np.bincount(index[1], weights=np.abs(weight), minlength=n_genes)
    weight = weight / np.sqrt(out_degree[index[0]] * in_degree[index[1]])
    order = np.lexsort(index)
    return np.ascontiguousarray(index[:, order], dtype=np.int64), weight[order].astype(np.float32)
