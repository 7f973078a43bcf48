"""Doses and combinations of real screens (Norman 2019, McFaline-Figueroa 2024)."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgraphvci as sgv

pytestmark = pytest.mark.real_data

COMBINATIONS = ["KLF1+MAP2K6", "MAP2K3+SLC38A2"]


@pytest.fixture(scope="module")
def model(folder: Path) -> sgv.GraphVCI:
    adata = ad.read_h5ad(folder / "perturbench_devel_500genes.h5ad")
    split = np.where(np.random.default_rng(0).random(adata.n_obs) < 0.8, "train", "test").astype(object)
    split[adata.obs["perturbation"].isin(COMBINATIONS).to_numpy()] = "ood"
    adata.obs["split"] = pd.Categorical(split)
    sgv.settings.seed = 0
    sgv.GraphVCI.setup_anndata(
        adata, dose_key="dose", combination_sep="+", categorical_covariate_keys=["cell_type"], split_key="split"
    )
    model = sgv.GraphVCI(adata)
    model.train(max_epochs=10, accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.mark.filterwarnings("ignore:The latent has collapsed")
def test_combinations_are_sums_of_members(model):
    table = model.treatments
    assert "KLF1" in table.perturbations
    assert not any("+" in name for name in table.perturbations)
    expected = table.vector("KLF1") + table.vector("MAP2K6")
    np.testing.assert_array_equal(table.vector("KLF1+MAP2K6", "1+1"), expected)
    np.testing.assert_array_equal(table.vector("MAP2K6+KLF1"), expected)
    np.testing.assert_array_equal(table.vector("KLF1+MAP2K6", "1+0.5"), expected - 0.5 * table.vector("MAP2K6"))


def test_unseen_combinations_are_predicted(model):
    pairs = sgv.Evaluation({"model": model}).pairs()
    assert set(pairs["treatment"]) == set(COMBINATIONS)
    assert set(pairs["dose"]) == {"1+1"}
    scores = pairs.groupby("predictor")[["r2", "pearson_shift"]].mean()
    assert scores.loc["model", "r2"] > 0.9
    assert scores.loc["model", "pearson_shift"] > 0.1
    np.testing.assert_allclose(scores.loc["no change", "pearson_shift"], 0, atol=0.5)


def test_dose_changes_the_prediction(model):
    half, full = (model.predict("KLF1", dose=dose).X.mean(axis=0) for dose in (0.5, 1))
    control = model.predict("control").X.mean(axis=0)
    assert np.linalg.norm(full - control) > np.linalg.norm(half - control) > 0


def test_one_treatment_seen_alone_nowhere(model):
    """Members of combinations need not occur alone."""
    alone = set(model.adata.obs["perturbation"])
    member = next(name for name in model.treatments.perturbations if name not in alone)
    assert np.isfinite(model.predict(member).X).all()
