"""Discriminator of (y, x, t) for the adversarial distribution loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi.nn import FCLayers
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from scgraphvci.module._module import GraphVCIModule


class Discriminator(nn.Module):
    """Tells observed cells from constructed counterfactuals, given covariates and treatment.

    It stands in for phat(y' | x, t') where strata are too rich to tabulate: with odds D / (1 - D), -log D pulls
    constructed cells toward the observed ones of the same stratum and treatment.
    """

    def __init__(self, n_genes: int, n_perturbations: int, n_covariate: int, n_hidden: int = 128) -> None:
        super().__init__()
        self.outcome = nn.Linear(n_genes, n_hidden)
        self.condition = nn.Linear(n_perturbations + n_covariate, n_hidden)
        self.mlp = FCLayers(2 * n_hidden, n_hidden, n_layers=1, use_batch_norm=False, use_layer_norm=True)
        self.logit = nn.Linear(n_hidden, 1)

    def forward(
        self,
        module: GraphVCIModule,
        outcome: Tensor,
        treatment: Tensor,
        levels: Tensor,
        continuous: Tensor | None,
    ) -> Tensor:
        """Return the log-odds that an outcome (on the model's scale) was observed, shape ``(n_cells,)``."""
        covariates = module.covariates(levels, continuous).detach()
        condition = self.condition(torch.cat([treatment, covariates], dim=1))
        hidden = torch.cat([self.outcome(module.to_input(outcome, treatment, levels)), condition], dim=1)
        return self.logit(self.mlp(hidden)).squeeze(1)
