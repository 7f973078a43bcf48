"""Covariates may be given in any order: scvi-tools hands registries out with sorted keys."""

from __future__ import annotations

import numpy as np
import pytest

import scgraphvci as sgv
from scgraphvci.baselines import CEVAE

COVARIATES = [["donor", "cell_type"], ["cell_type", "donor"], ["type", "batch"]]


@pytest.fixture
def screen(make_screen):
    """Three cell types and two donors, and the same with equal numbers of levels."""
    adata = make_screen(n_cells=600)
    adata.obs["type"] = np.where(adata.obs["cell_type"] == "NK", "x", "y")
    adata.obs["batch"] = np.where(adata.obs["donor"] == "d1", "one", "two")
    return adata


@pytest.mark.parametrize("keys", COVARIATES)
def test_effects_are_those_of_the_named_strata(screen, keys, tmp_path):
    sgv.GraphVCI.setup_anndata(screen, categorical_covariate_keys=keys)
    model = sgv.GraphVCI(screen)
    model.train(max_epochs=1, enable_progress_bar=False)
    model.save(tmp_path / "model", save_anndata=True)
    for one in (model, sgv.GraphVCI.load(tmp_path / "model")):
        for grouping in ([keys[0]], [keys[1]], keys):
            frame = one.marginal_effect("A", groupby=grouping, estimator="observed", pooled=True).to_frame()
            assert len(frame) > 0
            for row in frame[frame["gene"] == "gene0"].itertuples():
                here = np.all([screen.obs[key] == getattr(row, key) for key in grouping], axis=0)
                arm = here & (screen.obs["perturbation"] == "A").to_numpy()
                control = here & (screen.obs["perturbation"] == "control").to_numpy()
                assert row.n_treated == arm.sum()
                assert row.observed == pytest.approx(screen.X[arm, 0].mean() - screen.X[control, 0].mean(), abs=1e-5)


@pytest.mark.parametrize("keys", COVARIATES)
@pytest.mark.parametrize("model_class", [sgv.GraphVCI, CEVAE])
def test_every_level_has_its_place(screen, model_class, keys):
    """A model built for another number of levels fails in training."""
    model_class.setup_anndata(screen, categorical_covariate_keys=keys)
    model = model_class(screen)
    model.train(max_epochs=1, enable_progress_bar=False)
    assert model.is_trained_
