"""GraphVCI: its variants run end to end, and what is registered is used."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import scgraphvci as sgv

SETUP = {"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split", "grn_key": "grn"}


def assert_works(model, library="standard"):
    """Predictions, draws and effects of a trained model are finite and of the right shape."""
    treatment = model.treatments.perturbations[0]
    predicted = model.predict(treatment, source="all", library=library)
    assert predicted.shape == (model.adata.n_obs, model.adata.n_vars)
    assert np.isfinite(predicted.X).all()
    assert np.isfinite(model.sample(treatment, n_samples=2, library=library).X).all()
    effects = model.marginal_effect()
    assert np.isfinite(effects.plugin).all()
    for name, frame in model.history.items():
        assert np.isfinite(frame.to_numpy(dtype=float)).all(), name


@pytest.mark.parametrize(
    "kwargs",
    [
        {"decoder": "attention"},
        {"distribution_loss": "gaussian"},
        {"distribution_loss": "mmd"},
        {"layer": "counts", "likelihood": "nb", "distribution_loss": "mmd", "baseline": False},
        {"distribution_loss": "adversarial"},
        {"preset": "paper"},
        {"preset": "paper", "decoder": "dot", "n_samples": 1},
        {"grn_key": None},
        {"grn_key": None, "preset": "paper"},
        {"categorical_covariate_keys": None},
        {"split_key": None},
        {"layer": "counts", "likelihood": "nb"},
        {"layer": "counts", "likelihood": "zinb", "decoder": "attention", "dispersion": "gene-cell"},
        {"layer": "counts", "likelihood": "nb", "distribution_loss": "adversarial"},
        {"layer": "counts", "likelihood": "nb", "preset": "paper"},
        {"layer": "counts", "likelihood": "nb", "grn_key": None, "distribution_loss": "gaussian"},
        {"graph_pooling": "max", "n_graph_layers": 2, "n_layers": 1},
        {"baseline": False},
        {"propagation": "graph"},
        {"propagation": "none"},
        {"layer": "counts", "likelihood": "nb", "propagation": "graph"},
        {"response_gain": False},
        {"dropout_rate": 0.1, "n_samples": 3},
        {"kernel_bandwidth": 0.5},
        {"continuous_covariate_keys": ["cell_state", "library"]},
    ],
    ids=str,
)
def test_variants_run_end_to_end(new_screen, fit, kwargs):
    model = fit(new_screen(), **kwargs)
    assert_works(model)
    assert "GraphVCI with likelihood" in model._model_summary_string


def test_training_learns(new_screen, fit):
    """On a screen that is easy enough, predictions of unseen cells beat the prediction of no change."""
    adata = new_screen(n_cells=600, n_genes=50, effect_strength=4.0)
    model = fit(adata, max_epochs=40, n_hidden=32)
    loss = model.history["train_loss"].to_numpy(dtype=float)
    assert loss[-1] < loss[0]
    dense, obs = adata.X.toarray(), adata.obs
    errors, baseline = [], []
    for treatment in model.treatments.perturbations:
        for cell_type in ("type0", "type1"):
            here = (obs["cell_type"] == cell_type).to_numpy()
            test = here & (obs["perturbation"] == treatment).to_numpy() & (obs["split"] != "train").to_numpy()
            control = here & (obs["perturbation"] == "control").to_numpy() & (obs["split"] == "train").to_numpy()
            if test.sum() < 5:
                continue
            truth = dense[test].mean(axis=0)
            predicted = model.predict(treatment, indices=np.flatnonzero(control)).X.mean(axis=0)
            errors.append(((predicted - truth) ** 2).mean())
            baseline.append(((dense[control].mean(axis=0) - truth) ** 2).mean())
    assert len(errors) >= 4
    assert np.mean(errors) < 0.8 * np.mean(baseline)


@pytest.fixture(scope="module")
def interacting():
    """A screen in which half of the edges are off in each cell type; not to be changed."""
    return sgv.datasets.simulate(
        n_cells=2500, n_genes=60, n_perturbations=6, n_cell_types=3, n_donors=1, interaction=1.0, seed=1
    )


@pytest.mark.parametrize("likelihood", ["normal", "nb"])
def test_propagation_decides_what_foretells_deviations(interacting, fit, likelihood, monkeypatch):
    adata = interacting.copy()
    adata.varp["grn"] = adata.varp["grn_true"]
    layer = "counts" if likelihood == "nb" else None
    kwargs = {"likelihood": likelihood, "layer": layer, "categorical_covariate_keys": ["cell_type"]}
    tables = {}
    for propagation in ("coexpression", "graph"):
        baseline = fit(adata, propagation=propagation, **kwargs).module.baseline
        assert baseline.deviation.shape == (3, 6, 60)
        tables[propagation] = baseline.deviation
    assert not torch.allclose(tables["coexpression"], tables["graph"])
    genes_without_regulators = np.asarray(abs(adata.varp["grn"]).sum(axis=0)).ravel() == 0
    assert not tables["graph"][..., genes_without_regulators].any()

    def refuse(*args):
        pytest.fail("residuals are not needed")

    monkeypatch.setattr("scgraphvci.model._statistics.cell_residuals", refuse)
    assert fit(adata, propagation="none", **kwargs).module.baseline.deviation.shape[0] == 0
    assert fit(adata, preset="paper", **kwargs).module.baseline is None


def test_a_model_with_deviations_is_saved_and_loaded(interacting, fit, tmp_path):
    model = fit(interacting.copy(), categorical_covariate_keys=["cell_type"])
    assert model.module.baseline.deviation.shape[0] == 3
    model.save(tmp_path / "m")
    loaded = sgv.GraphVCI.load(tmp_path / "m", interacting.copy())
    for treatment in model.treatments.perturbations:
        expected = model.predict(treatment, source="all").X
        np.testing.assert_allclose(loaded.predict(treatment, source="all").X, expected, atol=1e-6)


@pytest.mark.parametrize("features", [None, "features"])
def test_propagation_along_a_graph_needs_one(new_screen, features):
    adata = new_screen()
    adata.varm["features"] = np.random.default_rng(0).normal(size=(adata.n_vars, 2))
    sgv.GraphVCI.setup_anndata(adata, gene_features_key=features)
    with pytest.raises(ValueError, match="propagation='graph' needs a network: name one with `grn_key`"):
        sgv.GraphVCI(adata, propagation="graph")
    with pytest.raises(ValueError, match="Unknown propagation 'edges'. Choose one of"):
        sgv.GraphVCI(adata, propagation="edges")


def test_paper_preset_has_the_papers_settings(new_screen):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    model = sgv.GraphVCI(adata, preset="paper")
    module = model.module
    assert (module.covariate_weight, module.individual_weight, module.n_samples) == (50.0, 1.0, 3)
    assert module.divergence_weight == pytest.approx(0.1 * adata.n_vars)  # per gene here, summed over latents there
    assert "attention" in model._model_summary_string
    latent = module.encoder.mean.out_features
    assert latent == 128


def test_without_a_network_it_is_vci(new_screen):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata, **{**SETUP, "grn_key": None})
    model = sgv.GraphVCI(adata)
    assert model.module.graph is None
    assert model.get_graph().empty
    assert "none (VCI)" in model._model_summary_string


def test_network_changes_what_is_learned(new_screen, fit):
    def screen(flip):
        adata = new_screen()
        if flip:
            adata.varp["grn"] = adata.varp["grn"][::-1, ::-1].copy()
        return adata

    models = [fit(screen(flip), max_epochs=1) for flip in (False, True)]
    treatment = models[0].treatments.perturbations[0]
    assert not np.allclose(*[model.predict(treatment).X for model in models])


def test_continuous_covariates_change_encodings(new_screen, fit):
    adata = new_screen()
    model = fit(adata, continuous_covariate_keys=["cell_state"])
    train = (adata.obs["split"] == "train").to_numpy()
    state = adata.obs["cell_state"].to_numpy()
    expected = (state - state[train].mean()) / state[train].std()
    np.testing.assert_allclose(adata.obsm["_scgraphvci_continuous"].ravel(), expected, atol=1e-5)
    other = new_screen()
    other.obs["cell_state"] += 2.0
    before, after = model.get_latent_representation(), model.get_latent_representation(other)
    assert (np.abs(after - before).max(axis=1) > 1e-4).all()
    assert not np.allclose(model.predict("control", source="all", adata=other).X, model.predict("control", "all").X)


def test_size_factors_replace_row_sums(new_screen, fit):
    def screen(factor):
        adata = new_screen()
        adata.obs["depth"] = np.asarray(adata.layers["counts"].sum(axis=1)).ravel() * factor
        return adata

    arguments = {"layer": "counts", "likelihood": "nb"}
    by_row, same, half = (
        fit(new_screen(), **arguments),
        fit(screen(1.0), size_factor_key="depth", **arguments),
        fit(screen(0.5), size_factor_key="depth", **arguments),
    )
    treatment = by_row.treatments.perturbations[0]
    np.testing.assert_allclose(same.predict(treatment).X, by_row.predict(treatment).X, rtol=1e-4)
    assert float(half.module.library_size) == pytest.approx(0.5 * float(by_row.module.library_size))
    np.testing.assert_allclose(half.predict(treatment).X, by_row.predict(treatment).X, rtol=1e-3)
    adata = screen(1.0)
    adata.obs.iloc[0, adata.obs.columns.get_loc("depth")] *= 4
    one = [0]
    observed = same.predict(treatment, indices=one, library="observed", adata=adata).X
    standard = same.predict(treatment, indices=one, adata=adata).X
    relative = adata.obs["depth"].iloc[0] / float(same.module.library_size)
    np.testing.assert_allclose(observed, relative * standard, rtol=1e-4)


def test_counts_are_encoded_relative_to_their_library(new_screen, fitted_counts):
    """Ten times as many counts of every gene are the same cell, sequenced deeper."""
    deeper = new_screen()
    deeper.layers["counts"] = deeper.layers["counts"] * 10
    treatment = fitted_counts.treatments.perturbations[0]
    np.testing.assert_allclose(
        fitted_counts.predict(treatment, adata=deeper).X, fitted_counts.predict(treatment).X, rtol=1e-4
    )


def test_library_of_nb_follows_the_counts(fitted_counts):
    adata = fitted_counts.adata
    totals = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    train = (adata.obs["split"] == "train").to_numpy()
    assert float(fitted_counts.module.library_size) == pytest.approx(np.median(totals[train]))
    predicted = fitted_counts.predict("control", source="control").X
    assert predicted.sum(axis=1).mean() == pytest.approx(np.median(totals[train]), rel=0.3)


def test_collapsed_latent_warns(new_screen, quiet_train):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    model = sgv.GraphVCI(adata, n_hidden=8, n_latent=2, divergence_weight=1e4)
    with pytest.warns(UserWarning, match=r"latent has collapsed.*`covariate_weight`"):
        model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=None)


def test_individual_latent_does_not_warn(new_screen):
    adata = new_screen(n_cells=400)
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    model = sgv.GraphVCI(adata, n_hidden=32, n_latent=8, covariate_weight=0.1, divergence_weight=0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The latent has collapsed")
        model.train(max_epochs=40, accelerator="cpu", enable_progress_bar=False, logger=None)


def test_split_without_test_cells_trains(new_screen, fit):
    adata = new_screen()
    adata.obs["split"] = adata.obs["split"].astype(str).replace({"test": "train"})
    model = fit(adata)
    assert "validation_loss" not in model.history
    assert len(model.history["train_loss"]) == 2
    with pytest.raises(ValueError, match="`early_stopping` needs validation cells"):
        model.train(max_epochs=1, early_stopping=True, enable_progress_bar=False)


def test_split_column_decides_which_cells_are_which(new_screen, fit):
    adata = new_screen()
    model = fit(adata, max_epochs=1)
    for name, indices in [
        ("train", model.train_indices),
        ("test", model.validation_indices),
        ("ood", model.test_indices),
    ]:
        assert sorted(indices) == np.flatnonzero(adata.obs["split"] == name).tolist()


def test_batches_of_one_cell_are_no_problem(new_screen, fit):
    model = fit(new_screen(n_cells=120), max_epochs=1, train={"batch_size": 8})
    assert np.isfinite(model.predict("control").X).all()


def test_gene_features_enter_the_graph_encoder(new_screen, fit):
    adata = new_screen()
    adata.varm["features"] = np.random.default_rng(0).normal(size=(adata.n_vars, 5))
    model = fit(adata, gene_features_key="features")
    before = model.module.embed_genes().detach().clone()
    model.module.graph.features += 1.0
    assert not torch.allclose(before, model.module.embed_genes())


def test_features_without_a_network_are_used(new_screen, fit):
    adata = new_screen()
    adata.varm["features"] = np.random.default_rng(0).normal(size=(adata.n_vars, 5))
    model = fit(adata, gene_features_key="features", grn_key=None)
    assert model.module.graph is not None
    assert model.get_graph().empty


def test_interrupted_training_leaves_a_model_that_trains_again(new_screen, monkeypatch):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    model = sgv.GraphVCI(adata, n_hidden=8, n_latent=2)
    plan = model._training_plan_cls

    def interrupted(self, *args):
        msg = "interrupted"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(plan, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="interrupted"):
            model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=None)
    assert not model.is_trained
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The latent has collapsed")
        model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=None)
    assert model.is_trained


def test_continued_training_keeps_the_scale_of_counts(new_screen, fit, quiet_train, monkeypatch):
    """New data with four times the counts are brought to the library size the model was first trained with."""
    first = fit(new_screen(), layer="counts", likelihood="nb")
    size = float(first.module.library_size)
    adata = new_screen()
    adata.layers["counts"] = adata.layers["counts"] * 4
    sgv.GraphVCI.setup_anndata(adata, layer="counts", **SETUP)
    model = sgv.GraphVCI(adata, likelihood="nb", n_hidden=16, n_latent=4, n_graph_hidden=8)
    model.module.load_state_dict(first.module.state_dict())
    model.is_trained_ = True
    used = []
    moments = type(model)._moments
    monkeypatch.setattr(type(model), "_moments", lambda self, *args: used.append(moments(self, *args)) or used[-1])
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert [result.library_size for result in used] == pytest.approx([size, size])
    assert float(model.module.library_size) == pytest.approx(size)
