"""Random Fourier features, whose means tell distributions of cells apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

# Squared kernel widths, per gene in variances within strata: two cells of a stratum are about 2 apart.
SQUARED_WIDTHS = (0.5, 2.0, 8.0)
FEATURES_PER_WIDTH = 128
N_FEATURES = len(SQUARED_WIDTHS) * FEATURES_PER_WIDTH


class FourierFeatures(nn.Module):
    r"""Features whose inner products approximate the mean of Gaussian kernels of several widths.

    :math:`\phi(y) = \sqrt{2 / D} \cos(y W + b)` with Gaussian frequencies W and uniform phases b (Rahimi and Recht,
    NeurIPS 2007). The squared distance between the mean features of two sets of cells is the squared maximum mean
    discrepancy of these kernels. Frequencies are the same in every module of as many genes, and are not saved.

    Parameters
    ----------
    n_genes
        Number of genes.
    """

    frequency: Tensor
    phase: Tensor

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        parts = [
            torch.randn(n_genes, FEATURES_PER_WIDTH, generator=generator) / math.sqrt(n_genes * square)
            for square in SQUARED_WIDTHS
        ]
        frequency = torch.cat(parts, dim=1)
        self.register_buffer("frequency", frequency, persistent=False)
        phase = 2 * math.pi * torch.rand(N_FEATURES, generator=generator)
        self.register_buffer("phase", phase, persistent=False)

    def forward(self, expression: Tensor) -> Tensor:
        """Return features of cells (n_cells, n_genes) in standard deviations, shape ``(n_cells, n_features)``."""
        return math.sqrt(2 / N_FEATURES) * torch.cos(expression @ self.frequency + self.phase)


def squared_discrepancy(features: Tensor, target_mean: Tensor, target: Tensor) -> Tensor:
    r"""Squared discrepancy between the cells of the batch with the same target and that target.

    With n cells :math:`\phi_i` in a set and the target's mean features :math:`\mu`,
    :math:`\frac{1}{n (n - 1)} \sum_{i \ne j} \phi_i^\top \phi_j - 2 \bar\phi^\top \mu + \mu^\top \mu`: leaving out
    :math:`i = j` keeps small sets from seeming too spread out, which training would mend by drawing cells together.

    Parameters
    ----------
    features
        Of drawn counterfactuals, shape ``(n_cells, n_features)``.
    target_mean
        Mean features of each cell's target, shape ``(n_cells, n_features)``.
    target
        Code of each cell's target, shape ``(n_cells,)``.

    Returns
    -------
    That of each cell's set, shape ``(n_cells,)``. A set of one cell keeps the term :math:`i = j`.
    """
    codes, group = torch.unique(target, return_inverse=True)
    n = torch.bincount(group, minlength=codes.numel()).to(features.dtype)
    total = features.new_zeros(codes.numel(), features.shape[1]).index_add(0, group, features)
    own = features.new_zeros(codes.numel()).index_add(0, group, features.square().sum(dim=1))
    pairs = total.square().sum(dim=1)
    within = torch.where(n > 1, (pairs - own) / (n * (n - 1)).clamp(min=1), pairs)
    across = ((total / n[:, None])[group] * target_mean).sum(dim=1)
    return within[group] - 2 * across + target_mean.square().sum(dim=1)
