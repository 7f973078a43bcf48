"""What the deep comparison models share: an autoencoder of expression, conditioned on treatment and covariates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from scvi.nn import FCLayers
from torch import nn

from scgraphvci._constants import KEYS
from scgraphvci.module._likelihood import MIN_SCALE, Likelihood, distribution
from scgraphvci.module._networks import CovariateEncoder

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributions import Distribution, Normal

    from scgraphvci.data import StratumMoments


class Screen(NamedTuple):
    """What a network has to know of a screen.

    Attributes
    ----------
    n_genes
        Number of genes.
    design
        Observed treatment vectors, shape ``(n_conditions, n_perturbations)``.
    strata
        Level codes of each stratum, shape ``(n_strata, n_covariates)``.
    n_levels
        Levels of each categorical covariate.
    n_continuous
        Number of continuous covariates.
    """

    n_genes: int
    design: np.ndarray
    strata: np.ndarray
    n_levels: tuple[int, ...]
    n_continuous: int


class Point(NamedTuple):
    """The posterior of a deterministic encoder: all its mass at one point.

    Attributes
    ----------
    mean
        The point, shape ``(n_cells, n_latent)``.
    """

    mean: Tensor

    def sample(self) -> Tensor:
        """Return the point."""
        return self.mean

    def rsample(self) -> Tensor:
        """Return the point, with its gradient."""
        return self.mean


class OutcomeModule(BaseModuleClass):
    """Encodes cells, decodes them under any treatment and scores the outcome by a normal with one scale per gene.

    Subclasses build the networks and define `encode` and `decode`, with the arguments that
    :class:`scgraphvci.module.GraphVCIModule` gives them, so that both kinds of model predict by the same code.

    Parameters
    ----------
    screen
        Sizes and tables.
    """

    likelihood: Likelihood = "normal"

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.screen = screen
        self.register_buffer("design", torch.as_tensor(screen.design, dtype=torch.float32), persistent=False)
        self.register_buffer("strata", torch.as_tensor(screen.strata, dtype=torch.long), persistent=False)
        self.register_buffer("input_mean", torch.zeros(screen.n_genes))
        self.log_scale = nn.Parameter(torch.zeros(screen.n_genes))

    @torch.no_grad()
    def initialise(self, moments: StratumMoments) -> None:
        """Start from mean and scale of the training cells; the encoder reads deviations from that mean."""
        mean = torch.as_tensor(moments.gene_mean, dtype=torch.float32)
        scale = torch.as_tensor(np.sqrt(moments.within_variance), dtype=torch.float32)
        self.input_mean.copy_(mean)
        self.log_scale.copy_(torch.log(scale.clamp(min=MIN_SCALE)))

    def encode(
        self, outcome: Tensor, treatment: Tensor, levels: Tensor, continuous: Tensor | None, genes: None = None
    ) -> Normal | Point:
        """Return the posterior of the latent given expression, treatment vector and covariates."""
        raise NotImplementedError

    def decode(self, latent: Tensor, treatment: Tensor, levels: Tensor, genes: None = None) -> list[Tensor]:
        """Return the outcome's parameters under a treatment: its mean, shape ``(n_cells, n_genes)``."""
        raise NotImplementedError

    def embed_genes(self) -> None:
        """Return nothing: these models have no network of genes."""

    def mean(self, parameters: list[Tensor]) -> Tensor:
        """Return the conditional mean, shape ``(n_cells, n_genes)``."""
        return parameters[0]

    def outcome_distribution(self, parameters: list[Tensor], library: float = 1.0) -> Distribution:
        """Return p(y | z, t); there is no library size on the scale of log-normalised expression."""
        return distribution(self.likelihood, parameters, self.log_scale, library)

    def unpack(
        self, tensors: dict[str, Tensor], design: Tensor | None = None, strata: Tensor | None = None
    ) -> dict[str, Any]:
        """Turn a minibatch into the arguments of `encode`; its codes point into the training tables by default."""
        design = self.design if design is None else design
        strata = self.strata if strata is None else strata
        return {
            "outcome": tensors[KEYS.OUTCOME],
            "library": 1.0,
            "condition": tensors[KEYS.TREATMENT].long().flatten(),
            "stratum": tensors[KEYS.STRATUM].long().flatten(),
            "treatment": design[tensors[KEYS.TREATMENT].long().flatten()],
            "levels": strata[tensors[KEYS.STRATUM].long().flatten()],
            "continuous": tensors.get(KEYS.CONTINUOUS),
        }

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        return {"cells": self.unpack(tensors)}

    @auto_move_data
    def inference(self, cells: dict[str, Any]) -> dict[str, Any]:
        """Encode cells and draw their latents."""
        qz = self.encode(cells["outcome"], cells["treatment"], cells["levels"], cells["continuous"])
        return {"qz": qz, "latent": qz.rsample()}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        return {"cells": self.unpack(tensors), "latent": inference_outputs["latent"]}

    @auto_move_data
    def generative(self, cells: dict[str, Any], latent: Tensor) -> dict[str, Any]:
        """Decode latents under the cells' own treatment."""
        return {"px": self.outcome_distribution(self.decode(latent, cells["treatment"], cells["levels"]))}

    def penalties(
        self, cells: dict[str, Any], inference_outputs: dict[str, Any], generative_outputs: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return what the model adds to the reconstruction loss, by name; each is a scalar per gene, weighted."""
        return {}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
    ) -> LossOutput:
        """Sum the negative log-likelihood of the outcome, averaged over genes, and the penalties."""
        cells = self.unpack(tensors)
        reconstruction = -generative_outputs["px"].log_prob(cells["outcome"]).mean(dim=1)
        penalties = self.penalties(cells, inference_outputs, generative_outputs)
        return LossOutput(
            loss=reconstruction.mean() + sum(penalties.values(), reconstruction.new_zeros(())),
            reconstruction_loss=reconstruction,
            extra_metrics={name: value.detach() for name, value in penalties.items()},
        )

    @torch.inference_mode()
    def sample(self, tensors: dict[str, Tensor]) -> Tensor:
        """Draw reconstructions of cells, shape ``(n_cells, n_genes)``."""
        _, generative = self(tensors, compute_loss=False)
        return generative["px"].sample()


class ConditionalAutoencoder(OutcomeModule):
    """Encoder of expression, treatment and covariates; decoder of latent and treatment.

    Parameters
    ----------
    screen
        Sizes and tables.
    n_latent, n_hidden, n_layers
        Latents; width and number of hidden layers of encoder and decoder.
    n_treatment_embedding, n_covariate_embedding
        Sizes of the embeddings of the treatment and of each categorical covariate.
    dropout_rate
        In encoder and decoder.
    """

    def __init__(
        self,
        screen: Screen,
        n_latent: int = 32,
        n_hidden: int = 128,
        n_layers: int = 2,
        n_treatment_embedding: int = 32,
        n_covariate_embedding: int = 16,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__(screen)
        n_perturbations = screen.design.shape[1]
        self.treatment_embedding = nn.Linear(n_perturbations, n_treatment_embedding, bias=False)
        self.covariates = CovariateEncoder(screen.n_levels, screen.n_continuous, n_covariate_embedding)
        n_inputs = screen.n_genes + n_treatment_embedding + self.covariates.n_out
        self.encoder = mlp(n_inputs, n_hidden, n_layers, dropout_rate)
        self.latent = nn.Linear(n_hidden, n_latent)
        self.decoder = mlp(n_latent + n_treatment_embedding, n_hidden, n_layers, dropout_rate)
        self.head = nn.Linear(n_hidden, screen.n_genes)

    @torch.no_grad()
    def initialise(self, moments: StratumMoments) -> None:
        """Start from mean and scale of the training cells."""
        super().initialise(moments)
        self.head.bias.copy_(self.input_mean)

    def hidden(self, outcome: Tensor, treatment: Tensor, levels: Tensor, continuous: Tensor | None) -> Tensor:
        """Return the last hidden layer of the encoder, shape ``(n_cells, n_hidden)``."""
        parts = [outcome - self.input_mean, self.treatment_embedding(treatment), self.covariates(levels, continuous)]
        return self.encoder(torch.cat(parts, dim=1))

    def encode(
        self, outcome: Tensor, treatment: Tensor, levels: Tensor, continuous: Tensor | None, genes: None = None
    ) -> Normal | Point:
        """Return the latent, which is deterministic."""
        return Point(self.latent(self.hidden(outcome, treatment, levels, continuous)))

    def decode(self, latent: Tensor, treatment: Tensor, levels: Tensor, genes: None = None) -> list[Tensor]:
        """Return the mean outcome under a treatment, shape ``(n_cells, n_genes)``; covariates enter by the latent."""
        return [self.head(self.decoder(torch.cat([latent, self.treatment_embedding(treatment)], dim=1)))]


class LatentClassifier(nn.Module):
    """Predicts treatment and covariates from the latent.

    Every observed treatment is a class of its own, and so is every level of a covariate; continuous covariates are
    normal with unit variance (they are standardised).
    """

    def __init__(self, screen: Screen, n_latent: int, n_hidden: int, n_layers: int = 1) -> None:
        super().__init__()
        self.mlp = mlp(n_latent, n_hidden, n_layers)
        self.treatment = nn.Linear(n_hidden, screen.design.shape[0])
        self.levels = nn.ModuleList([nn.Linear(n_hidden, n) for n in screen.n_levels])
        self.continuous = nn.Linear(n_hidden, screen.n_continuous) if screen.n_continuous else None

    def forward(self, latent: Tensor, cells: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return -log p(t | z) and -log p(x | z), each of shape ``(n_cells,)``."""
        hidden = self.mlp(latent)
        treatment = nn.functional.cross_entropy(self.treatment(hidden), cells["condition"], reduction="none")
        covariates = torch.zeros_like(treatment)
        for j, head in enumerate(self.levels):
            covariates = covariates + nn.functional.cross_entropy(head(hidden), cells["levels"][:, j], reduction="none")
        if self.continuous is not None:
            covariates = covariates + (self.continuous(hidden) - cells["continuous"]).square().sum(dim=1) / 2
        return treatment, covariates


def mlp(n_inputs: int, n_hidden: int, n_layers: int, dropout_rate: float = 0.0) -> FCLayers:
    """Return hidden layers of one width, normalised by layer."""
    return FCLayers(
        n_inputs,
        n_hidden,
        n_layers=n_layers,
        n_hidden=n_hidden,
        dropout_rate=dropout_rate,
        use_batch_norm=False,
        use_layer_norm=True,
    )
