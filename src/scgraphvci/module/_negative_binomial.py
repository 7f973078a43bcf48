r"""Log-likelihood of negative binomial counts, and its derivatives in closed form, in few passes over cells x genes.

With log rate r, inverse dispersion :math:`\theta`, :math:`t = \theta + e^r` and :math:`q = (y - e^r) / t`

.. math::
    \log p(y) = y r + \theta \log \theta - (y + \theta) \log t + c(y, \theta), \qquad
    c(y, \theta) = \sum_{j < y} \log (\theta + j) - \log y!

The derivative in r is :math:`\theta q`, that in :math:`\theta` is
:math:`\log \theta - \log t - q + \sum_{j < y} (\theta + j)^{-1}`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

_IN_TABLE = 32  # counts up to this one are looked up in a table of their gene; larger ones take gamma functions


def log_prob(log_rate: Tensor, log_library: Tensor, theta: Tensor, outcome: Tensor) -> Tensor:
    """Log-likelihood of counts, summed over genes.

    Parameters
    ----------
    log_rate
        At the standard library, shape ``(..., n_cells, n_genes)``.
    log_library
        Added to it, shape ``(n_cells, 1)`` or none; without a gradient.
    theta
        Inverse dispersion, shape ``(n_genes,)`` or that of `log_rate`.
    outcome
        Counts, whole or not, shape ``(n_cells, n_genes)``; without a gradient.

    Returns
    -------
    Shape ``(..., n_cells)``.
    """
    return _LogProb.apply(log_rate, log_library, theta, outcome)


class _LogProb(torch.autograd.Function):
    """The derivatives are computed with the value and kept; all other arrays are overwritten."""

    @staticmethod
    def forward(ctx: Any, log_rate: Tensor, log_library: Tensor, theta: Tensor, outcome: Tensor) -> Tensor:
        coefficient, slope = _coefficients(outcome, theta)
        log_rate, log_theta = log_rate + log_library, theta.log()
        quotient = log_rate.exp()
        log_total = quotient + theta
        quotient.neg_().add_(outcome).div_(log_total)
        log_total.log_()
        value = log_rate.sub_(log_total).mul_(outcome).sum(dim=-1) + (theta * log_theta).sum(dim=-1) + coefficient
        value -= log_total @ theta if theta.dim() == 1 else torch.mul(log_total, theta, out=log_rate).sum(dim=-1)
        of_theta = log_total.neg_().add_(log_theta).sub_(quotient).add_(slope)
        ctx.save_for_backward(quotient.mul_(theta), of_theta)
        ctx.shared = theta.dim() == 1
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, None]:
        of_rate, of_theta = ctx.saved_tensors
        outer = gradients[0].unsqueeze(-1)
        if ctx.shared:
            return of_rate * outer, None, gradients[0].flatten() @ of_theta.flatten(0, -2), None
        return of_rate * outer, None, of_theta * outer, None


def _tables(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Tables of c and of its derivative in theta, from count 0 on, gene after gene."""
    steps = torch.arange(_IN_TABLE, device=theta.device, dtype=theta.dtype)
    at = theta[:, None] + steps
    value, slope = torch.log(at / (steps + 1)).cumsum(dim=1), at.reciprocal().cumsum(dim=1)
    return pad(value, (1, 0)).flatten(), pad(slope, (1, 0)).flatten()


def _coefficients(outcome: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over genes of c, shape ``(..., n_cells)``, and the derivatives of its terms in theta."""
    if theta.dim() == 1:
        found, tables = outcome.clamp(0, _IN_TABLE).floor_(), _tables(theta)
        first = torch.arange(0, len(tables[0]), _IN_TABLE + 1, device=theta.device, dtype=torch.int32)
        entry = found.int().clamp_(min=0).add_(first).flatten()  # of NaN, too: the loss will tell
        value, slope = (table.index_select(0, entry).view(outcome.shape) for table in tables)
    else:
        found, slope = torch.zeros_like(outcome), torch.zeros_like(theta)
        value = slope
    value = value.sum(dim=-1)
    if torch.equal(found, outcome):
        return value, slope
    cell, gene = (outcome != found).nonzero(as_tuple=True)
    count, low = outcome[cell, gene], found[cell, gene]
    at = theta[gene] if theta.dim() == 1 else theta[..., cell, gene]
    more = torch.lgamma(count + at) - torch.lgamma(low + at) - torch.lgamma(count + 1) + torch.lgamma(low + 1)
    slope[..., cell, gene] += torch.digamma(count + at) - torch.digamma(low + at)
    return value.index_add(-1, cell, more), slope
