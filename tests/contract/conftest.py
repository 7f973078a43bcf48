"""A small screen and models fitted on it for a moment, shared by the tests of this folder."""

from __future__ import annotations

import warnings

import pytest
import scvi

import scgraphvci as sgv

SETUP = {"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split", "grn_key": "grn"}
SMALL = {"n_hidden": 16, "n_latent": 4, "n_graph_hidden": 8}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": None, "enable_model_summary": False}


def make_screen(**kwargs):
    """240 cells, 40 genes, two cell types, two donors, four perturbations."""
    sizes = {"n_cells": 240, "n_genes": 40, "n_perturbations": 4, "n_cell_types": 2, "n_donors": 2, "seed": 0}
    return sgv.datasets.simulate(**{**sizes, **kwargs})


def fit_model(adata, max_epochs=2, setup=None, train=None, **kwargs):
    """Set up and train a small model."""
    sgv.GraphVCI.setup_anndata(adata, **{**SETUP, **(setup or {})})
    scvi.settings.seed = 0
    model = sgv.GraphVCI(adata, **{**SMALL, **kwargs})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The latent has collapsed")  # no wonder after two epochs
        model.train(max_epochs=max_epochs, **QUIET, **(train or {}))
    return model


@pytest.fixture(scope="session")
def new_screen():
    """Factory of screens."""
    return make_screen


@pytest.fixture(scope="session")
def fit():
    """Factory of fitted models."""
    return fit_model


@pytest.fixture(scope="session")
def quiet():
    """Arguments of `train` that keep it quiet and on the CPU."""
    return QUIET


@pytest.fixture(scope="session")
def fitted():
    """A fitted model; not to be changed, nor its data."""
    return fit_model(make_screen())


@pytest.fixture(scope="session")
def saved(fitted, tmp_path_factory):
    """Directory of the saved fitted model."""
    directory = tmp_path_factory.mktemp("saved") / "model"
    fitted.save(directory)
    return directory
