"""Training with a discriminator in place of tabulated moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scgraphvci.module._discriminator import Discriminator
from scgraphvci.module._likelihood import draw_like
from scgraphvci.module._module import GraphVCIModule
from scgraphvci.module._objective import COUNTERFACTUAL_KEY, TARGET_KNOWN_KEY
from scgraphvci.train._plan import CounterfactualPlan

if TYPE_CHECKING:
    from torch import Tensor


class AdversarialPlan(CounterfactualPlan):
    """Alternates a step of the discriminator of (y, x, t) with a step of the model.

    The discriminator learns to tell observed cells from constructed counterfactuals; the model's distribution loss is
    -log D of its counterfactuals. Strata never observed under the drawn treatment are left out of both, for the
    discriminator has no positive example there. Both learning rates stay as they are: `lr_schedule` has no effect.
    """

    def __init__(
        self, module: GraphVCIModule, *, discriminator_lr: float = 1e-3, lr: float = 1e-3, **kwargs: Any
    ) -> None:
        super().__init__(module, lr=lr, **kwargs)
        self.automatic_optimization = False
        n_genes, n_perturbations = module.input_mean.numel(), module.design.shape[1]
        self.discriminator = Discriminator(n_genes, n_perturbations, module.covariates.n_out)
        self.discriminator_lr = discriminator_lr
        self.gradient_clip = 10.0  # Lightning cannot clip under manual optimisation

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one optimiser for the model and one for the discriminator."""
        model = self.get_optimizer_creator()([p for p in self.module.parameters() if p.requires_grad])
        return [model, torch.optim.Adam(self.discriminator.parameters(), lr=self.discriminator_lr, betas=(0.5, 0.999))]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """Step the model, then the discriminator on the same draws."""
        model_optimizer, discriminator_optimizer = self.optimizers()
        self.discriminator.requires_grad_(False)
        encoded, output = self._step(batch, discriminator=self.discriminator)
        self.discriminator.requires_grad_(True)
        self._check_finite(output, batch_idx)
        self._descend(model_optimizer, output.loss, self.module.parameters())

        loss = self._discriminator_loss(batch, encoded["cells"])
        self._descend(discriminator_optimizer, loss, self.discriminator.parameters())
        self.log("discriminator_loss_train", loss, on_step=False, on_epoch=True,
                 batch_size=output.n_obs_minibatch, sync_dist=self.use_sync_dist)  # fmt: skip
        self._log_training(output, model_optimizer.param_groups[0]["lr"])
        return None  # the optimisers were stepped above

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss of a minibatch and gather its counterfactual means."""
        self._validate(batch, discriminator=self.discriminator)

    def _descend(self, optimizer: Any, loss: Tensor, parameters: Any) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        optimizer.step()

    def _discriminator_loss(self, batch: dict[str, Tensor], cells: dict[str, Any]) -> Tensor:
        """Cross-entropy of observed cells against counterfactuals of strata that were observed.

        Every process takes the backward pass, also one whose batch has no such counterfactual: others would wait.
        """
        module = self.module
        known = batch[TARGET_KNOWN_KEY].float()
        with torch.no_grad():
            genes = module.embed_genes()
            qz = module.encode(cells["outcome"], cells["treatment"], cells["levels"], cells["continuous"], genes)
            parameters = module.decode(qz.sample(), batch[COUNTERFACTUAL_KEY], cells["levels"], genes)
            constructed = draw_like(module.outcome_distribution(parameters))
        covariates = (cells["levels"], cells["continuous"])
        real = self.discriminator(module, cells["outcome"], cells["treatment"], *covariates)
        fake = self.discriminator(module, constructed, batch[COUNTERFACTUAL_KEY], *covariates)
        false_positive = (nn.functional.softplus(fake) * known).sum() / known.sum().clamp(min=1)
        return nn.functional.softplus(-real).mean() + false_positive
