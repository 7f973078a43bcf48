"""Models that never see the cells they predict."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from scgraphvci.model._cross_fit import fit_folds

KEYS = ["cell_type", "donor"]


@pytest.fixture(scope="module")
def model(fit, new_screen):
    return fit(new_screen(n_cells=240, n_donors=2, seed=3), categorical_covariate_keys=KEYS)


def run(model, adata, fold, **kwargs):
    cells = np.flatnonzero(adata.obs["split"] != "ood")
    return fit_folds(model, adata, cells, fold(cells), {"max_epochs": 2, "accelerator": "cpu"}, **{"seed": 0, **kwargs})


def alternate(cells):
    return np.arange(cells.size) % 2


def weights(predictions):
    return {name: value.clone() for name, value in predictions.model.module.state_dict().items()}


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


class TestCrossFit:
    def test_a_model_never_sees_the_cells_it_predicts(self, model):
        """Whatever a fold's expression is, its model is the same; the models of the other folds are not."""
        adata = model.adata.copy()
        first, left_out = run(model, adata, alternate)
        assert left_out == []
        cells = np.flatnonzero(adata.obs["split"] != "ood")
        np.testing.assert_array_equal(np.sort(np.concatenate([one.position for one in first])), np.arange(cells.size))
        changed = adata.X.tolil()
        mine = cells[first[0].position]
        changed[mine] = adata.X[np.random.default_rng(0).permutation(mine)] * 2
        adata.X = changed.tocsr()
        second, _ = run(model, adata, alternate)
        assert equal(weights(first[0]), weights(second[0]))
        assert not equal(weights(first[1]), weights(second[1]))

    def test_nothing_is_written_and_nothing_drawn(self, model):
        adata = model.adata
        before, state = adata.obs.copy(), torch.random.get_rng_state()
        keys = set(adata.uns), set(adata.layers), set(adata.obsm)
        run(model, adata, alternate)
        pd.testing.assert_frame_equal(adata.obs, before)
        assert (set(adata.uns), set(adata.layers), set(adata.obsm)) == keys
        assert torch.equal(torch.random.get_rng_state(), state)
        assert np.isfinite(model.predict(model.treatments.perturbations[0]).X).all()

    def test_the_seed_decides(self, model):
        first, again, other = (run(model, model.adata, alternate, seed=seed)[0][0] for seed in (0, 0, 1))
        assert equal(weights(first), weights(again))
        assert not equal(weights(first), weights(other))

    def test_covariates_that_a_fold_has_for_itself_are_left_out(self, model, caplog):
        donor = model.adata.obs["donor"].cat.codes.to_numpy()
        with caplog.at_level("WARNING"):
            predictions, left_out = run(model, model.adata, lambda cells: donor[cells])
        assert left_out == ["donor"]
        assert "do without 'donor': levels that one fold has for itself: " in caplog.text
        assert predictions[0].model.module.n_levels == [model.adata.obs["cell_type"].nunique()]

    def test_a_rare_level_does_not_cost_the_covariate(self, fit, new_screen, caplog):
        """A cell type of one cell: its fold's model has not seen it, all others' have, and all know cell types."""
        adata = new_screen(n_cells=240, seed=3)
        rare = int(np.flatnonzero((adata.obs["split"] == "train") & (adata.obs["perturbation"] == "control"))[0])
        adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories("rare")
        adata.obs.iloc[rare, adata.obs.columns.get_loc("cell_type")] = "rare"
        model = fit(adata, categorical_covariate_keys=["cell_type"])
        with caplog.at_level("WARNING"):
            predictions, left_out = run(model, adata, alternate)
        assert left_out == []
        assert "Levels of 'cell_type' that one fold has for itself" in caplog.text
        assert "'rare' (1 cells)" in caplog.text
        for one in predictions:
            assert one.model.module.n_levels == [3]
            assert np.isfinite(one.model.predict("control", indices=[rare]).X).all()
        assert model.marginal_effect(cross_fit=2, train_kwargs={"max_epochs": 1}).params["left_out_of_folds"] == []

    def test_counts_are_brought_to_the_models_library(self, fit, new_screen):
        model = fit(new_screen(n_cells=240, seed=3), layer="counts", likelihood="nb")
        predictions, _ = run(model, model.adata, alternate)
        for one in predictions:
            assert one.scale == pytest.approx(float(model.module.library_size / one.model.module.library_size))
        assert predictions[0].scale != 1

    def test_without_a_split_column_a_fifth_validates(self, fit, new_screen):
        model = fit(new_screen(n_cells=240, seed=3), split_key=None)
        cells = np.arange(240)
        predictions, _ = fit_folds(model, model.adata, cells, alternate(cells), {"max_epochs": 1}, 0)
        split = predictions[0].adata.obs["_scgraphvci_fold"]
        assert (split == "ood").to_numpy().nonzero()[0].tolist() == cells[::2].tolist()
        assert 0.1 < (split == "test").sum() / (split != "ood").sum() < 0.3

    def test_training_is_as_the_models_own(self, model):
        predictions, _ = fit_folds(
            model, model.adata, np.arange(model.adata.n_obs), np.arange(model.adata.n_obs) % 2, None, 0
        )
        assert len(predictions[0].model.history["train_loss"]) == len(model.history["train_loss"])
        assert predictions[0].model.trainer is None

    def test_a_file_is_read_and_not_changed(self, model, tmp_path, fit):
        path = tmp_path / "screen.h5ad"
        screen = model.adata.copy()
        for key in [name for name in screen.obs if name.startswith("_scgraphvci")]:
            del screen.obs[key]
        screen.write_h5ad(path)
        content = path.read_bytes()
        backed = ad.read_h5ad(path, backed="r")
        twin = fit(backed, categorical_covariate_keys=KEYS)
        in_memory, _ = run(model, model.adata, alternate)
        on_disk, _ = run(twin, backed, alternate)
        # Files are read in another order within batches, so that weights differ; what the baseline learned does not.
        first, second = (one.model.module.baseline for one in (in_memory[0], on_disk[0]))
        torch.testing.assert_close(first.shift, second.shift, rtol=1e-4, atol=1e-5)
        assert np.isfinite(on_disk[0].model.predict(model.treatments.perturbations[0]).X).all()
        assert path.read_bytes() == content
