"""The graph encoder: gene embeddings from the regulatory network (Eq. 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch_geometric.nn import GCNConv

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
        self.register_buffer("edge_index", torch.from_numpy(index), persistent=False)
        self.register_buffer("edge_weight", torch.from_numpy(weight), persistent=False)
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
        for convolution, gate in zip(self.convolutions, self.gates, strict=True):
            state = state + gate * torch.relu(convolution(state, self.edge_index, self.edge_weight))
        return state


def normalised_edges(n_genes: int, edge_index: np.ndarray, edge_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Add self-loops and normalise symmetrically, :math:`D^{-1/2} (A + I) D^{-1/2}`.

    Degrees are sums of absolute weights, so that repressing edges cannot make them vanish; weights are first scaled
    to a mean magnitude of 1, which makes the self-loop comparable to an edge on any scale of weights.

    Returns
    -------
    Edge index of shape ``(2, n_edges + n_genes)`` and weights of shape ``(n_edges + n_genes,)``, float32.
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
    return index.astype(np.int64), weight.astype(np.float32)
