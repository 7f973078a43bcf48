"""What all deep comparison models share: GraphVCI's interface, its split, saving, and reproducible training."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from mudata import MuData

import scgraphvci as sgv
from scgraphvci.baselines import AE, CEVAE, CPA, GANITE

CLASSES = [AE, CEVAE, GANITE, CPA]
every_model = pytest.mark.parametrize("cls", CLASSES)


def make_screen(**kwargs):
    sizes = {"n_cells": 240, "n_genes": 40, "n_perturbations": 4, "n_cell_types": 2, "n_donors": 2, "seed": 0}
    return sgv.datasets.simulate(**{**sizes, **kwargs})


def first(adata):
    return adata.obs["perturbation"].cat.categories[1]


@every_model
def test_predict_is_that_of_graphvci(fit, cls):
    adata = make_screen()
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type", "donor"], split_key="split")
    reference = sgv.GraphVCI(adata)
    reference.is_trained_ = True
    model = fit(cls, adata)
    for arguments in ({}, {"source": "all"}, {"source": first(adata)}, {"indices": [30, 2, 2]}):
        found, expected = (m.predict(first(adata), **arguments) for m in (model, reference))
        assert found.shape == expected.shape
        assert found.X.dtype == expected.X.dtype
        assert found.obs.equals(expected.obs)
        assert found.var.equals(expected.var)
        assert np.isfinite(found.X).all()
    with pytest.raises(ValueError, match="Unknown treatment"):
        model.predict("nothing")


@every_model
def test_doses_combinations_and_continuous_covariates(fit, cls):
    adata = make_screen(n_cells=400, doses=(0.5, 2.0), n_combinations=2)
    adata.obs["age"] = np.random.default_rng(0).normal(50, 10, adata.n_obs)
    setup = {"dose_key": "dose", "combination_sep": "+", "continuous_covariate_keys": ["age"]}
    model = fit(cls, adata, setup=setup)
    a, b = model.treatments.perturbations[:2]
    index = [0, 1, 2]
    low, high = (model.predict(a, indices=index, dose=dose).X for dose in (0.5, 2.0))
    assert np.abs(low - high).max() > 1e-4
    both = model.predict(f"{a}+{b}", indices=index, dose="2+0.5")
    assert set(both.obs["counterfactual_dose"]) == {"2+0.5"}
    np.testing.assert_allclose(both.X, model.predict(f"{b}+{a}", indices=index, dose="0.5+2").X, atol=1e-5)
    older = adata[index].copy()
    older.obs["age"] += 30
    assert np.abs(model.predict(a, adata=older, source="all").X - model.predict(a, indices=index).X).max() > 1e-5


@every_model
def test_saved_and_loaded(fit, cls, tmp_path):
    adata = make_screen()
    model = fit(cls, adata)
    model.save(tmp_path / "model")
    expected = model.predict(first(adata), source="all").X
    loaded = cls.load(tmp_path / "model", adata.copy())
    np.testing.assert_array_equal(loaded.predict(first(adata), source="all").X, expected)
    without = cls.load(tmp_path / "model", adata=False)
    np.testing.assert_array_equal(without.predict(first(adata), source="all", adata=adata.copy()).X, expected)
    assert without.init_params_ == model.init_params_
    with pytest.raises(ValueError, match=f"holds a {cls.__name__}"):
        sgv.GraphVCI.load(tmp_path / "model", adata=False)


@every_model
def test_held_out_cells_are_invisible_and_seeds_hold(fit, cls):
    adata, other = make_screen(n_cells=300, seed=1), make_screen(n_cells=300, seed=1)
    held_out = (other.obs["split"] == "ood").to_numpy()
    assert held_out.sum() > 20
    dense = other.X.toarray()
    dense[held_out] = 1e4
    other.X = dense
    models = [fit(cls, data) for data in (adata, other)]
    weights = [model.module.state_dict() for model in models]
    for name, weight in weights[0].items():
        np.testing.assert_array_equal(weight, weights[1][name], err_msg=name)
    assert set(models[0].history) == set(models[1].history)
    for name, frame in models[0].history.items():
        np.testing.assert_array_equal(frame.astype(float), models[1].history[name].astype(float), err_msg=name)
    different = fit(cls, make_screen(n_cells=300, seed=1), seed=1).module.state_dict()
    assert any((weight != different[name]).any() for name, weight in weights[0].items())


@every_model
def test_training_goes_on_from_where_it_was(fit, cls):
    model = fit(cls, make_screen())
    before = {name: weight.clone() for name, weight in model.module.state_dict().items()}
    model.train(1, accelerator="cpu", enable_progress_bar=False, plan_kwargs={"lr": 1e-9})
    for name, weight in model.module.state_dict().items():
        if not name.startswith("adversary"):
            np.testing.assert_allclose(weight, before[name], atol=1e-5, err_msg=name)


@every_model
def test_loss_falls_and_training_stops_early(fit, cls):
    model = fit(cls, make_screen(n_cells=600), 20)
    loss = model.history["reconstruction_loss_train"].astype(float).to_numpy().ravel()
    assert loss[-1] < loss[0] - 0.05
    assert model.history["validation_loss"].shape[0] > 1
    stop = {"early_stopping": True, "early_stopping_patience": 2, "early_stopping_min_delta": 1.0}
    assert len(fit(cls, make_screen(), 20, train=stop).history["train_loss"]) < 20


@every_model
def test_many_models_share_one_screen(fit, cls):
    """Models set up with other covariates, layers and splits leave each other's predictions alone."""
    adata = make_screen()
    model = fit(cls, adata)
    expected = model.predict(first(adata)).X
    others = [
        fit(other, adata, setup={"categorical_covariate_keys": ["donor"], "split_key": None}) for other in CLASSES
    ]
    sgv.GraphVCI.setup_anndata(adata, grn_key="grn")
    np.testing.assert_array_equal(model.predict(first(adata)).X, expected)
    assert [type(other).__name__ for other in others] == ["AE", "CEVAE", "GANITE", "CPA"]
    assert model.module.screen.n_levels == (2, 2)
    assert all(other.module.screen.n_levels == (2,) for other in others)


@every_model
def test_network_is_not_used(fit, cls):
    adata = make_screen()
    with_network, without = fit(cls, adata, setup={"grn_key": "grn"}), fit(cls, make_screen())
    np.testing.assert_array_equal(with_network.predict(first(adata)).X, without.predict(first(adata)).X)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@every_model
def test_mudata(fit, cls):
    adata = make_screen()
    trained = fit(cls, adata.copy())
    mdata = MuData({"rna": adata})
    cls.setup_mudata(mdata, **{"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split"})
    model = cls(mdata, n_hidden=64, n_latent=8)
    model.module.load_state_dict(trained.module.state_dict())
    model.is_trained_ = True
    np.testing.assert_array_equal(model.predict(first(adata)).X, trained.predict(first(adata)).X)


@every_model
def test_samples_spread_about_the_prediction(fit, cls):
    adata = make_screen()
    model = fit(cls, adata, 5)
    index = np.arange(20)
    draws = model.sample(first(adata), n_samples=300, indices=index, seed=0).X.reshape(300, 20, -1)
    mean = model.predict(first(adata), indices=index).X
    scale = np.exp(model.module.log_scale.detach().numpy()) + 0.01
    assert np.abs(draws.mean(axis=0) - mean).max() < 0.5
    np.testing.assert_allclose(draws.std(axis=0).mean(axis=0), scale, rtol=0.2)


def test_bad_input(fit):
    adata = make_screen()
    with pytest.warns(UserWarning, match="raw counts"):
        fit(AE, adata, setup={"layer": "counts"}, max_epochs=1)
    adata.obs["split"] = adata.obs["split"].astype(str).replace("test", "train")
    with pytest.raises(ValueError, match="needs validation cells"):
        fit(AE, adata, train={"early_stopping": True})
    with pytest.raises(ValueError, match="split column"):
        fit(AE, adata, train={"train_size": 0.9})
    with pytest.raises(TypeError, match="no_such_option"):
        fit(AE, adata, no_such_option=1)


@pytest.mark.parametrize("cls", [AE, CPA])
def test_loss_that_is_not_finite_stops_training(fit, cls):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FloatingPointError, match="Lower the learning rate"):
            fit(cls, make_screen(), 20, train={"plan_kwargs": {"lr": 1e30}})
