"""Models of folds trained in other processes are those trained here."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
from joblib import parallel_config

from scgraphvci.model import _fold_training
from scgraphvci.model._cross_fit import fit_folds, release

TRAINING = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}


def fitted(model):
    cells = np.flatnonzero(model.adata.obs["split"] != "ood")
    return fit_folds(model, model.adata, cells, np.arange(cells.size) % 2, TRAINING, 5)[0]


def check_same(model, here, elsewhere):
    """Compare all that effects use."""
    for one, other in zip(here, elsewhere, strict=True):
        np.testing.assert_array_equal(one.position, other.position)
        assert one.scale == other.scale
        torch.testing.assert_close(one.model.module.state_dict(), other.model.module.state_dict(), rtol=1e-6, atol=1e-6)
        for name in (model.treatments.perturbations[0], "control"):
            np.testing.assert_allclose(one.model.predict(name).X, other.model.predict(name).X, rtol=1e-5, atol=1e-5)
    release([*here, *elsewhere])


@pytest.mark.parametrize("setup", [{}, {"layer": "counts", "likelihood": "nb"}, {"grn_key": "grn"}])
def test_they_come_back_as_files(fit, new_screen, monkeypatch, setup):
    model = fit(new_screen(n_cells=240, seed=3), categorical_covariate_keys=["cell_type"], **setup)
    here = fitted(model)
    monkeypatch.setattr(_fold_training, "n_processes", lambda: 2)
    check_same(model, here, fitted(model))


@pytest.mark.slow
def test_two_processes(fit, new_screen, tmp_path):
    """Expression in memory, and in a file, which no other process can have open."""
    adata = new_screen(n_cells=240, seed=3)
    adata.write_h5ad(tmp_path / "screen.h5ad")
    for screen in (adata, ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")):
        model = fit(screen, categorical_covariate_keys=["cell_type"])
        here = fitted(model)
        with parallel_config("loky", n_jobs=2):
            check_same(model, here, fitted(model))


def test_threads_would_share_their_seed(fit, new_screen):
    model = fit(new_screen(n_cells=240, seed=3))
    here = fitted(model)
    with parallel_config("threading", n_jobs=2):
        again = fitted(model)
    for name, value in here[1].model.module.state_dict().items():
        assert torch.equal(value, again[1].model.module.state_dict()[name])
    release([*here, *again])
