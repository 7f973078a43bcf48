"""Search of hyperparameters with Ray Tune through scvi-tools."""

from __future__ import annotations

import numpy as np
import pytest

import scgraphvci as sgv

pytestmark = pytest.mark.slow


def test_four_trials(tmp_path):
    ray = pytest.importorskip("ray")
    for name in ("ray.tune", "hyperopt", "scib_metrics"):  # all of them, or scvi.autotune cannot be imported
        pytest.importorskip(name)
    from ray import tune
    from scvi import autotune

    adata = sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=4, seed=0)
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        experiment = autotune.run_autotune(
            sgv.GraphVCI,
            adata,
            metrics=["validation_loss", "pearson_shift_validation"],
            mode="min",
            search_space={
                "model_params": {"n_hidden": tune.grid_search([8, 16]), "n_latent": 4},
                "train_params": {
                    "max_epochs": 2,
                    "check_val_every_n_epoch": 1,
                    "accelerator": "cpu",
                    "plan_kwargs": {"lr": tune.grid_search([1e-3, 1e-2])},
                },
            },
            num_samples=1,
            scheduler="fifo",
            searcher="random",
            resources={"cpu": 1},
            seed=0,
            logging_dir=str(tmp_path),
            ignore_reinit_error=True,
        )
    finally:
        ray.shutdown()
    grid = experiment.result_grid
    assert len(grid) == 4
    assert not grid.errors
    losses = [result.metrics["validation_loss"] for result in grid]
    assert np.isfinite(losses).all()
    assert len(set(losses)) == 4  # four models, not one four times
    assert grid.get_best_result("validation_loss", "min").metrics["validation_loss"] == min(losses)
