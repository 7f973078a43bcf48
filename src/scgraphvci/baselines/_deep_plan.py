"""Training plans of the deep comparison models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scvi import settings
from scvi.train import TrainingPlan
from torch import nn

from scgraphvci.train._seed import mix_seed

if TYPE_CHECKING:
    from scvi.module.base import LossOutput
    from torch import Tensor

    from scgraphvci.baselines._deep_module import OutcomeModule

GRADIENT_CLIP = 10.0


class BaselinePlan(TrainingPlan):
    """Minimises the module's loss. Draws are seeded by (seed, epoch, rank).

    Parameters
    ----------
    module
        The module.
    lr, weight_decay, eps
        Of Adam.
    **kwargs
        Passed to :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: OutcomeModule,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-6,
        eps: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("n_epochs_kl_warmup", None)
        kwargs.setdefault("lr_scheduler_metric", "validation_loss")
        super().__init__(module, lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Seed the epoch's draws, whatever its loader drew."""
        if batch_idx == 0:
            self._seed(self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        """Use the same draws in every validation, so that epochs compare."""
        self._seed(-1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """Return the loss of a minibatch."""
        _, _, output = self.forward(batch)
        self._log_terms(output, "train")
        return output.loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss of a minibatch."""
        _, _, output = self.forward(batch)
        self._log("validation_loss", output.loss, output.n_obs_minibatch)
        self._log_terms(output, "validation")

    def _log_terms(self, output: LossOutput, mode: str) -> None:
        """Log the loss of a training step, and all terms; stop at a loss that is not finite."""
        n = output.n_obs_minibatch
        if mode == "train":
            # All processes stop together: one that stopped alone would leave the others waiting for its gradients.
            if not self.trainer.strategy.reduce_boolean_decision(bool(torch.isfinite(output.loss)), all=True):
                msg = (
                    f"The loss became {output.loss.item()} in epoch {self.current_epoch}. Lower the learning rate "
                    "(`plan_kwargs={'lr': ...}`) or check the data for extreme values."
                )
                raise FloatingPointError(msg)
            self._log("train_loss", output.loss, n, prog_bar=True)
        self._log(f"reconstruction_loss_{mode}", output.reconstruction_loss_sum / n, n)
        for name, value in output.extra_metrics.items():
            self._log(f"{name}_{mode}", value, n)

    def _log(self, name: str, value: Tensor, n_cells: int, *, prog_bar: bool = False) -> None:
        self.log(name, value, on_step=False, on_epoch=True, prog_bar=prog_bar, batch_size=n_cells,
                 sync_dist=self.use_sync_dist)  # fmt: skip

    def _seed(self, epoch: int) -> None:
        torch.manual_seed(mix_seed(settings.seed or 0, epoch, self.global_rank))


class AlternatingPlan(BaselinePlan):
    """Alternates a step of the model with one of its adversary, on the same minibatch.

    Parameters
    ----------
    module
        A module with an `adversary`, an `adversarial_term` for the model to minimise beside its loss, and an
        `adversary_loss`.
    adversary_lr
        Learning rate of the adversary.
    **kwargs
        Passed to :class:`BaselinePlan`.
    """

    def __init__(self, module: OutcomeModule, *, adversary_lr: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        self.automatic_optimization = False
        self.adversary_lr = adversary_lr

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one optimiser for the model and one for the adversary."""
        adversary = list(self.module.adversary.parameters())
        theirs = {id(parameter) for parameter in adversary}
        model = self.get_optimizer_creator()([p for p in self.module.parameters() if id(p) not in theirs])
        return [model, torch.optim.Adam(adversary, lr=self.adversary_lr, betas=(0.5, 0.999))]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Step the model against the adversary as it is, then the adversary."""
        module = self.module
        model_optimizer, adversary_optimizer = self.optimizers()
        module.adversary.requires_grad_(False)
        inference, generative, output = self.forward(batch)
        term = module.adversarial_term(module.unpack(batch), inference, generative)
        module.adversary.requires_grad_(True)
        self._log_terms(output, "train")
        self._descend(model_optimizer, output.loss + term)

        loss = module.adversary_loss(module.unpack(batch), inference, generative)
        self._descend(adversary_optimizer, loss)
        self._log("adversarial_term_train", term, output.n_obs_minibatch)
        self._log("adversary_loss_train", loss, output.n_obs_minibatch)

    def _descend(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        # Only its own: gradients of the other optimiser's last step are still there.
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], GRADIENT_CLIP)
        optimizer.step()
