"""Encoder and decoder networks of graphVCI (Eq. 5-10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from scvi.nn import FCLayers
from torch import nn
from torch.distributions import Normal

from scgraphvci.module._decoders import AttentionHead, DotHead, LinearHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Pooling = Literal["mean", "sum", "max"]
# A latent that starts as mostly noise teaches the decoder to ignore it, from which training does not recover.
INITIAL_SCALE_BIAS = -3.0  # softplus(-3) = 0.05
MIN_LATENT_SCALE = 1e-3  # keeps the divergence finite when a posterior collapses to a point


class CovariateEncoder(nn.Module):
    """Embeds categorical covariates and appends the continuous ones."""

    def __init__(self, n_levels: Sequence[int], n_continuous: int, n_embedding: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(n, n_embedding) for n in n_levels])
        self.n_out = n_embedding * len(n_levels) + n_continuous

    def forward(self, levels: Tensor, continuous: Tensor | None) -> Tensor:
        """Return covariate features from level codes (n_cells, n_covariates), shape ``(n_cells, n_out)``."""
        parts = [embedding(levels[:, j]) for j, embedding in enumerate(self.embeddings)]
        if continuous is not None:
            parts.append(continuous)
        return torch.cat(parts, dim=1) if parts else levels.new_zeros((levels.shape[0], 0), dtype=torch.float32)


class Encoder(nn.Module):
    """Posterior of the latent given outcome, treatment, covariates and the pooled graph, q(z | y, g, x, t).

    The cell path is MLP(y, t, x); the graph enters through h_G, the pooled gene embeddings, concatenated before the
    posterior's mean and scale.
    """

    def __init__(
        self,
        n_genes: int,
        n_treatment: int,
        n_covariate: int,
        n_graph: int,
        n_outcome: int,
        n_hidden: int,
        n_layers: int,
        n_latent: int,
        dropout_rate: float,
        graph_pooling: Pooling,
    ) -> None:
        super().__init__()
        self.outcome = nn.Linear(n_genes, n_outcome)
        self.mlp = FCLayers(
            n_outcome + n_treatment + n_covariate,
            n_hidden,
            n_layers=n_layers,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            use_batch_norm=False,
            use_layer_norm=True,
        )
        self.graph_pooling = graph_pooling
        self.mean = nn.Linear(n_hidden + n_graph, n_latent)
        self.scale = nn.Linear(n_hidden + n_graph, n_latent)
        nn.init.constant_(self.scale.bias, INITIAL_SCALE_BIAS)

    def forward(self, outcome: Tensor, treatment: Tensor, covariates: Tensor, genes: Tensor | None) -> Normal:
        """Return the posterior; its mean has shape ``(n_cells, n_latent)``."""
        hidden = self.mlp(torch.cat([self.outcome(outcome), treatment, covariates], dim=1))
        if genes is not None:
            pooled = pool_genes(genes, self.graph_pooling)
            hidden = torch.cat([hidden, pooled.expand(hidden.shape[0], -1)], dim=1)
        scale = nn.functional.softplus(self.scale(hidden)) + MIN_LATENT_SCALE
        return Normal(self.mean(hidden), scale, validate_args=False)  # the plan checks the loss, and names the term


def pool_genes(genes: Tensor, pooling: Pooling) -> Tensor:
    """Aggregate gene embeddings (n_genes, n_hidden) to the graph's embedding h_G, shape ``(n_hidden,)``."""
    if pooling == "max":
        return genes.max(dim=0).values
    return genes.sum(dim=0) if pooling == "sum" else genes.mean(dim=0)


class Decoder(nn.Module):
    """Decodes latent and treatment: features u = MLP(z, t), then one aggregating head per distribution parameter."""

    def __init__(
        self,
        n_genes: int,
        n_treatment: int,
        n_latent: int,
        n_graph: int,
        n_hidden: int,
        n_layers: int,
        dropout_rate: float,
        n_parameters: int,
        kind: Literal["attention", "dot"],
    ) -> None:
        super().__init__()
        self.mlp = FCLayers(
            n_latent + n_treatment,
            n_hidden,
            n_layers=n_layers,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            use_batch_norm=False,
            use_layer_norm=True,
        )
        if n_graph == 0:
            heads: list[nn.Module] = [LinearHead(n_hidden, n_genes) for _ in range(n_parameters)]
        else:
            head = AttentionHead if kind == "attention" else DotHead
            heads = [head(n_hidden, n_graph) for _ in range(n_parameters)]
        self.heads = nn.ModuleList(heads)

    def forward(self, latent: Tensor, treatment: Tensor, genes: Tensor | None) -> list[Tensor]:
        """Return one tensor (n_cells, n_genes) per distribution parameter, before its link function.

        `treatment` is embedded, shape ``(n_cells, n_treatment)``.
        """
        features = self.mlp(torch.cat([latent, treatment], dim=1))
        return [head(features, genes) for head in self.heads]
