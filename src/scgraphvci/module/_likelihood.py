"""Outcome distributions: normal on log-normalised expression, NB and ZINB on counts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch.distributions import Distribution, Normal
from torch.nn.functional import hardtanh, mse_loss

from scgraphvci.module._negative_binomial import log_prob

if TYPE_CHECKING:
    from torch import Tensor

Likelihood = Literal["normal", "nb", "zinb"]
LOG_RATE_BOUND = 15.0  # e^15 counts of one gene in one cell: beyond any data, within float32
EPS = 1e-8  # added to library sizes before the logarithm: a cell may have no counts
MIN_SCALE = 1e-2  # standard deviation a gene keeps even if it hardly varies, so that one gene cannot own the loss


def is_count(likelihood: Likelihood) -> bool:
    """Whether a likelihood is for counts."""
    return likelihood != "normal"


def n_parameters(likelihood: Likelihood, dispersion: Literal["gene", "gene-cell"]) -> int:
    """Return how many numbers per cell and gene the decoder must give."""
    return 1 + (likelihood == "zinb") + (dispersion == "gene-cell")


def mean_of(likelihood: Likelihood, parameters: list[Tensor]) -> Tensor:
    """Return the conditional mean: expression for normal, counts per standard library for NB and ZINB."""
    if likelihood == "normal":
        return parameters[0]
    rate = _rate(parameters[0])
    return rate if likelihood == "nb" else rate * torch.sigmoid(-parameters[1])


def distribution(
    likelihood: Likelihood, parameters: list[Tensor], gene_dispersion: Tensor | None, library: Tensor | float
) -> Distribution:
    """Return the distribution of the outcome.

    Parameters
    ----------
    likelihood
        Family.
    parameters
        Decoder outputs, each ``(n_cells, n_genes)``: mean (log rate for counts); dropout logit (ZINB); log dispersion
        if it is per cell.
    gene_dispersion
        Log scale (normal) or log inverse dispersion (NB, ZINB) per gene; None if per cell.
    library
        Library size relative to the standard one, shape ``(n_cells, 1)``; counts only.
    """
    dispersion = parameters[-1] if gene_dispersion is None else gene_dispersion
    if likelihood == "normal":
        return Normal(parameters[0], torch.exp(dispersion.clamp(-10, 10)) + MIN_SCALE, validate_args=False)
    rate = _rate(parameters[0]) * library
    theta = torch.exp(dispersion.clamp(-10, 10))
    if likelihood == "nb":
        return NegativeBinomial(mu=rate, theta=theta)
    return ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=parameters[1])


def mean_log_prob(
    likelihood: Likelihood,
    parameters: list[Tensor],
    gene_dispersion: Tensor | None,
    library: Tensor | float,
    outcome: Tensor,
) -> Tensor:
    """Log-likelihood of outcomes, averaged over genes: that of :func:`distribution`, with fewer passes over the data.

    What depends on the gene alone is computed once per gene. torch's and scvi-tools' distributions expand it to all
    cells first, which for NB makes a third of the cost of a training step.

    Parameters
    ----------
    likelihood, parameters, gene_dispersion, library
        As for :func:`distribution`; parameters and library broadcast against `outcome`.
    outcome
        Expression, or counts as observed, shape ``(n_cells, n_genes)``.

    Returns
    -------
    Shape of the parameters without genes.
    """
    if likelihood == "zinb":
        return distribution(likelihood, parameters, gene_dispersion, library).log_prob(outcome).mean(dim=-1)
    log_dispersion = (parameters[-1] if gene_dispersion is None else gene_dispersion).clamp(-10, 10)
    if likelihood == "normal":
        scale = torch.exp(log_dispersion) + MIN_SCALE
        distance = mean_square(parameters[0], outcome, 0.5 / scale.square()) + scale.log().mean(dim=-1)
        return -distance - 0.5 * math.log(2 * math.pi)
    log_library = torch.log(torch.as_tensor(library, device=outcome.device) + EPS)
    return log_prob(_bounded(parameters[0]), log_library, torch.exp(log_dispersion), outcome) / outcome.shape[-1]


def mean_square(predicted: Tensor, observed: Tensor, weight: Tensor) -> Tensor:
    """Mean over genes of a weight times the squared difference; in float32 at least, for half precision is for layers.

    Weights are per gene, or per cell and gene; `observed` broadcasts against `predicted`.
    """
    with torch.autocast(device_type=predicted.device.type, enabled=False):
        dtype = torch.promote_types(predicted.dtype, torch.float32)
        square = mse_loss(predicted.to(dtype), observed.to(dtype).expand_as(predicted), reduction="none")
        return square @ weight / weight.numel() if weight.dim() == 1 else (square * weight).mean(dim=-1)


def initial_dispersion(likelihood: Likelihood, mean: Tensor, variance: Tensor) -> Tensor:
    """Return the dispersion per gene (see :func:`distribution`) at which outcomes have given moments.

    Parameters
    ----------
    likelihood
        Family.
    mean, variance
        Mean and variance within strata, shape ``(n_genes,)``.

    Returns
    -------
    Shape ``(n_genes,)``.
    """
    if not is_count(likelihood):
        return torch.log(variance.sqrt().clamp(min=MIN_SCALE))
    tiny = 1e-4  # where a gene varies less than a Poisson variable would
    theta = mean.square() / (variance - mean).clamp(min=tiny)  # v = m + m^2 / theta
    return torch.log(theta.clamp(0.1, 100.0))


def draw_like(dist: Distribution) -> Tensor:
    """Return a draw with a gradient: exact for normal, moment-matched and clipped at 0 for counts."""
    if isinstance(dist, Normal):
        return dist.rsample()
    return (dist.mean + dist.variance.sqrt() * torch.randn_like(dist.mean)).clamp(min=0)


def log1p_rate(log_rate: Tensor) -> Tensor:
    """Return log(1 + rate), shape and gradient as of the log rate."""
    return torch.log1p(_rate(log_rate))  # bounded rates need no softplus, which takes twice as long


def _rate(log_rate: Tensor) -> Tensor:
    return torch.exp(_bounded(log_rate))


def _bounded(log_rate: Tensor) -> Tensor:
    return hardtanh(log_rate, -LOG_RATE_BOUND, LOG_RATE_BOUND)  # a clamp whose gradient takes one pass, not four
