"""Checkpoints, early stopping and a second training work as in every other scvi-tools model."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.loggers import CSVLogger

import scgraphvci as sgv
from scgraphvci.train import SaveCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:The latent has collapsed")


@pytest.fixture
def untrained(new_screen):
    """A model with enough validation cells to score shifts on."""
    adata = new_screen(n_cells=400)
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn")
    scvi.settings.seed = 0
    return sgv.GraphVCI(adata, n_hidden=16, n_latent=4, n_graph_hidden=8)


def test_history_has_every_term_by_epoch(untrained, quiet):
    untrained.train(max_epochs=3, check_val_every_n_epoch=1, **quiet)
    history = untrained.history
    terms = ["reconstruction_loss", "distribution_loss", "divergence"]
    expected = {f"{term}_{mode}" for term in terms for mode in ("train", "validation")}
    expected |= {"train_loss", "validation_loss", "lr", "r2_validation", "pearson_shift_validation"}
    assert expected <= set(history)
    for name in expected:
        values = history[name].to_numpy(dtype=float).ravel()
        assert len(values) == 3, name
        assert np.isfinite(values).all(), name
    weights = untrained.module
    total = (
        weights.individual_weight * history["reconstruction_loss_train"].to_numpy(dtype=float)
        + weights.covariate_weight * history["distribution_loss_train"].to_numpy(dtype=float)
        + weights.divergence_weight * history["divergence_train"].to_numpy(dtype=float)
    )
    np.testing.assert_allclose(history["train_loss"].to_numpy(dtype=float).ravel(), total.ravel(), rtol=0.05)


def test_second_training_extends_history(untrained, quiet):
    untrained.train(max_epochs=2, **quiet)
    untrained.train(max_epochs=3, **quiet)
    assert len(untrained.history["train_loss"]) == 5


def test_second_training_starts_from_the_first(untrained, quiet):
    untrained.train(max_epochs=2, **quiet)
    before = {name: weight.clone() for name, weight in untrained.module.state_dict().items()}
    untrained.train(max_epochs=1, plan_kwargs={"lr": 1e-12}, **quiet)
    for name, weight in untrained.module.state_dict().items():
        torch.testing.assert_close(weight, before[name], msg=name)


@pytest.mark.parametrize(
    ("monitor", "mode"), [("validation_loss", "min"), ("pearson_shift_validation", "max"), ("r2_validation", "max")]
)
def test_early_stopping_on_any_logged_number(untrained, quiet, monitor, mode):
    untrained.train(
        max_epochs=30,
        early_stopping=True,
        early_stopping_monitor=monitor,
        early_stopping_mode=mode,
        early_stopping_patience=1,
        early_stopping_min_delta=1e6,
        **quiet,
    )
    assert 2 <= len(untrained.history["train_loss"]) <= 3


@pytest.mark.parametrize("callback", [SaveCheckpoint, scvi.train.SaveCheckpoint])
def test_checkpoints_are_whole_models(untrained, new_screen, quiet, tmp_path, callback):
    checkpoint = callback(dirpath=str(tmp_path), monitor="pearson_shift_validation", mode="max", load_best_on_end=True)
    untrained.train(max_epochs=4, check_val_every_n_epoch=1, callbacks=[checkpoint], enable_checkpointing=True, **quiet)
    best = Path(checkpoint.best_model_path)
    assert best.is_dir()
    assert not list(tmp_path.rglob("*.pt"))
    loaded = sgv.GraphVCI.load(best, new_screen(n_cells=400))
    for name, weight in untrained.module.state_dict().items():
        torch.testing.assert_close(loaded.module.state_dict()[name], weight, msg=name)
    np.testing.assert_allclose(loaded.predict("control").X, untrained.predict("control").X, atol=1e-6)


def test_any_lightning_logger_may_be_used(untrained, quiet, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        untrained.train(max_epochs=2, **{**quiet, "logger": CSVLogger(tmp_path, name="log")}, log_every_n_steps=1)
    logged = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "train_loss" in logged
    assert "divergence_train" in logged


def test_progress_bar_works(untrained, quiet, capsys):
    untrained.train(max_epochs=2, **{**quiet, "enable_progress_bar": True})
    printed = capsys.readouterr()
    assert "Epoch 2/2" in printed.out + printed.err


def test_number_of_epochs_has_a_default(untrained, quiet, monkeypatch):
    asked = {}

    def train(self, max_epochs, **kwargs):
        asked["epochs"] = max_epochs
        self.is_trained_ = True

    monkeypatch.setattr("scvi.model.base.UnsupervisedTrainingMixin.train", train)
    untrained.train(**quiet)
    assert asked["epochs"] == 200  # few cells: as many as are allowed


def test_no_gradient_reaches_what_is_not_trained(untrained, quiet):
    before = {name: buffer.clone() for name, buffer in untrained.module.named_buffers()}
    untrained.train(max_epochs=1, **quiet)
    for name in ("design", "strata", "graph.edge_index", "graph.edge_weight"):
        assert torch.equal(dict(untrained.module.named_buffers())[name], before[name])
