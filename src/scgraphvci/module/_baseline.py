"""The decoder's baseline: an empirical-Bayes model of stratum means, from which the network learns to deviate."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.functional import embedding, embedding_bag

from scgraphvci.data._dose_response import DoseResponse
from scgraphvci.data._mean_model import N_FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scgraphvci.data._mean_model import MeanModel

Propagation = Literal["coexpression", "graph", "none"]


class MeanBaseline(nn.Module):
    """What is known of a stratum's mean before looking at a cell: level, and response borrowed from similar strata.

    Fitted in closed form before the first step (:func:`scgraphvci.data._mean_model.fit_mean_model`) and kept fixed:
    learned by gradient descent, the same numbers would take up the noise of the training cells. Covariates are part of
    the latent in the causal diagram, so that decoding them directly changes no independence of the model.
    """

    intercept: Tensor
    shift: Tensor
    interaction: Tensor
    heterogeneity: Tensor
    deviation: Tensor
    deviation_covariate: Tensor
    dose_response: Tensor

    def __init__(self, n_genes: int, n_perturbations: int, n_levels: Sequence[int]) -> None:
        super().__init__()
        # As many principal components as the strata can have, so that shapes depend on the set-up alone.
        n_features = min(N_FEATURES, sum(n - 1 for n in n_levels))
        self.n_covariates = len(n_levels)
        self.register_buffer("intercept", torch.zeros(n_genes))
        self.register_buffer("shift", torch.zeros(n_perturbations, n_genes))
        self.register_buffer("interaction", torch.zeros(n_perturbations, n_features, n_genes))
        self.register_buffer("heterogeneity", torch.zeros(2, n_genes))
        self.register_buffer("deviation", torch.zeros(0, n_perturbations, n_genes))  # as many levels as the fit has
        self.register_buffer("deviation_covariate", torch.zeros((), dtype=torch.long))
        self.register_buffer("dose_response", torch.tensor(DoseResponse()))
        for j, n in enumerate(n_levels):
            self.register_buffer(f"offset_{j}", torch.zeros(n, n_genes))
            self.register_buffer(f"features_{j}", torch.zeros(n, n_features))

    def start_from(self, fit: MeanModel) -> None:
        """Take the numbers of a fit to the moments of the training cells."""
        self.intercept.copy_(torch.as_tensor(fit.intercept))
        self.shift.copy_(torch.as_tensor(fit.shift))
        self.heterogeneity.copy_(torch.as_tensor(fit.heterogeneity))
        self.deviation = torch.as_tensor(fit.deviation).to(self.shift)
        self.deviation_covariate.fill_(fit.deviation_covariate)
        self.dose_response.copy_(torch.tensor(fit.dose_response))
        n_features = fit.interaction.shape[1]
        self.interaction.zero_()
        self.interaction[:, :n_features] = torch.as_tensor(fit.interaction).to(self.interaction)
        for j, (offset, features) in enumerate(zip(fit.offsets, fit.level_features, strict=True)):
            self.get_buffer(f"offset_{j}").copy_(torch.as_tensor(offset))
            self.get_buffer(f"features_{j}").zero_()[:, :n_features] = torch.as_tensor(features).to(self.shift)

    def response(self, treatment: Tensor, levels: Tensor) -> Tensor:
        """Return the shift from control, shape ``(n_cells, n_genes)``."""
        return self._sum_of_responses(treatment, levels, bent=True)

    def bent(self, amount: Tensor) -> Tensor:
        """Return the response to doses relative to the largest, over that to the largest."""
        saturation, steepness = self.dose_response
        return DoseResponse(saturation, steepness)(amount)

    def _sum_of_responses(self, treatment: Tensor, levels: Tensor, *, bent: bool) -> Tensor:
        """Sum the responses to largest doses, times the entries of treatment vectors or the responses to these doses.

        Treatment vectors hold few perturbations: looking their rows up costs the same for 5 and for 5,000 of them.
        """
        cell, perturbation = treatment.nonzero(as_tuple=True)
        amount = self.bent(treatment[cell, perturbation]) if bent else treatment[cell, perturbation]
        first = (treatment != 0).sum(dim=1).cumsum(0)
        first = torch.cat([first.new_zeros(1), first[:-1]])  # where the perturbations of each cell begin
        total = _weighted_rows(self.shift, perturbation, first, amount)
        if self.deviation.shape[0]:
            level = levels.index_select(1, self.deviation_covariate.view(1)).flatten()
            rows = level[cell] * self.deviation.shape[1] + perturbation
            total = total + _weighted_rows(self.deviation.flatten(0, 1), rows, first, amount)
        n_features = self.interaction.shape[1]
        if not n_features:
            return total
        rows = perturbation[:, None] * n_features + torch.arange(n_features, device=perturbation.device)
        weight = amount[:, None] * self._sum("features", levels)[cell]
        crossed = _weighted_rows(self.interaction.flatten(0, 1), rows.flatten(), first * n_features, weight.flatten())
        return total + crossed

    def mean_response(self, weight: Tensor, levels: Tensor) -> Tensor:
        """Return a weighted mean of responses to single perturbations, shape ``(n_cells, n_genes)``."""
        rows, stratum = torch.unique(levels, dim=0, return_inverse=True)
        return self._sum_of_responses(weight.expand(len(rows), -1), rows, bent=False)[stratum]

    def forward(self, treatment: Tensor, levels: Tensor) -> Tensor:
        """Return the mean of each cell's stratum under a treatment, shape ``(n_cells, n_genes)``."""
        return self.mean(self.response(treatment, levels), levels)

    def mean(self, response: Tensor, levels: Tensor) -> Tensor:
        """Return the mean of each cell's stratum, given its response, shape ``(n_cells, n_genes)``.

        `response` may hold several blocks of the cells that `levels` has: what is theirs is then looked up once.
        """
        if not self.n_covariates:
            return self.intercept + response
        expected = self._sum("offset", levels) + self.intercept
        return (response.view(-1, *expected.shape) + expected).view_as(response)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take deviations of any number of levels: none before training, those of one covariate after it."""
        stored = state_dict.get(f"{prefix}deviation")
        if stored is not None and stored.shape[1:] == self.deviation.shape[1:]:
            self.deviation = self.deviation.new_zeros(stored.shape)
        if f"{prefix}intercept" in state_dict:  # a model saved before the curve was fitted; not parameters alone
            state_dict.setdefault(f"{prefix}dose_response", torch.tensor(DoseResponse()))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _sum(self, name: str, levels: Tensor) -> Tensor:
        """Sum over covariates of what their levels contribute."""
        parts = [embedding(levels[:, j], self.get_buffer(f"{name}_{j}")) for j in range(self.n_covariates)]
        return reduce(torch.add, parts)


def _weighted_rows(table: Tensor, rows: Tensor, first: Tensor, weight: Tensor) -> Tensor:
    """Sum rows of a table times weights, for each of the stretches of `rows` that begin at `first`."""
    return embedding_bag(rows, table, first, mode="sum", per_sample_weights=weight)
