"""No predictor is scored on cells it has seen."""

from __future__ import annotations

import numpy as np
import pytest
import scvi

import scgraphvci as sgv
from scgraphvci.baselines import ContextShift, NoChange

SETUP = {"categorical_covariate_keys": ["cell_type"]}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": None, "enable_model_summary": False}
QUICK = {"baselines": None, "duplicates": False, "n_bootstrap": 5, "n_de": 5}


@pytest.fixture
def adata():
    """A screen with its split and another one, in which other cells are held out."""
    adata = sgv.datasets.simulate(n_cells=400, n_genes=30, n_perturbations=3, n_cell_types=2, n_donors=2, seed=1)
    treated = (adata.obs["perturbation"] != "control").to_numpy()
    split = np.where(np.arange(adata.n_obs) % 5, "train", "test").astype(object)
    split[treated & (adata.obs["split"] != "ood").to_numpy() & (adata.obs["cell_type"] == "type0").to_numpy()] = "ood"
    adata.obs["other"] = split
    return adata


def fit(adata, split_key="split", **options):
    sgv.GraphVCI.setup_anndata(adata, split_key=split_key, **SETUP)
    scvi.settings.seed = 0
    model = sgv.GraphVCI(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, **QUIET, **options)
    return model


def n_seen(adata, split_key, seen=("train", "test")):
    scored = (adata.obs["split"] == "ood") & (adata.obs["perturbation"] != "control")
    return int((scored & adata.obs[split_key].isin(seen)).sum())


def test_predictors_with_different_splits(adata):
    models = {"right": fit(adata), "wrong": fit(adata, "other")}
    message = rf"'wrong' was trained or validated on {n_seen(adata, 'other')} of the .* 'ood' cells"
    with pytest.raises(ValueError, match=message):
        sgv.Evaluation(models, **QUICK)
    shifts = {"right": models["right"], "wrong": ContextShift(adata, split_key="other", **SETUP)}
    message = rf"'wrong' was trained or validated on {n_seen(adata, 'other', ['train'])} of the"
    with pytest.raises(ValueError, match=message):
        sgv.Evaluation(shifts, **QUICK)
    everything = {"right": models["right"], "all": NoChange(adata, **SETUP)}
    with pytest.raises(ValueError, match="'all' was trained"):
        sgv.Evaluation(everything, **QUICK)
    assert len(sgv.Evaluation({"right": models["right"], "same": fit(adata)}, **QUICK).pairs())


@pytest.mark.parametrize("make", [fit, lambda adata: ContextShift(adata, split_key="split", **SETUP)])
def test_a_split_rewritten_after_training(adata, make):
    model = make(adata)
    assert len(sgv.Evaluation({"model": model}, **QUICK).pairs())
    adata.obs["split"] = adata.obs["other"]
    with pytest.raises(ValueError, match=r"'model' was trained .*rewritten after training"):
        sgv.Evaluation({"model": model}, **QUICK)


def test_validation_cells_are_scored_as_test_and_not_as_ood(adata):
    model = fit(adata)
    assert len(sgv.Evaluation({"model": model}, split="test", **QUICK).pairs())
    obs = adata.obs
    obs["split"] = obs["split"].astype(str).replace({"ood": "test", "test": "ood"})
    with pytest.raises(ValueError, match="trained or validated on"):
        sgv.Evaluation({"model": model}, **QUICK)


def test_loaded_models(adata, tmp_path):
    fit(adata).save(tmp_path / "model")
    same = sgv.GraphVCI.load(tmp_path / "model", adata.copy())
    assert len(sgv.Evaluation({"model": same}, **QUICK).pairs())
    assert len(sgv.Evaluation({"model": same}, adata, **QUICK).pairs())
    changed = adata.copy()
    changed.obs["split"] = changed.obs["other"]
    loaded = sgv.GraphVCI.load(tmp_path / "model", changed)
    with pytest.raises(ValueError, match="'model' was trained or validated on"):
        sgv.Evaluation({"model": loaded}, **QUICK)
    half = adata[::2].copy()
    assert len(sgv.Evaluation({"model": sgv.GraphVCI.load(tmp_path / "model", half)}, **QUICK).pairs())
    with pytest.raises(ValueError, match="'model' was trained or validated on"):
        sgv.Evaluation({"model": same}, changed, **QUICK)
    reversed_cells = adata[::-1].copy()
    with pytest.raises(ValueError, match="or in another order"):
        sgv.Evaluation({"model": sgv.GraphVCI.load(tmp_path / "model", reversed_cells)}, **QUICK)
    without = sgv.GraphVCI.load(tmp_path / "model", False)
    assert len(sgv.Evaluation({"model": without}, reversed_cells, **QUICK).pairs())


def test_other_cells_of_the_same_names_are_no_leak(adata):
    model = fit(adata)
    other = sgv.datasets.simulate(n_cells=400, n_genes=30, n_perturbations=3, n_cell_types=2, n_donors=2, seed=2)
    other.var_names = adata.var_names
    known = sorted(set(adata.obs["perturbation"]) - {"control"})
    renamed = dict(zip(sorted(set(other.obs["perturbation"]) - {"control"}), known, strict=True))
    other.obs["perturbation"] = other.obs["perturbation"].astype(str).replace(renamed)
    assert set(other.obs_names) == set(adata.obs_names)
    assert len(sgv.Evaluation({"model": model}, other, **QUICK).pairs())


def test_the_same_cells_are_known_with_genes_in_another_order(adata):
    model = fit(adata)
    permuted = adata[::-1, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    assert len(sgv.Evaluation({"model": model}, permuted, **QUICK).pairs())
    permuted.obs["split"] = permuted.obs["other"]
    with pytest.raises(ValueError, match="'model' was trained or validated on"):
        sgv.Evaluation({"model": model}, permuted, **QUICK)
