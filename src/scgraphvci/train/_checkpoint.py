"""Checkpoints during training that never pass through pickle."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO
from scvi import train as scvi_train

from scgraphvci import _archive
from scgraphvci._untrusted import check_stored
from scgraphvci._warn import warn

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from lightning.pytorch import Trainer as LightningTrainer
    from lightning.pytorch.callbacks import Callback

logger = logging.getLogger(__name__)


class SaveCheckpoint(scvi_train.SaveCheckpoint):
    """:class:`scvi.train.SaveCheckpoint` for models that are saved without pickle.

    Takes the same arguments, writes whole models with `model.save`, and restores the best of them at the end of
    training (`load_best_on_end`) or after a failed step (`check_nan_gradients`). Models of this package use it in place
    of scvi-tools' callback when they are passed that one, so either may be given. Load a checkpoint with
    `type(model).load(callback.best_model_path, adata)`.

    Examples
    --------
    >>> SaveCheckpoint(monitor="validation_loss", load_best_on_end=True).load_best_on_end
    True
    """

    def on_train_end(self, trainer: LightningTrainer, pl_module: LightningModule) -> None:
        """Restore the best weights if asked to."""
        if self.load_best_on_end:
            self._restore_best(pl_module)

    def on_exception(self, trainer: LightningTrainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the best weights after a failure in a training step if asked to; the exception goes on."""
        if self.check_nan_gradients and not isinstance(exception, KeyboardInterrupt):
            trainer.should_stop = True
            self._restore_best(pl_module)

    def _restore_best(self, pl_module: LightningModule) -> None:
        if not self.best_model_path:
            msg = f"No checkpoint was saved (monitor {self.monitor!r}): the model keeps its last weights."
            warn(msg)
            return
        _, weights = _archive.read(Path(self.best_model_path) / _archive.MODEL_FILE)
        pl_module.get_submodule("module").load_state_dict(weights)
        logger.debug("Restored the weights of %s.", self.best_model_path)


class TensorsOnly(TorchCheckpointIO):
    """Reads what a training resumes from, `ckpt_path`, without running code from it.

    Lightning's own reader does so for local files alone, and before version 2.6 not at all.
    """

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the checkpoint; as lightning's, whose other arguments are of no use here.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file holds more than tensors and plain data, or is compressed.
        """
        with get_filesystem(path).open(str(path), "rb") as file:
            check_stored(file, path)
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                msg = (
                    f"{path} holds more than tensors and plain data, or is damaged; nothing was loaded from it. Resume "
                    "from a checkpoint that `ModelCheckpoint` wrote."
                )
                raise ValueError(msg) from error


class Trainer(scvi_train.Trainer):
    """:class:`scvi.train.Trainer` whose checkpoints are read without running code from them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["callbacks"] = [_without_pickle(callback) for callback in kwargs.get("callbacks") or []]
        plugins = kwargs.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, TensorsOnly()]
        super().__init__(*args, **kwargs)


class TrainRunner(scvi_train.TrainRunner):
    """:class:`scvi.train.TrainRunner` with the trainer above."""

    _trainer_cls = Trainer


def _without_pickle(callback: Callback) -> Callback:
    """Return our callback in place of scvi-tools' own, which looks for a pickled file when it restores weights."""
    if type(callback) is not scvi_train.SaveCheckpoint:
        return callback
    replacement = SaveCheckpoint.__new__(SaveCheckpoint)
    # One shared state, so that the caller finds `best_model_path` in the callback that was passed.
    replacement.__dict__ = callback.__dict__
    return replacement
