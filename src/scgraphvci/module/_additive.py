"""The additive part of the decoder's mean: gene intercept, covariate offsets and linear treatment shift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import embedding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scgraphvci.data._moments import AdditiveModel


class AdditiveBaseline(nn.Module):
    """What the simplest serious baseline predicts: the stratum's level plus the treatment's shift pooled over strata.

    The network then has to learn only what deviates from it, and falls back to it where nothing was learned. Covariates
    are part of the latent in the causal diagram, so that decoding them directly changes no independence of the model.
    """

    def __init__(self, n_genes: int, n_perturbations: int, n_levels: Sequence[int]) -> None:
        super().__init__()
        self.intercept = nn.Parameter(torch.zeros(n_genes))
        self.offsets = nn.ParameterList([nn.Parameter(torch.zeros(n, n_genes)) for n in n_levels])
        self.shift = nn.Parameter(torch.zeros(n_perturbations, n_genes))

    @torch.no_grad()
    def start_from(self, fit: AdditiveModel) -> None:
        """Take intercept and offsets from a fit to the moments of the training cells.

        The shift stays at zero: learned from there by gradient descent, with the network beside it, it does not start
        with the noise of a least-squares fit.
        """
        self.intercept.copy_(torch.as_tensor(fit.intercept))
        for offset, fitted in zip(self.offsets, fit.offsets, strict=True):
            offset.copy_(torch.as_tensor(fitted))

    def shifted(self, treatment: Tensor) -> Tensor:
        """Return intercept + shift, shape ``(n_cells, n_genes)``: what treatment explains, whatever the stratum."""
        return torch.addmm(self.intercept, treatment, self.shift)

    def forward(self, treatment: Tensor, levels: Tensor) -> Tensor:
        """Return intercept + offsets + shift, shape ``(n_cells, n_genes)``."""
        total = self.shifted(treatment)
        for j, offset in enumerate(self.offsets):
            total = total + embedding(levels[:, j], offset)
        return total
