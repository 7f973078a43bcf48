"""The terms of the objective (Eq. 1-3), each a pure function averaged over genes.

Every term is per gene: log-likelihoods are averaged over genes and the divergence, a sum over latents, is divided by
the number of genes, so that weights mean the same whatever the numbers of genes and latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributions import Normal, kl_divergence

if TYPE_CHECKING:
    from torch import Tensor


def kernel_distance(predicted: Tensor, mean: Tensor, variance: Tensor, bandwidth: Tensor | float) -> Tensor:
    r"""Negative expected log-kernel of a stratum's cells, up to a constant.

    The mean over cells :math:`Y_k` of a stratum of
    :math:`-\log N(y'; Y_k, h^2) = \frac{(y' - Y_k)^2}{2 h^2} + c` has the closed form
    :math:`\frac{(y' - m)^2 + v}{2 h^2} + c` in the stratum's mean m and variance v.

    Parameters
    ----------
    predicted
        Counterfactual means, shape ``(n_cells, n_genes)``.
    mean, variance
        Moments of the cells' target strata, shape ``(n_cells, n_genes)``.
    bandwidth
        Kernel width h, scalar or shape ``(n_genes,)``.

    Returns
    -------
    Shape ``(n_cells,)``.
    """
    return (((predicted - mean).square() + variance) / (2 * bandwidth**2)).mean(dim=-1)


def gaussian_distance(predicted: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    r"""Negative Gaussian log-density :math:`-\log N(y'; m, v)`, averaged over genes, shape ``(n_cells,)``.

    Arguments are those of `kernel_distance`; the variance must be positive.
    """
    return -Normal(mean, variance.sqrt(), validate_args=False).log_prob(predicted).mean(dim=-1)


def mean_by_target(predicted: Tensor, target: Tensor) -> Tensor:
    """Replace each cell's counterfactual by the mean over the cells of the batch with the same target.

    A distance of these means to the moments of the target asks the *set* of counterfactuals to match a stratum, and
    leaves each of them free to differ; a distance of single counterfactuals pulls every cell to the stratum's mean.

    Parameters
    ----------
    predicted
        Counterfactual means, shape ``(n_cells, n_genes)``.
    target
        Code of each cell's stratum and counterfactual treatment, shape ``(n_cells,)``.

    Returns
    -------
    Shape ``(n_cells, n_genes)``.
    """
    codes, group = torch.unique(target, return_inverse=True)
    total = predicted.new_zeros(codes.numel(), predicted.shape[1]).index_add(0, group, predicted)
    count = torch.bincount(group, minlength=codes.numel()).to(predicted.dtype)
    return (total / count[:, None])[group]


def latent_divergence(factual: Normal, counterfactual: Normal, n_genes: int) -> Tensor:
    """Exact Gaussian KL from the factual to the counterfactual posterior, per gene, shape ``(n_cells,)``."""
    return kl_divergence(factual, counterfactual).sum(dim=-1) / n_genes


def draw_counterfactual(condition: Tensor, frequency: Tensor) -> Tensor:
    """Draw a treatment other than the cell's own from the empirical law of treatments.

    Parameters
    ----------
    condition
        Observed treatment codes, shape ``(n_cells,)``.
    frequency
        Unnormalised probability of each treatment, shape ``(n_conditions,)``.

    Returns
    -------
    Treatment codes, shape ``(n_cells,)``; a cell's own only where no other has positive probability.
    """
    cumulative = torch.cumsum(frequency.double(), dim=0)
    own = frequency.double()[condition]
    below = cumulative[condition] - own
    draw = torch.rand(condition.shape, device=condition.device, dtype=torch.float64) * (cumulative[-1] - own)
    draw = torch.where(draw >= below, draw + own, draw)  # jump over the cell's own interval
    drawn = torch.searchsorted(cumulative, draw, right=True).clamp(max=frequency.numel() - 1)
    return torch.where(cumulative[-1] > own, drawn, condition)
