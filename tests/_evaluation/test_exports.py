"""What outside scorers are handed."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import scgraphvci as sgv

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}


@pytest.fixture(scope="module")
def adata():
    return sgv.datasets.simulate(n_cells=900, n_genes=40, n_perturbations=6, n_donors=2, seed=0)


@pytest.fixture(scope="module")
def evaluation(adata):
    return sgv.Evaluation({"mine": sgv.baselines.ContextShift(adata, **SETUP)}, baselines=None, n_bootstrap=10)


def test_cell_eval_pair_round_trips(adata, evaluation, tmp_path):
    predicted, real = evaluation.to_cell_eval("mine", tmp_path / "new" / "folder")
    for name, expected in (("pred", predicted), ("real", real)):
        read = ad.read_h5ad(tmp_path / "new" / "folder" / f"adata_{name}.h5ad")
        np.testing.assert_array_equal(read.X, expected.X)
        assert read.obs.astype(str).equals(expected.obs.astype(str))
        assert read.var_names.equals(adata.var_names)
        assert read.obs_names.is_unique
    is_control = [(part.obs["target"] == "non-targeting").to_numpy() for part in (predicted, real)]
    np.testing.assert_array_equal(predicted.X[is_control[0]], real.X[is_control[1]])
    assert (predicted.X >= 0).all()
    for row in evaluation.pairs().query("predictor == 'mine'").itertuples():
        here = ((real.obs["target"] == row.treatment) & (real.obs["stratum"] == row.cell_type)).to_numpy()
        held_out = (adata.obs["perturbation"] == row.treatment) & (adata.obs["cell_type"] == row.cell_type)
        cells = adata.X.toarray()[(held_out & (adata.obs["split"] == "ood")).to_numpy()]
        np.testing.assert_allclose(real.X[here], cells)


def test_pertpy_cells_rebuild_the_scores(adata, evaluation):
    cells = evaluation.to_pertpy("mine")
    assert set(cells.obs["origin"]) == {"control", "true", "predicted"}
    assert cells.obsm["X_pca"].shape == (cells.n_obs, 20)
    for row in evaluation.pairs().query("predictor == 'mine'").itertuples():
        part = cells[cells.obs["condition"] == f"{row.treatment} in {row.cell_type}"]
        control, true, predicted = (part[part.obs["origin"] == name] for name in ("control", "true", "predicted"))
        assert true.n_obs == row.n_cells
        shift = [group.X.mean(axis=0) - control.X.mean(axis=0) for group in (true, predicted)]
        assert np.corrcoef(*shift)[0, 1] == pytest.approx(row.pearson_shift, abs=1e-4)
        energy = sgv.metrics.energy_distance(true.obsm["X_pca"], predicted.obsm["X_pca"])
        assert energy == pytest.approx(row.energy_distance, rel=1e-3)


def test_cell_eval_takes_the_pair(evaluation, tmp_path):
    cell_eval = pytest.importorskip("cell_eval", reason="cell-eval is not installed")
    predicted, real = evaluation.to_cell_eval("mine")
    stratum = real.obs["stratum"].iloc[-1]
    part = [one[one.obs["stratum"] == stratum].copy() for one in (predicted, real)]
    evaluator = cell_eval.MetricsEvaluator(
        *part, control_pert="non-targeting", pert_col="target", outdir=str(tmp_path), num_threads=1, skip_de=True
    )
    assert evaluator.anndata_pair.perts.size == part[0].obs["target"].nunique() - 1
