"""Checkpoints of models that are saved without pickle: scvi-tools' callback, ours, Lightning's."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from scgraphvci import _archive
from scgraphvci.model._saving import SafeSavingMixin
from scgraphvci.train._checkpoint import SaveCheckpoint


class CheckpointSCVI(SafeSavingMixin, scvi.model.SCVI):
    pass


@pytest.fixture
def model(monkeypatch, tmp_path):
    monkeypatch.setattr(scvi.settings, "seed", 0)
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path)
    adata = scvi.data.synthetic_iid(batch_size=30, n_genes=12)
    CheckpointSCVI.setup_anndata(adata)
    return CheckpointSCVI(adata, n_latent=3, n_hidden=8)


def train(model, max_epochs=3, **kwargs):
    model.train(max_epochs=max_epochs, enable_progress_bar=False, plan_kwargs={"lr": 0.05}, **kwargs)


def weights(model):
    return {name: weight.clone() for name, weight in model.module.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("callback_class", [scvi.train.SaveCheckpoint, SaveCheckpoint])
def test_best_weights_are_restored(model, tmp_path, callback_class):
    first = callback_class(dirpath=tmp_path, monitor="elbo_validation", mode="max", load_best_on_end=True)
    last = callback_class(dirpath=tmp_path / "last", monitor="elbo_validation", save_top_k=-1)
    given = [first, last]
    train(model, callbacks=given)
    assert given == [first, last]
    assert os.listdir(first.best_model_path) == ["model.safetensors"]
    elbo = model.history["elbo_validation"]["elbo_validation"].astype(float)
    assert first.best_model_score.item() == pytest.approx(elbo.max(), rel=1e-5)
    restored = CheckpointSCVI.load(first.best_model_path, model.adata)
    assert same(weights(model), weights(restored))
    assert restored.is_trained
    np.testing.assert_array_equal(restored.get_latent_representation(), model.get_latent_representation())
    saved = [path for path in (tmp_path / "last").iterdir() if path.is_dir()]
    equal = [path.name for path in saved if same(weights(model), _archive.read(path / _archive.MODEL_FILE)[1])]
    assert len(saved) == len(elbo) > 1
    assert [name.split("-")[0] for name in equal] == [f"epoch={int(elbo.to_numpy().argmax())}"]


def test_enable_checkpointing_saves_the_best(model, tmp_path):
    train(model, enable_checkpointing=True, checkpointing_monitor="elbo_validation")
    (callback,) = (c for c in model.trainer.callbacks if isinstance(c, scvi.train.SaveCheckpoint))
    assert Path(callback.best_model_path).is_relative_to(tmp_path)
    loaded = CheckpointSCVI.load(callback.best_model_path, model.adata)
    assert loaded.get_latent_representation().shape == (model.adata.n_obs, 3)


@pytest.mark.parametrize("callback_class", [scvi.train.SaveCheckpoint, SaveCheckpoint])
def test_failed_step_leaves_the_best_weights(model, tmp_path, monkeypatch, callback_class):
    callback = callback_class(dirpath=tmp_path, monitor="elbo_validation", check_nan_gradients=True)
    loss, calls = model.module.loss, []

    def failing_loss(*args, **kwargs):
        calls.append(1)
        if len(calls) > 4:
            msg = "non-finite"
            raise ValueError(msg)
        return loss(*args, **kwargs)

    monkeypatch.setattr(model.module, "loss", failing_loss)
    with pytest.raises(ValueError, match="non-finite"):
        train(model, max_epochs=5, callbacks=[callback])
    assert same(weights(model), weights(CheckpointSCVI.load(callback.best_model_path, model.adata)))


def test_failure_before_the_first_checkpoint_warns(model, tmp_path, monkeypatch):
    def failing_loss(*args, **kwargs):
        msg = "non-finite"
        raise ValueError(msg)

    monkeypatch.setattr(model.module, "loss", failing_loss)
    callback = SaveCheckpoint(dirpath=tmp_path, monitor="elbo_validation", check_nan_gradients=True)
    with pytest.warns(UserWarning, match="No checkpoint was saved"), pytest.raises(ValueError, match="non-finite"):
        train(model, callbacks=[callback])


def test_a_pickle_among_the_checkpoints_is_never_opened(model, tmp_path):
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return Path.touch, (marker,)

    class Swap(SaveCheckpoint):
        def on_train_end(self, trainer, pl_module):
            (Path(self.best_model_path) / "model.safetensors").unlink()
            (Path(self.best_model_path) / "model.pt").write_bytes(pickle.dumps(Payload()))
            super().on_train_end(trainer, pl_module)

    with pytest.raises(FileNotFoundError):
        train(model, callbacks=[Swap(dirpath=tmp_path, monitor="elbo_validation", load_best_on_end=True)])
    assert not marker.exists()


def test_other_callbacks_are_left_alone_and_lightning_resumes(model, tmp_path):
    lightning = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    train(model, 2, enable_checkpointing=True, checkpointing_monitor="elbo_validation", callbacks=[lightning])
    assert lightning in model.trainer.callbacks
    resumed = CheckpointSCVI(model.adata, n_latent=3, n_hidden=8)
    train(resumed, 4, ckpt_path=str(tmp_path / "last.ckpt"))
    assert resumed.trainer.current_epoch == 4
    assert len(resumed.history["elbo_train"]) == 2
