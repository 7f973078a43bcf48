"""Held-out cells are invisible: whatever is done to them changes nothing but their own rows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scvi
from scipy import sparse

import scgraphvci as sgv

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": None, "enable_model_summary": False}
SETUP = {"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split", "grn_key": "grn"}
CHANGES = ["permuted", "large"]


def make_screen(**kwargs):
    sizes = {"n_cells": 300, "n_genes": 40, "n_perturbations": 4, "n_cell_types": 2, "n_donors": 2, "seed": 1}
    adata = sgv.datasets.simulate(**{**sizes, **kwargs})
    rng = np.random.default_rng(0)
    adata.obs["age"] = rng.normal(50, 10, adata.n_obs)
    adata.obs["depth"] = np.asarray(adata.layers["counts"].sum(axis=1)).ravel() * rng.uniform(0.9, 1.1, adata.n_obs)
    return adata


def held_out(adata):
    return np.flatnonzero(adata.obs["split"] == "ood")


def change_held_out(adata, how):
    """Permute the expression of the held-out cells among them, or replace it by large finite values."""
    cells = held_out(adata)
    assert cells.size > 20
    rng = np.random.default_rng(1)
    for layer in (None, "counts"):
        matrix = adata.X if layer is None else adata.layers[layer]
        dense = matrix.toarray()
        if how == "permuted":
            dense[cells] = dense[rng.permutation(cells)]
        else:
            dense[cells] = rng.integers(1_000, 1_000_000, size=dense[cells].shape)
        changed = sparse.csr_matrix(dense)
        if layer is None:
            adata.X = changed
        else:
            adata.layers[layer] = changed
    return adata


def change_covariates(adata):
    """Give held-out cells extreme covariates and size factors."""
    cells = held_out(adata)
    for key, value in {"age": 1e6, "depth": 1e9}.items():
        adata.obs.iloc[cells, adata.obs.columns.get_loc(key)] = value
    return adata


def fit(adata, setup=None, plan_kwargs=None, **kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The latent has collapsed|Expression looks like raw counts")
        sgv.GraphVCI.setup_anndata(adata, **{**SETUP, **(setup or {})})
        scvi.settings.seed = 0
        model = sgv.GraphVCI(adata, n_hidden=16, n_latent=4, n_graph_hidden=8, **kwargs)
        model.train(max_epochs=2, check_val_every_n_epoch=1, plan_kwargs=plan_kwargs, **QUIET)
    return model


def assert_same(model, other):
    """Everything either model says about cells that are not held out is equal, bit by bit."""
    assert set(model.history) == set(other.history)
    for name, frame in model.history.items():
        np.testing.assert_array_equal(frame.astype(float), other.history[name].astype(float), err_msg=name)
    weights = other.module.state_dict()
    for name, weight in model.module.state_dict().items():
        np.testing.assert_array_equal(weight, weights[name], err_msg=name)
    seen = np.flatnonzero(model.adata.obs["split"] != "ood")
    np.testing.assert_array_equal(*[m.get_latent_representation(indices=seen) for m in (model, other)])
    for treatment in model.treatments.perturbations:
        np.testing.assert_array_equal(*[m.predict(treatment, indices=seen).X for m in (model, other)])
        np.testing.assert_array_equal(*[m.sample(treatment, indices=seen, seed=0).X for m in (model, other)])
    for arguments in ({}, {"groupby": "cell_type", "cluster_key": "donor"}, {"groupby": [], "pooled": True}):
        effects = [m.marginal_effect(**arguments) for m in (model, other)]
        for name in ("estimate", "std_error", "robust", "observed", "plugin", "p_value", "n_stratum", "share"):
            np.testing.assert_array_equal(*[getattr(effect, name) for effect in effects], err_msg=name)
        assert (effects[0].status == effects[1].status).all()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("setup", "kwargs"),
    [
        ({}, {}),
        ({}, {"preset": "paper"}),
        ({"layer": "counts"}, {"likelihood": "nb"}),
        ({"layer": "counts", "size_factor_key": "depth"}, {"likelihood": "zinb", "decoder": "attention"}),
        ({}, {"distribution_loss": "mmd"}),
        ({}, {"distribution_loss": "adversarial"}),
        ({"continuous_covariate_keys": ["age"], "grn_key": None}, {"distribution_loss": "gaussian"}),
    ],
    ids=["default", "paper", "nb", "zinb with size factors", "mmd", "adversarial", "vci with covariates"],
)
def test_training_predictions_and_effects_never_see_held_out_cells(setup, kwargs, change):
    model = fit(make_screen(), setup, **kwargs)
    other = fit(change_covariates(change_held_out(make_screen(), change)), setup, **kwargs)
    assert_same(model, other)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("setup", [{}, {"layer": "counts"}], ids=["normal", "nb"])
@pytest.mark.parametrize("propagation", ["coexpression", "graph"])
def test_coexpression_of_held_out_cells_tells_of_no_response(setup, propagation, change, monkeypatch):
    monkeypatch.setattr("scgraphvci.data._deviation.WORTH", 0.0)  # deviations by level, whether they help or not
    options = {"propagation": propagation, "likelihood": "nb" if setup else "normal"}
    model = fit(make_screen(), setup, **options)
    assert model.module.baseline.deviation.any()
    assert_same(model, fit(change_covariates(change_held_out(make_screen(), change)), setup, **options))


@pytest.mark.parametrize("change", CHANGES)
def test_scales_come_from_training_cells(change):
    """Median library, gene scales and the standardisation of covariates."""
    setup = {"layer": "counts", "continuous_covariate_keys": ["age"]}
    adata = make_screen()
    model = fit(adata, setup, likelihood="nb")
    train = (adata.obs["split"] == "train").to_numpy()
    totals = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    assert float(model.module.library_size) == pytest.approx(np.median(totals[train]))
    age = adata.obs["age"].to_numpy()
    expected = (age - age[train].mean()) / age[train].std()
    np.testing.assert_allclose(adata.obsm["_scgraphvci_continuous"].ravel(), expected, atol=1e-5)
    other = fit(change_covariates(change_held_out(make_screen(), change)), setup, likelihood="nb")
    for name in ("library_size", "input_mean", "within_scale"):
        np.testing.assert_array_equal(getattr(model.module, name), getattr(other.module, name))
    np.testing.assert_array_equal(
        adata.obsm["_scgraphvci_continuous"][train], other.adata.obsm["_scgraphvci_continuous"][train]
    )


def test_scale_and_default_of_doses_come_from_training_cells():
    def screen():
        return make_screen(doses=(0.5, 1.0))

    setup = {"dose_key": "dose"}
    adata = screen()
    cells = held_out(adata)
    changed = screen()
    treated = cells[changed.obs["perturbation"].iloc[cells] != "control"]
    changed.obs["dose"] = changed.obs["dose"].astype(str)
    changed.obs.iloc[treated, changed.obs.columns.get_loc("dose")] = "64"
    for data in (adata, changed):
        sgv.GraphVCI.setup_anndata(data, **{**SETUP, **setup})
    tables = [sgv.GraphVCI(data).treatments for data in (adata, changed)]
    np.testing.assert_array_equal(tables[0].max_dose, tables[1].max_dose)
    assert tables[0].default_dose == tables[1].default_dose
    assert tables[1].design.max() == 64.0
    assert tables[0].design.max() == 1.0


def test_test_cells_only_choose_between_epochs():
    """Weights after a given number of epochs do not depend on validation cells either."""
    last = {"keep_best": False}
    model = fit(make_screen(), plan_kwargs=last)
    adata = make_screen()
    cells = np.flatnonzero(adata.obs["split"] == "test")
    dense = adata.X.toarray()
    dense[cells] = 3.0
    adata.X = dense
    other = fit(adata, plan_kwargs=last)
    weights = other.module.state_dict()
    for name, weight in model.module.state_dict().items():
        np.testing.assert_array_equal(weight, weights[name], err_msg=name)
    for name, frame in model.history.items():
        if name.endswith("_train") or name == "train_loss":
            np.testing.assert_array_equal(frame.astype(float), other.history[name].astype(float), err_msg=name)
    assert not np.allclose(
        model.history["validation_loss"].astype(float), other.history["validation_loss"].astype(float)
    )


@pytest.mark.parametrize("change", CHANGES)
def test_refinement_never_sees_held_out_cells(change):
    networks = []
    for adata in (make_screen(), change_held_out(make_screen(), change)):
        sgv.tl.refine_grn(
            adata,
            split_key="split",
            categorical_covariate_keys=["cell_type"],
            perturbation_key="perturbation",
            max_epochs=2,
            threshold=0.01,
            **QUIET,
        )
        networks.append(adata.varp["grn_refined"].toarray())
    np.testing.assert_array_equal(*networks)
    assert networks[0].any()
