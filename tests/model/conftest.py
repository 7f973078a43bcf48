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


def train_model(adata, max_epochs=2, train=None, **kwargs):
    """Build and train a model of data that were set up."""
    scvi.settings.seed = 0
    model = sgv.GraphVCI(adata, **{**SMALL, **kwargs})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The latent has collapsed")  # no wonder after two epochs
        model.train(max_epochs=max_epochs, **QUIET, **(train or {}))
    return model


def fit_model(adata, **kwargs):
    """Set up and train a model: arguments of `setup_anndata` go there, all others to the constructor."""
    names = {
        "layer",
        "dose_key",
        "combination_sep",
        "continuous_covariate_keys",
        "size_factor_key",
        "gene_features_key",
    }
    names |= {"perturbation_key", "control", *SETUP}
    setup = {key: kwargs.pop(key) for key in list(kwargs) if key in names}
    sgv.GraphVCI.setup_anndata(adata, **{**SETUP, **setup})
    return train_model(adata, **kwargs)


@pytest.fixture(scope="session")
def new_screen():
    """Factory of screens."""
    return make_screen


@pytest.fixture(scope="session")
def fit():
    """Factory of fitted models."""
    return fit_model


@pytest.fixture(scope="session")
def quiet_train():
    """Factory of trained models of data that were set up."""
    return train_model


@pytest.fixture(scope="session")
def fitted():
    """A fitted model; not to be changed, nor its data."""
    return fit_model(make_screen())


@pytest.fixture(scope="session")
def fitted_counts():
    """A fitted NB model; not to be changed, nor its data."""
    return fit_model(make_screen(), layer="counts", likelihood="nb")


@pytest.fixture(scope="session")
def fitted_doses():
    """A fitted model of a screen with doses and combinations; not to be changed, nor its data."""
    adata = make_screen(n_cells=300, doses=(0.5, 2.0), n_combinations=2)
    return fit_model(adata, dose_key="dose", combination_sep="+")
