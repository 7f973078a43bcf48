"""Decoding aggregators (Eq. 9-10): from a cell's features and gene embeddings to one number per gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

SCORE_BOUND = 20.0  # scores pass 20 tanh(s / 20): E F^T >= e^-40, within reach of float32


def attend(features: Tensor, cell_score: Tensor, gene_score: Tensor) -> Tensor:
    r"""Key-dependent attention over a cell's features, factorised exactly.

    The softmax over features of the additive score
    :math:`a_{ijk} = s(c_{ik}) + s(g_{jk})`, with :math:`s(x) = 20 \tanh(x / 20)`, weights the features
    :math:`u_{ik}`. With :math:`E = e^{s(c)}` and :math:`F = e^{s(g)}` the result is
    :math:`((E \circ u) F^T) / (E F^T)`: two matrix products, and no tensor of cells x genes x features.

    Parameters
    ----------
    features, cell_score
        Shape ``(n_cells, n_features)``.
    gene_score
        Shape ``(n_genes, n_features)``.

    Returns
    -------
    Shape ``(n_cells, n_genes)``, float32 at least: half precision would underflow.
    """
    with torch.autocast(device_type=features.device.type, enabled=False):
        dtype = torch.promote_types(features.dtype, torch.float32)
        key = torch.exp(_bounded(cell_score.to(dtype)))
        query = torch.exp(_bounded(gene_score.to(dtype)))
        return ((key * features.to(dtype)) @ query.T) / (key @ query.T)


def _bounded(score: Tensor) -> Tensor:
    return SCORE_BOUND * torch.tanh(score / SCORE_BOUND)


class AttentionHead(nn.Module):
    """Key-dependent attention: scores depend on the cell's features and on the gene's embedding."""

    def __init__(self, n_features: int, n_embedding: int) -> None:
        super().__init__()
        self.cell_score = nn.Linear(n_features, n_features)
        self.gene_score = nn.Linear(n_embedding, n_features, bias=False)

    def forward(self, features: Tensor, genes: Tensor) -> Tensor:
        """Return one number per cell and gene, shape ``(n_cells, n_genes)``."""
        return attend(features, self.cell_score(features), self.gene_score(genes))


class DotHead(nn.Module):
    """Key-independent attention: the score vector is a linear map of the gene's embedding."""

    def __init__(self, n_features: int, n_embedding: int) -> None:
        super().__init__()
        self.gene_score = nn.Linear(n_embedding, n_features, bias=False)

    def forward(self, features: Tensor, genes: Tensor) -> Tensor:
        """Return one number per cell and gene, shape ``(n_cells, n_genes)``."""
        return features @ self.gene_score(genes).T


class LinearHead(nn.Module):
    """One linear map per gene: the decoder of VCI, which has no graph."""

    def __init__(self, n_features: int, n_genes: int) -> None:
        super().__init__()
        self.map = nn.Linear(n_features, n_genes, bias=False)

    def forward(self, features: Tensor, genes: Tensor | None = None) -> Tensor:
        """Return one number per cell and gene, shape ``(n_cells, n_genes)``."""
        return self.map(features)
