"""Training plan of GRN refinement: samples edges, trains weights with Adam and logits by gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scvi.train import TrainingPlan

if TYPE_CHECKING:
    from scvi.module.base import LossOutput
    from torch import Tensor

    from scgraphvci.module._refine import RefineModule
    from scgraphvci.module._sampled_graph import Edges


class RefinePlan(TrainingPlan):
    """Draws one hard mask per step, shared by cells and layers; validation uses the active edges and no mask.

    A step touches the logits of sampled edges only. Draws are seeded by (seed, epoch). Logits are trained in one
    process: distributed training is not supported.

    Parameters
    ----------
    module
        The module.
    lr
        Of Adam, for the weights.
    logit_lr
        Of gradient descent on the logits.
    threshold
        Confidence above which an edge counts in `n_edges`.
    seed
        Of the sampled edges.
    **kwargs
        Passed to :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: RefineModule,
        *,
        lr: float = 3e-3,
        logit_lr: float = 3.0,
        threshold: float = 0.3,
        seed: int = 0,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("n_epochs_kl_warmup", None)
        kwargs.setdefault("lr_scheduler_metric", "validation_loss")
        super().__init__(module, lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)
        self.logit_lr = logit_lr
        self.threshold = threshold
        self.seed = seed
        self._generator = torch.Generator()
        self._sampled: tuple[Edges, Tensor] | None = None
        self._active: Edges | None = None

    def on_train_epoch_start(self) -> None:
        """Seed the epoch's draws."""
        self._generator.manual_seed((self.seed * 1_000_003 + self.current_epoch) % 2**63)

    def on_validation_epoch_start(self) -> None:
        """Find the active edges, and hide the same expression in every validation."""
        self.module.settle_logits(self.logit_lr)
        self._active = self.module.active_edges(self.threshold)
        self._generator.manual_seed(self.seed)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the reconstruction loss under a fresh mask."""
        edges = self.module.sample_edges(self._generator)
        self.module.pull_logits(edges.position, self.logit_lr)
        logit = self.module.logit.index_select(0, edges.position).requires_grad_()
        self._sampled = (edges, logit)
        output = self._step(batch, edges, logit)
        if not torch.isfinite(output.loss):
            msg = (
                f"The loss became {output.loss.item()} in epoch {self.current_epoch}. Lower the learning rates "
                "(`plan_kwargs={'lr': ..., 'logit_lr': ...}`) or check the data for extreme values."
            )
            raise FloatingPointError(msg)
        self._log("train_loss", output, prog_bar=True)
        return output.loss

    def on_after_backward(self) -> None:
        """Move the sampled logits."""
        if self._sampled is not None:
            edges, logit = self._sampled
            self.module.step_logits(edges, logit.grad, self.logit_lr)
            self._sampled = None

    def on_train_epoch_end(self) -> None:
        """Log the cost of edges and the number of edges above the threshold."""
        self.module.settle_logits(self.logit_lr)
        self.log("edge_penalty", self.module.penalty())
        self.log("n_edges", (torch.sigmoid(self.module.logit) > self.threshold).sum().float())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the reconstruction loss under the active edges."""
        self._log("validation_loss", self._step(batch, self._active, None), prog_bar=False)

    def _step(self, batch: dict[str, Tensor], edges: Edges | None, logit: Tensor | None) -> LossOutput:
        drawn = {"edges": edges, "logit": logit, "generator": self._generator}
        return self.module(batch, generative_kwargs=drawn)[2]

    def _log(self, name: str, output: LossOutput, *, prog_bar: bool) -> None:
        self.log(name, output.loss, on_step=False, on_epoch=True, prog_bar=prog_bar, batch_size=output.n_obs_minibatch)
