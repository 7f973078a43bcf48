"""Training plan: draws counterfactual treatments, looks up their moments, logs every term of the objective."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from scvi import settings
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan

from scgraphvci._constants import KEYS
from scgraphvci.module._module import GraphVCIModule
from scgraphvci.module._objective import (
    COUNTERFACTUAL_KEY,
    TARGET_EMBEDDING_KEY,
    TARGET_KNOWN_KEY,
    TARGET_MEAN_KEY,
    TARGET_OBSERVED_KEY,
    TARGET_SET_KEY,
    TARGET_VARIANCE_KEY,
    draw_counterfactual,
)
from scgraphvci.train._denormals import flushed_denormals
from scgraphvci.train._seed import mix_seed
from scgraphvci.train._shift_metrics import ShiftMetrics
from scgraphvci.train._targets import Targets

if TYPE_CHECKING:
    from torch import Tensor

    from scgraphvci.data import StratumMoments


class CounterfactualPlan(TrainingPlan):
    """Optimises the three-term objective of graphVCI.

    Each step draws, for every cell, a treatment other than its own from the empirical law of training treatments, and
    looks up the moments of the cell's stratum under it. Draws are seeded by (seed, epoch, rank).

    Parameters
    ----------
    module
        The module.
    moments
        Moments of the training cells.
    validation_moments
        Moments of the validation cells, the truth of the validation metrics; None without validation cells.
    embeddings
        Mean Fourier features of observed pairs of stratum and treatment, rows as in the moments, for modules that have
        such features.
    draw_control
        Whether control may be drawn as the counterfactual treatment (the paper never does).
    hold_unobserved
        Whether counterfactual means of strata never observed under t' are pulled to the module's baseline; else the
        distribution term leaves them out, as it always does without a baseline.
    keep_best
        Whether the model ends with the weights of the lowest validation loss rather than the last ones.
    frozen_encoder
        Whether the second pass (on y') uses a copy of the encoder refreshed each epoch, as the authors' code does.
    lr, weight_decay, eps
        Of Adam.
    lr_schedule
        "cosine": the learning rate falls to 0 over the training, so that the noise of late steps does not stay in the
        weights; "constant": it stays, or falls on a plateau with `reduce_lr_on_plateau`.
    **kwargs
        Passed to :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: GraphVCIModule,
        *,
        moments: StratumMoments,
        validation_moments: StratumMoments | None = None,
        embeddings: Tensor | None = None,
        draw_control: bool = True,
        frozen_encoder: bool = False,
        hold_unobserved: bool = True,
        keep_best: bool = True,
        lr: float = 2e-3,
        weight_decay: float = 1e-6,
        eps: float = 1e-8,
        lr_schedule: Literal["cosine", "constant"] = "cosine",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("n_epochs_kl_warmup", None)
        kwargs.setdefault("lr_scheduler_metric", "validation_loss")
        super().__init__(module, lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)
        self._lr_schedule = lr_schedule
        frequency = torch.as_tensor(moments.condition_frequency)
        if not draw_control:
            frequency[0] = 0
        self.register_buffer("frequency", frequency, persistent=False)
        self.register_buffer("target_row", torch.as_tensor(moments.row), persistent=False)
        targets = Targets(moments, module)
        self.register_buffer("target_mean", targets.mean, persistent=False)
        self.register_buffer("target_variance", targets.variance, persistent=False)
        self.register_buffer("within_variance", targets.within_variance, persistent=False)
        self.register_buffer("target_embedding", embeddings, persistent=False)
        self.shift_metrics = None if validation_moments is None else ShiftMetrics(validation_moments)
        self._use_frozen_encoder = frozen_encoder
        # Held in lists so that neither becomes a submodule: they are no part of the state or of the optimiser.
        self._frozen_encoder: list[torch.nn.Module] = []
        self._last_good: list[dict[str, Tensor]] = []
        self._keep_best = keep_best
        self._hold_unobserved = hold_unobserved and module.baseline is not None
        self._best: dict[str, Any] = {}
        self._good_epoch = 0
        # No buffer changes in training and every process computes the same, so that none has to be sent at every step.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def configure_optimizers(self) -> Any:
        """Return the optimiser with its schedule."""
        config = super().configure_optimizers()
        if self.optimizer_name != "Custom" and self.device.type in ("cpu", "cuda"):
            # One pass over all parameters. Set here, for Lightning does not clip gradients in mixed precision for an
            # optimiser that was built so.
            for group in config["optimizer"].param_groups:
                group["fused"] = True
        if self.reduce_lr_on_plateau and "validation" in self.lr_scheduler_metric:
            # The metric is known only after epochs that validate.
            config["lr_scheduler"]["frequency"] = self.trainer.check_val_every_n_epoch
        n_steps = self.trainer.estimated_stepping_batches
        if self._lr_schedule == "cosine" and not self.reduce_lr_on_plateau and math.isfinite(n_steps):
            schedule = torch.optim.lr_scheduler.LambdaLR(
                config["optimizer"], lambda step: (1 + math.cos(math.pi * min(step / n_steps, 1))) / 2
            )
            config["lr_scheduler"] = {"scheduler": schedule, "interval": "step"}
        return config

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make a step, forward and backward passes included, without denormal numbers."""
        with flushed_denormals():
            super().optimizer_step(*args, **kwargs)

    def on_train_start(self) -> None:
        """Keep the weights that training starts from."""
        self._keep_weights()

    def on_train_epoch_start(self) -> None:
        """Refresh the frozen encoder."""
        if self._use_frozen_encoder:
            self._frozen_encoder[:] = [copy.deepcopy(self.module.encoder).requires_grad_(False)]

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Seed the epoch's draws, whatever its loader drew."""
        if batch_idx == 0:
            torch.manual_seed(mix_seed(settings.seed or 0, self.current_epoch, self.global_rank))

    def on_train_epoch_end(self) -> None:
        """Check the weights: after the last step of training no loss would tell."""
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in self.module.parameters())
        if not self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            self._stop("The weights became NaN or infinite", "gradient")

    def on_train_end(self) -> None:
        """Return to the best weights, and let go of those kept."""
        if self._best:
            self.module.load_state_dict(self._best["weights"], strict=False)
        self._best.clear()
        self._last_good.clear()

    def on_validation_end(self) -> None:
        """Keep the weights if they are the best so far. Many epochs on few cells learn these by heart."""
        if self._keep_best and not self.trainer.sanity_checking:
            self._keep_if_best()

    def _keep_if_best(self) -> None:
        loss = float(self.trainer.callback_metrics["validation_loss"])
        if loss < self._best.get("loss", math.inf):
            self._best.update(loss=loss, weights=self._weights())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the best weights, so that a resumed training ends as an undisturbed one."""
        if self._keep_best and self.trainer.validating:  # callbacks save before the plan learns that validation ended
            self._keep_if_best()
        checkpoint["best"] = dict(self._best)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the best weights so far."""
        self._best = dict(checkpoint.get("best", {}))

    def on_validation_epoch_start(self) -> None:
        """Use the same draws in every validation, so that epochs compare."""
        torch.manual_seed(mix_seed(settings.seed or 0, 2**31, self.global_rank))
        if self.shift_metrics is not None:
            self.shift_metrics.reset(self.device)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy of the predicted means of validation strata."""
        if self.shift_metrics is None:
            return
        for name, value in self.shift_metrics.compute(self.trainer.strategy).items():
            self.log(f"{name}_validation", value, sync_dist=self.use_sync_dist)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """Return the loss of a minibatch."""
        _, output = self._step(batch)
        self._check_finite(output, batch_idx)
        self._log_training(output, self.optimizers().param_groups[0]["lr"])
        return output.loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss of a minibatch and gather its counterfactual means."""
        self._validate(batch)

    def _validate(self, batch: dict[str, Tensor], **loss_kwargs: Any) -> None:
        encoded, output = self._step(batch, **loss_kwargs)
        self.log("validation_loss", output.loss, on_epoch=True, batch_size=output.n_obs_minibatch,
                 sync_dist=self.use_sync_dist)  # fmt: skip
        self._log_terms(output, "validation")
        if self.shift_metrics is None:
            return
        # Every cell's own draw: the loss's draws, one for all cells of a stratum, would leave most pairs unseen.
        stratum = batch[KEYS.STRATUM].long().flatten()
        condition = draw_counterfactual(batch[KEYS.TREATMENT].long().flatten(), self.frequency)
        module = self.module
        levels = encoded["cells"]["levels"]
        predicted = module.mean(module.decode(encoded["qz"].mean, module.design[condition], levels, encoded["genes"]))
        self.shift_metrics.update(predicted, stratum, condition)

    def _step(self, batch: dict[str, Tensor], **loss_kwargs: Any) -> tuple[dict[str, Any], LossOutput]:
        """Draw treatments, look up their moments; return the encoded cells and the loss."""
        self._draw(batch)
        if self._frozen_encoder:
            loss_kwargs["frozen_encoder"] = self._frozen_encoder[0]
        encoded, _, output = self.module(batch, loss_kwargs=loss_kwargs)
        return encoded, output

    def _draw(self, batch: dict[str, Tensor]) -> None:
        """Add counterfactual treatments and the moments of their strata to a minibatch."""
        own, stratum = batch[KEYS.TREATMENT].long().flatten(), batch[KEYS.STRATUM].long().flatten()
        if self.module.distribution_target == "stratum":
            # The cells of a stratum share one draw, so that they form a set, and those that received it a second one.
            # Each cell's draw still has the law of all treatments but its own.
            first = torch.multinomial(self.frequency, self.target_row.shape[0], replacement=True)
            second = draw_counterfactual(first, self.frequency)
            condition = torch.where(first[stratum] == own, second[stratum], first[stratum])
        else:
            condition = draw_counterfactual(own, self.frequency)
        batch["counterfactual_condition"] = condition
        batch[COUNTERFACTUAL_KEY] = self.module.design[condition]
        batch[TARGET_KNOWN_KEY] = self.target_row[stratum, condition] >= 0
        n_conditions = self.frequency.numel()
        pairs, batch[TARGET_SET_KEY] = torch.unique(stratum * n_conditions + condition, return_inverse=True)
        if self.module.distribution_loss != "adversarial":
            self._look_up(batch, pairs // n_conditions, pairs % n_conditions)

    def _look_up(self, batch: dict[str, Tensor], stratum: Tensor, condition: Tensor) -> None:
        """Add moments of strata under counterfactual treatments, once per pair: the baseline's where never observed.

        Nothing else would hold the means of such pairs, and what the network learned of others would move them.
        """
        row = self.target_row[stratum, condition]
        missing, row = row < 0, row.clamp(min=0)
        mean, variance = self.target_mean[row], self.target_variance[row]
        if self.target_embedding is not None:
            batch[TARGET_EMBEDDING_KEY] = self.target_embedding[row[batch[TARGET_SET_KEY]]]
            batch[TARGET_OBSERVED_KEY] = batch[TARGET_KNOWN_KEY]
        if self._hold_unobserved and missing.any():
            design, levels = self.module.design[condition[missing]], self.module.strata[stratum[missing]]
            mean[missing] = self.module.baseline_mean(design, levels)
            variance[missing] = self.within_variance
            batch[TARGET_KNOWN_KEY] = torch.ones_like(batch[TARGET_KNOWN_KEY])
        batch[TARGET_MEAN_KEY], batch[TARGET_VARIANCE_KEY] = mean, variance

    def _log_training(self, output: LossOutput, lr: float) -> None:
        """Log the loss of a step, its terms and the learning rate."""
        self.log("train_loss", output.loss, on_step=self.on_step, on_epoch=self.on_epoch, prog_bar=True,
                 batch_size=output.n_obs_minibatch, sync_dist=self.use_sync_dist)  # fmt: skip
        self._log_terms(output, "train")
        self.log("lr", lr, on_step=False, on_epoch=True,
                 batch_size=output.n_obs_minibatch, sync_dist=self.use_sync_dist)  # fmt: skip

    def _log_terms(self, output: LossOutput, mode: str) -> None:
        """Log the three terms. scvi-tools' own accumulators break under distributed training with extra metrics."""
        terms = {
            "reconstruction_loss": output.reconstruction_loss_sum / output.n_obs_minibatch,
            "distribution_loss": output.extra_metrics["distribution_loss"],
            "divergence": output.kl_local_sum / output.n_obs_minibatch,
        }
        self.log_dict(
            {f"{name}_{mode}": value for name, value in terms.items()},
            on_step=False,
            on_epoch=True,
            batch_size=output.n_obs_minibatch,
            sync_dist=self.use_sync_dist,
        )

    def _check_finite(self, output: LossOutput, batch_idx: int) -> None:
        """Stop at a non-finite loss, leaving the module with the last weights of an epoch whose loss was finite."""
        # All processes stop together: one that stopped alone would leave the others waiting for its gradients.
        if self.trainer.strategy.reduce_boolean_decision(bool(torch.isfinite(output.loss)), all=True):
            if batch_idx == 0:  # only now is it known that the last epoch ended well
                self._keep_weights()
            return
        terms = {
            "reconstruction_loss": output.reconstruction_loss_sum,
            "distribution_loss": output.extra_metrics["distribution_loss"],
            "divergence": output.kl_local_sum,
        }
        broken = [name for name, value in terms.items() if not torch.isfinite(value)]
        self._stop(f"The loss became {output.loss.item()}", ", ".join(broken) or "sum")

    def _keep_weights(self) -> None:
        self._last_good[:] = [self._weights()]
        self._good_epoch = self.current_epoch

    def _weights(self) -> dict[str, Tensor]:
        """Copy of what training changes; buffers are not."""
        return {name: value.detach().cpu().clone() for name, value in self.module.named_parameters()}

    def _stop(self, what: str, term: str) -> None:
        """Return to the weights kept last and stop training."""
        self.module.load_state_dict(self._last_good[0], strict=False)
        kept = "before training" if self._good_epoch == 0 else f"at the start of epoch {self._good_epoch}"
        msg = (
            f"{what} in epoch {self.current_epoch} (term: {term}); the weights {kept} are kept. "
            "Lower the learning rate (`plan_kwargs={'lr': ...}`) or check the data for extreme values."
        )
        raise FloatingPointError(msg)
