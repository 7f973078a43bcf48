"""On permuted treatments nothing can be learned: a model that scores above no information has seen the answer."""

from __future__ import annotations

import numpy as np
import pytest
import scvi

import scgraphvci as sgv
from scgraphvci._evaluation._scores import COLUMNS
from scgraphvci.metrics import METRICS

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split", "grn_key": "grn"}
IGNORANT = ["no change", "train mean", "stratum mean", "control level"]
# How far 20 held-out pairs may lift a score by chance above that of no information: a fixed value where there is one,
# else the best of the baselines that know of no treatment.
TOLERANCE = {
    "pearson_perturbed": 0.05,
    "weighted_r2": 0.0,
    "weighted_mse": 0.01,
    "centroid_accuracy": 0.1,
    "energy_distance": 0.05,
    "mmd": 0.01,
    "r2": 0.01,
    "r2_de": 0.05,
    "pearson_shift": 0.05,
    "mse": 0.01,
    "mae": 0.01,
    "discrimination_l1": 0.1,
    "discrimination_l2": 0.1,
    "discrimination_cosine": 0.1,
    "de_auprc": 0.05,
    "de_spearman": 0.05,
    "de_direction": 0.05,
    "de_overlap": 0.05,
}
LEARNED = {"weighted_r2": 0.3, "pearson_shift": 0.6, "de_spearman": 0.6, "centroid_accuracy": 0.85}


def permute_treatments(adata, seed):
    """Permute treatments, control among them, over the training cells of each cell type."""
    permuted, rng = adata.copy(), np.random.default_rng(seed)
    treatment = permuted.obs["perturbation"].to_numpy(copy=True)
    for cell_type in adata.obs["cell_type"].unique():
        cells = np.flatnonzero((adata.obs["split"] == "train") & (adata.obs["cell_type"] == cell_type))
        treatment[cells] = treatment[rng.permutation(cells)]
    permuted.obs["perturbation"] = treatment
    return permuted


def train(adata, seed):
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    before, scvi.settings.seed = scvi.settings.seed, seed
    model = sgv.GraphVCI(adata, n_latent=8, n_hidden=32, n_graph_hidden=8)
    model.train(max_epochs=8, accelerator="cpu", enable_progress_bar=False, logger=None, check_val_every_n_epoch=8)
    scvi.settings.seed = before
    return model


@pytest.mark.parametrize("seed", [0, 1])
def test_no_score_exceeds_that_of_no_information(seed):
    adata = sgv.datasets.simulate(n_cells=3000, n_genes=60, n_perturbations=20, n_donors=1, n_ood_pairs=20, seed=seed)
    permuted = permute_treatments(adata, seed)
    models = {"true": train(adata, seed), "permuted": train(permuted, seed)}
    evaluation = sgv.Evaluation(
        models, adata, truth=sgv.datasets.truth(adata), n_bootstrap=1, duplicates=False, n_de=15
    )
    score = evaluation.summary().xs("mean", axis=1, level="statistic")
    for name, tolerance in TOLERANCE.items():
        info = METRICS[name]
        sign = 1 if info.higher_is_better else -1
        ignorant = (sign * score.loc[IGNORANT, name]).max() if info.no_information is None else info.no_information
        assert sign * score.loc["permuted", name] <= ignorant + tolerance, name
    for name, least in LEARNED.items():
        assert score.loc["true", name] > least, name


def test_every_metric_with_a_direction_is_watched():
    assert set(TOLERANCE) == {name for name in COLUMNS if METRICS[name].higher_is_better is not None}
