"""The objective (Eq. 1-3): its terms, each a pure function, and their weighted sum.

Every term is per gene: log-likelihoods are averaged over genes and the divergence, a sum over latents, is divided by
the number of genes, so that weights mean the same whatever the numbers of genes and latents.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import nn
from torch.distributions import Normal, kl_divergence

from scgraphvci.module._fourier import squared_discrepancy
from scgraphvci.module._likelihood import Likelihood, draw_like, mean_log_prob, mean_square

if TYPE_CHECKING:
    from torch import Tensor

    from scgraphvci.module._networks import Encoder

_Base: Any = BaseModuleClass if TYPE_CHECKING else object

DistributionLoss = Literal["kernel", "gaussian", "mmd", "adversarial"]

# Keys the training plan adds to a minibatch.
COUNTERFACTUAL_KEY = "counterfactual_treatment"  # treatment vectors t', (n_cells, n_perturbations)
TARGET_MEAN_KEY = "target_mean"  # moments of the pairs (x, t') of the minibatch, (n_sets, n_genes)
TARGET_VARIANCE_KEY = "target_variance"
TARGET_SET_KEY = "target_set"  # which of these pairs: cells with the same one form a set, (n_cells,)
TARGET_KNOWN_KEY = "target_known"  # whether there are moments of (x, t'), (n_cells,)
TARGET_EMBEDDING_KEY = "target_embedding"  # mean Fourier features of (x, t'), (n_cells, n_features)
TARGET_OBSERVED_KEY = "target_observed"  # whether these are known, (n_cells,)


class ObjectiveMixin(_Base):
    """The objective of a module that encodes and decodes; its weights and kinds of terms are the module's attributes.

    Attributes
    ----------
    individual_weight, covariate_weight, divergence_weight
        Weights of the three terms (omega 0, 1, 2), all per gene.
    distribution_loss, distribution_target, kernel_bandwidth
        See :class:`scgraphvci.module.GraphVCIModule`.
    n_samples
        Latent samples for the reconstruction term.
    likelihood, gene_dispersion
        Of the outcome, see :func:`scgraphvci.module._likelihood.distribution`.
    """

    individual_weight: float
    covariate_weight: float
    divergence_weight: float
    distribution_loss: DistributionLoss
    distribution_target: Literal["stratum", "cell"]
    kernel_bandwidth: float | Literal["gene"]
    n_samples: int
    likelihood: Likelihood
    gene_dispersion: Tensor | None

    @abstractmethod
    def fourier_features(self, outcome: Tensor) -> Tensor:
        """Return Fourier features of outcomes on the model's scale, shape ``(n_cells, n_features)``."""

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        frozen_encoder: Encoder | None = None,
        discriminator: nn.Module | None = None,
    ) -> LossOutput:
        """Weigh the three terms of Eq. 3, with signs for minimisation.

        The minibatch carries what the training plan drew: counterfactual treatments and the moments of their strata.
        Where nothing is known of a stratum under t', the distribution term of that cell is left out.
        """
        cells = inference_outputs["cells"]
        n, n_genes = cells["outcome"].shape
        reconstruction = -mean_log_prob(
            self.likelihood, generative_outputs["parameters"], self.gene_dispersion, cells["library"],
            cells["counts_or_expression"],
        ).mean(dim=0)  # fmt: skip

        parameters = generative_outputs["counterfactual_parameters"]
        predicted = self.mean(parameters)
        known = tensors[TARGET_KNOWN_KEY].to(predicted.dtype)
        distance = known * self._distribution_distance(tensors, cells, predicted, parameters, discriminator)
        n_known = known.sum().clamp(min=1.0)

        other_qz = self.encode(
            predicted, tensors[COUNTERFACTUAL_KEY], cells["levels"], cells["continuous"], inference_outputs["genes"],
            frozen_encoder, generative_outputs["counterfactual_response"],
        )  # fmt: skip
        divergence = latent_divergence(inference_outputs["qz"], other_qz, n_genes)

        loss = (
            self.individual_weight * reconstruction.mean()
            + self.covariate_weight * distance.sum() / n_known
            + self.divergence_weight * divergence.mean()
        )
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            kl_local=divergence,
            n_obs_minibatch=n,
            extra_metrics={"distribution_loss": (distance.sum() / n_known).detach()},
        )

    def _distribution_distance(
        self,
        tensors: dict[str, Tensor],
        cells: dict[str, Any],
        predicted: Tensor,
        parameters: list[Tensor],
        discriminator: nn.Module | None,
    ) -> Tensor:
        """Return -log phat(y' | x, t') per cell, shape ``(n_cells,)``."""
        if self.distribution_loss == "adversarial":
            if discriminator is None:
                msg = "The adversarial distribution loss needs a discriminator; train with AdversarialPlan."
                raise ValueError(msg)
            drawn = draw_like(self.outcome_distribution(parameters))
            logit = discriminator(self, drawn, tensors[COUNTERFACTUAL_KEY], cells["levels"], cells["continuous"])
            return nn.functional.softplus(-logit)
        mean, variance, member = tensors[TARGET_MEAN_KEY], tensors[TARGET_VARIANCE_KEY], tensors[TARGET_SET_KEY]
        by_set = self.distribution_target == "stratum"
        if by_set:
            predicted = mean_by_set(predicted, member, len(mean))
        else:
            mean, variance = mean[member], variance[member]
        if self.distribution_loss == "gaussian":
            distance = gaussian_distance(predicted, mean, variance)
        else:
            bandwidth = self.within_scale if self.kernel_bandwidth == "gene" else float(self.kernel_bandwidth)
            distance = kernel_distance(predicted, mean, variance, bandwidth)
        if by_set:
            distance = distance[member]
        if self.distribution_loss != "mmd":
            return distance
        features = self.fourier_features(draw_like(self.outcome_distribution(parameters)))
        discrepancy = squared_discrepancy(features, tensors[TARGET_EMBEDDING_KEY], tensors[TARGET_SET_KEY])
        return torch.where(tensors[TARGET_OBSERVED_KEY], discrepancy, distance)


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
    weight = torch.as_tensor(0.5 / bandwidth**2, dtype=mean.dtype, device=mean.device).expand(mean.shape[-1])
    return mean_square(predicted, mean, weight) + (variance * weight).mean(dim=-1)


def gaussian_distance(predicted: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    r"""Negative Gaussian log-density :math:`-\log N(y'; m, v)`, averaged over genes, shape ``(n_cells,)``.

    Arguments are those of `kernel_distance`; the variance must be positive.
    """
    return -Normal(mean, variance.sqrt(), validate_args=False).log_prob(predicted).mean(dim=-1)


def mean_by_set(predicted: Tensor, member: Tensor, n_sets: int) -> Tensor:
    """Mean counterfactual of the cells of the batch with the same stratum and counterfactual treatment.

    A distance of these means to the moments of the target asks the *set* of counterfactuals to match a stratum, and
    leaves each of them free to differ; a distance of single counterfactuals pulls every cell to the stratum's mean.

    Parameters
    ----------
    predicted
        Counterfactual means, shape ``(n_cells, n_genes)``.
    member
        Set of each cell, shape ``(n_cells,)``.
    n_sets
        Number of sets, each with a cell at least.

    Returns
    -------
    Shape ``(n_sets, n_genes)``, in float32 at least.
    """
    with torch.autocast(device_type=predicted.device.type, enabled=False):
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        share = nn.functional.one_hot(member, n_sets).T.to(predicted.dtype)
        return (share / share.sum(dim=1, keepdim=True)) @ predicted


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
