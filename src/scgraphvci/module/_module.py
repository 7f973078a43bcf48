"""The graphVCI module: inference and generation. Its objective is in `_objective.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scvi.module.base import BaseModuleClass, auto_move_data
from torch import nn

from scgraphvci._constants import KEYS
from scgraphvci.data import Network
from scgraphvci.data._deviation import MIN_PERTURBATIONS
from scgraphvci.data._mean_model import fit_mean_model
from scgraphvci.module._baseline import MeanBaseline, Propagation
from scgraphvci.module._fourier import FourierFeatures
from scgraphvci.module._graph import GraphEncoder
from scgraphvci.module._likelihood import (
    MIN_SCALE,
    Likelihood,
    distribution,
    initial_dispersion,
    is_count,
    log1p_rate,
    mean_of,
    n_parameters,
)
from scgraphvci.module._networks import CovariateEncoder, Decoder, Encoder, Pooling
from scgraphvci.module._objective import COUNTERFACTUAL_KEY, TARGET_SET_KEY, DistributionLoss, ObjectiveMixin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.distributions import Distribution, Normal

    from scgraphvci.data import Residuals, StratumMoments
    from scgraphvci.data._gene_regression import Route
    from scgraphvci.data._mean_model import MeanModel

DROPOUT_LOGIT = -3.0  # zero inflation starts at 5 %: NB explains most zeros, and half the mean would be lost at 50 %


class GraphVCIModule(ObjectiveMixin, BaseModuleClass):
    """Variational causal inference with a gene graph (Wu et al., ICLR 2023).

    Parameters
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
    edge_index, edge_weight, gene_features
        The network, see :class:`GraphEncoder`; `edge_index=None` gives VCI, the model without a graph.
    likelihood
        "normal", "nb" or "zinb".
    dispersion
        "gene": one scale per gene; "gene-cell": decoded, as in the paper.
    decoder
        "attention" (key-dependent) or "dot" (key-independent). Without a graph the decoder is linear.
    distribution_loss
        "kernel", "gaussian", "mmd" (maximum mean discrepancy between drawn counterfactuals of the batch's cells and the
        stratum; pairs never observed are held to the baseline as with "kernel") or "adversarial".
    distribution_target
        What is pulled to the stratum's moments: "stratum", the mean over the batch's cells of that stratum, which
        leaves single cells free to differ; or "cell", each counterfactual by itself, as in the paper.
    kernel_bandwidth
        Kernel width: "gene" for each gene's standard deviation within strata and treatments, or a number.
    baseline
        Whether the decoder's output is added to an empirical-Bayes model of stratum means, see :class:`MeanBaseline`.
    propagation
        How that model foretells where the response of a covariate's level deviates from the pooled one: from the
        "coexpression" of the level's training cells, each gene regressed on all others and, where there is a network,
        on its regulators, too; from the "graph" alone, each gene regressed on its regulators; or "none", not at all.
        Each is used only as far as it improves predictions of left-out levels.
    response_gain
        Whether the latent scales that model's response to the treatment, gene by gene, so that cells may respond more
        or less than their stratum; the factor, linear in the latent, starts at 1. Without a baseline there is none.
    residual_input
        Whether the encoder reads what that model's response to the treatment leaves of expression, rather than
        expression itself.
    individual_weight, covariate_weight, divergence_weight
        Weights of the three terms (omega 0, 1, 2), all per gene.
    n_samples
        Latent samples for the reconstruction term.

    Raises
    ------
    ValueError
        If `propagation` is "graph" and there is no network.
    """

    def __init__(
        self,
        n_genes: int,
        design: np.ndarray,
        strata: np.ndarray,
        n_levels: Sequence[int],
        n_continuous: int = 0,
        edge_index: np.ndarray | None = None,
        edge_weight: np.ndarray | None = None,
        gene_features: np.ndarray | None = None,
        likelihood: Likelihood = "normal",
        dispersion: Literal["gene", "gene-cell"] = "gene",
        decoder: Literal["attention", "dot"] = "dot",
        distribution_loss: DistributionLoss = "kernel",
        distribution_target: Literal["stratum", "cell"] = "stratum",
        kernel_bandwidth: float | Literal["gene"] = "gene",
        n_latent: int = 32,
        n_outcome_embedding: int = 128,
        n_hidden: int = 128,
        n_layers: int = 2,
        n_treatment_embedding: int = 32,
        n_covariate_embedding: int = 16,
        n_graph_hidden: int = 64,
        n_graph_layers: int = 1,
        graph_pooling: Pooling = "mean",
        dropout_rate: float = 0.0,
        baseline: bool = True,
        propagation: Propagation = "coexpression",
        response_gain: bool = True,
        residual_input: bool = True,
        individual_weight: float = 1.0,
        covariate_weight: float = 2.0,
        divergence_weight: float = 0.05,
        n_samples: int = 1,
    ) -> None:
        super().__init__()
        n_perturbations = design.shape[1]
        self._routes = _routes(propagation, edge_index, edge_weight)
        tell = n_perturbations >= MIN_PERTURBATIONS and len(n_levels) > 0
        self.needs_residuals = baseline and propagation != "none" and tell
        self.likelihood: Likelihood = likelihood
        self.distribution_loss = distribution_loss
        self.distribution_target = distribution_target
        self.kernel_bandwidth = kernel_bandwidth
        self.residual_input = residual_input and baseline
        self.individual_weight = individual_weight
        self.covariate_weight = covariate_weight
        self.divergence_weight = divergence_weight
        self.n_samples = n_samples
        self.n_levels = list(n_levels)

        self.register_buffer("design", torch.as_tensor(design, dtype=torch.float32), persistent=False)
        self.register_buffer("strata", torch.as_tensor(np.asarray(strata), dtype=torch.long), persistent=False)
        # Learned from the training cells once, before the first step, and saved with the weights.
        self.register_buffer("library_size", torch.ones(()))
        self.register_buffer("input_mean", torch.zeros(n_genes))
        self.register_buffer("within_scale", torch.ones(n_genes))

        self.graph = None
        if edge_index is not None and edge_weight is not None:
            self.graph = GraphEncoder(n_genes, edge_index, edge_weight, gene_features, n_graph_hidden, n_graph_layers)
        n_graph = n_graph_hidden if self.graph is not None else 0
        self.treatment_embedding = nn.Linear(n_perturbations, n_treatment_embedding, bias=False)
        self.covariates = CovariateEncoder(n_levels, n_continuous, n_covariate_embedding)
        self.encoder = Encoder(
            n_genes, n_treatment_embedding, self.covariates.n_out, n_graph, n_outcome_embedding, n_hidden, n_layers,
            n_latent, dropout_rate, graph_pooling,
        )  # fmt: skip
        self.decoder = Decoder(
            n_genes, n_treatment_embedding, n_latent, n_graph, n_hidden, n_layers, dropout_rate,
            n_parameters(likelihood, dispersion), decoder,
        )  # fmt: skip
        self.baseline = MeanBaseline(n_genes, n_perturbations, n_levels) if baseline else None
        self.gain = None
        if baseline and response_gain:
            self.gain = nn.Linear(n_latent, n_genes, bias=False)
            nn.init.zeros_(self.gain.weight)
        self.fourier = FourierFeatures(n_genes) if distribution_loss == "mmd" else None
        self.gene_dispersion = nn.Parameter(torch.zeros(n_genes)) if dispersion == "gene" else None

    @torch.no_grad()
    def initialise(self, moments: StratumMoments, residuals: Residuals | None = None) -> MeanModel | None:
        """Set scale, centre and baseline from the training cells, so that training starts there.

        Parameters
        ----------
        moments
            Moments of the training cells.
        residuals
            Their residuals, where `needs_residuals`; without them no deviations by level are fitted.

        Returns
        -------
        The model of stratum means that the baseline starts from; None without a baseline.
        """
        fit = None
        mean = torch.as_tensor(moments.gene_mean, dtype=torch.float32).to(self.input_mean)
        variance = torch.as_tensor(moments.within_variance, dtype=torch.float32).to(self.input_mean)
        self.library_size.fill_(moments.library_size)
        self.input_mean.copy_(torch.as_tensor(moments.input_mean))
        self.within_scale.copy_(variance.sqrt() + MIN_SCALE)
        if self.baseline is not None:
            design, strata = self.design.cpu().numpy(), self.strata.cpu().numpy()
            log = is_count(self.likelihood)
            fit = fit_mean_model(moments, design, strata, self.n_levels, residuals, self._routes, log=log)
            self.baseline.start_from(fit)
        if self.gene_dispersion is not None:
            self.gene_dispersion.copy_(initial_dispersion(self.likelihood, mean, variance))
        return fit

    def embed_genes(self) -> Tensor | None:
        """Return gene embeddings H (n_genes, n_hidden), or None without a graph. Once per step, not per cell."""
        return None if self.graph is None else self.graph()

    def response(self, treatment: Tensor, levels: Tensor) -> Tensor | None:
        """Return the baseline's response to treatments, shape ``(n_cells, n_genes)``; None without a baseline.

        Methods that take a `response` compute it where it is None; a training step computes it once.
        """
        return None if self.baseline is None else self.baseline.response(treatment, levels)

    def to_input(self, outcome: Tensor, treatment: Tensor, levels: Tensor, response: Tensor | None = None) -> Tensor:
        """Bring an outcome on the model's scale to the scale the encoder reads.

        That is log1p for counts, less gene mean and baseline response (or the gene mean only): what the treatment
        would have done anyway says nothing about the cell. The strata's levels stay in, for similar strata respond
        alike and the latent has to know which are similar.
        """
        count = is_count(self.likelihood)
        value = torch.log1p(outcome) if count else outcome
        if self.baseline is None or not self.residual_input:
            return value - self.input_mean
        response = self.baseline.response(treatment, levels) if response is None else response
        expected = self.baseline.intercept + response
        return value - (log1p_rate(expected) if count else expected)

    def fourier_features(self, outcome: Tensor) -> Tensor:
        """Return Fourier features of outcomes on the model's scale, shape ``(n_cells, n_features)``."""
        if self.fourier is None:
            msg = "The module has no Fourier features; build it with distribution_loss='mmd'."
            raise ValueError(msg)
        if not is_count(self.likelihood):
            return self.fourier(outcome / self.within_scale)
        scale = self.within_scale / self.input_mean.exp()  # of log1p, by the delta method
        return self.fourier(torch.log1p(outcome) / scale)

    def baseline_mean(self, treatment: Tensor, levels: Tensor) -> Tensor:
        """Return what the baseline expects of strata on the model's scale, shape ``(n_cells, n_genes)``."""
        if self.baseline is None:
            msg = "The module has no baseline; build it with baseline=True."
            raise ValueError(msg)
        expected = self.baseline(treatment, levels)
        return mean_of("nb", [expected]) if is_count(self.likelihood) else expected

    def encode(
        self,
        outcome: Tensor,
        treatment: Tensor,
        levels: Tensor,
        continuous: Tensor | None,
        genes: Tensor | None,
        encoder: Encoder | None = None,
        response: Tensor | None = None,
    ) -> Normal:
        """Return q(z | y, g, x, t) for outcomes on the model's scale (counts per standard library for counts)."""
        encoder = self.encoder if encoder is None else encoder
        covariates = self.covariates(levels, continuous)
        value = self.to_input(outcome, treatment, levels, response)
        return encoder(value, self.treatment_embedding(treatment), covariates, genes)

    def decode(
        self,
        latent: Tensor,
        treatment: Tensor,
        levels: Tensor,
        genes: Tensor | None,
        response: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the outcome's parameters, each ``(n_cells, n_genes)``: the decoder's plus the baseline."""
        parameters = self.decoder(latent, self.treatment_embedding(treatment), genes)
        if self.likelihood == "zinb":
            parameters[1] = parameters[1] + DROPOUT_LOGIT
        if self.baseline is not None:
            response = self.baseline.response(treatment, levels) if response is None else response
            # In place: arrays of cells x genes are large.
            mean = self.baseline.mean(response, levels).add_(parameters[0])
            parameters[0] = mean if self.gain is None else mean.addcmul_(self.gain(latent), response)
        return parameters

    def mean(self, parameters: list[Tensor]) -> Tensor:
        """Return the conditional mean on the model's scale, shape ``(n_cells, n_genes)``."""
        return mean_of(self.likelihood, parameters)

    def outcome_distribution(self, parameters: list[Tensor], library: Tensor | float = 1.0) -> Distribution:
        """Return p(y | z, t); `library` is relative to the standard library and matters for counts only."""
        return distribution(self.likelihood, parameters, self.gene_dispersion, library)

    def unpack(
        self, tensors: dict[str, Tensor], design: Tensor | None = None, strata: Tensor | None = None
    ) -> dict[str, Any]:
        """Turn a minibatch into the arguments of `encode`, with the relative library size of each cell.

        `design` and `strata` are the tables its codes point into; those of the training data if None.
        """
        design = self.design if design is None else design
        strata = self.strata if strata is None else strata
        outcome = tensors[KEYS.OUTCOME]
        library: Tensor | float = 1.0
        if is_count(self.likelihood):
            size = tensors.get(KEYS.SIZE_FACTOR)
            size = outcome.sum(dim=1, keepdim=True).clamp(min=1.0) if size is None else size
            library = size / self.library_size
        return {
            "counts_or_expression": outcome,
            "outcome": outcome / library if is_count(self.likelihood) else outcome,
            "library": library,
            "treatment": design[tensors[KEYS.TREATMENT].long().flatten()],
            "levels": strata[tensors[KEYS.STRATUM].long().flatten()],
            "continuous": tensors.get(KEYS.CONTINUOUS),
        }

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        return {"cells": self.unpack(tensors)}

    @auto_move_data
    def inference(self, cells: dict[str, Any]) -> dict[str, Any]:
        """Encode cells and the graph; hand the unpacked minibatch on to `generative` and `loss`."""
        genes = self.embed_genes()
        treatment, levels = cells["treatment"], cells["levels"]
        response = self.response(treatment, levels)
        qz = self.encode(cells["outcome"], treatment, levels, cells["continuous"], genes, response=response)
        return {"qz": qz, "genes": genes, "cells": cells, "response": response}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        counterfactual, member = tensors.get(COUNTERFACTUAL_KEY), tensors.get(TARGET_SET_KEY)
        return {**inference_outputs, "counterfactual": counterfactual, "member": member}

    @auto_move_data
    def generative(
        self,
        qz: Normal,
        genes: Tensor | None,
        cells: dict[str, Any],
        response: Tensor | None,
        counterfactual: Tensor | None,
        member: Tensor | None = None,
    ) -> dict[str, Any]:
        """Decode latent samples under the cells' own treatment and one of them under the counterfactual one.

        `member` tells cells of the same stratum and counterfactual treatment, whose response is the same.
        """
        treatment, levels, n_samples = cells["treatment"], cells["levels"], self.n_samples
        latent = qz.rsample((n_samples,)).flatten(0, 1)
        n, n_factual = len(treatment), len(latent)
        outputs: dict[str, Any] = {"counterfactual_parameters": None, "counterfactual_response": None}
        treatments, responses = [treatment] * n_samples, [response] * n_samples
        if counterfactual is not None:  # one pass through the decoder for both
            other = self._response_by_set(counterfactual, levels, member)
            latent = torch.cat([latent, latent[:n]])
            treatments, responses = [*treatments, counterfactual], [*responses, other]
            outputs["counterfactual_response"] = other
        stacked = None if response is None else torch.cat([part for part in responses if part is not None])
        parameters = self.decode(latent, torch.cat(treatments), levels, genes, stacked)
        # Split, not sliced: gradients of slices are arrays of zeros that are added up.
        split = [parameter.split([n_factual, len(latent) - n_factual]) for parameter in parameters]
        outputs["parameters"] = [own.view(n_samples, n, -1) for own, _ in split]
        if counterfactual is not None:
            outputs["counterfactual_parameters"] = [other for _, other in split]
        return outputs

    def _response_by_set(self, treatment: Tensor, levels: Tensor, member: Tensor | None) -> Tensor | None:
        """Return the baseline's response, computed once for cells of a set; shape ``(n_cells, n_genes)``."""
        if member is None or self.baseline is None:
            return self.response(treatment, levels)
        cells = torch.arange(len(member), device=member.device)
        one = member.new_empty(int(member.max()) + 1).scatter_(0, member, cells)  # any cell of each set
        return self.baseline.response(treatment[one], levels[one])[member]

    @torch.inference_mode()
    def sample(self, tensors: dict[str, Tensor], n_samples: int = 1) -> Tensor:
        """Draw reconstructions of cells, shape ``(n_samples, n_cells, n_genes)``."""
        encoded = self.inference(**self._get_inference_input(tensors))
        cells, genes, response = encoded["cells"], encoded["genes"], encoded["response"]
        draws = []
        for _ in range(n_samples):
            parameters = self.decode(encoded["qz"].sample(), cells["treatment"], cells["levels"], genes, response)
            draws.append(self.outcome_distribution(parameters, cells["library"]).sample())
        return torch.stack(draws)


def _routes(propagation: Propagation, edge_index: np.ndarray | None, edge_weight: np.ndarray | None) -> list[Route]:
    """What responses travel along."""
    if propagation == "none":
        return []
    routes: list[Route] = [None] if propagation == "coexpression" else []
    if edge_index is not None and edge_weight is not None and np.any(edge_index[0] != edge_index[1]):
        return [*routes, Network(edge_index, edge_weight)]
    if propagation == "graph":
        msg = "propagation='graph' needs a network: name one with `grn_key` at setup, or use 'coexpression'."
        raise ValueError(msg)
    return routes
