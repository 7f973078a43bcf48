"""The same seed gives the same model, in this process and in another; another seed gives another."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scvi

import scgraphvci as sgv

pytestmark = pytest.mark.filterwarnings("ignore:The latent has collapsed")

SCRIPT = """
import json, sys
import scvi
import scgraphvci as sgv

def main(seed, split_key, distribution_loss):
    adata = sgv.datasets.simulate(n_cells=240, n_genes=40, n_perturbations=4, n_cell_types=2, n_donors=2, seed=0)
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key=split_key, grn_key="grn")
    scvi.settings.seed = seed
    model = sgv.GraphVCI(adata, n_hidden=16, n_latent=4, n_graph_hidden=8, dropout_rate=0.1,
                         distribution_loss=distribution_loss)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, logger=None)
    treatment = model.treatments.perturbations[0]
    return {
        "split": [part.tolist() for part in (model.train_indices, model.validation_indices, model.test_indices)],
        "loss": model.history["train_loss"].astype(float).to_numpy().ravel().tolist(),
        "validation": model.history["validation_loss"].astype(float).to_numpy().ravel().tolist(),
        "predicted": model.predict(treatment, source="all").X.tolist(),
        "drawn": model.sample(treatment, n_samples=2, indices=[0, 1]).X.tolist(),
    }

if __name__ == "__main__":
    split_key = None if sys.argv[2] == "none" else sys.argv[2]
    print("RESULT" + json.dumps(main(int(sys.argv[1]), split_key, sys.argv[3])))
"""
namespace: dict = {"__name__": "script"}
exec(SCRIPT, namespace)  # the very code that the other process runs
run_here = namespace["main"]


def run_elsewhere(tmp_path, *arguments):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.split("RESULT")[1])


@pytest.mark.parametrize("loss", ["kernel", "adversarial"])
@pytest.mark.parametrize("split_key", [None, "split"])
def test_same_seed_same_model(split_key, loss):
    first, second = run_here(3, split_key, loss), run_here(3, split_key, loss)
    assert first == second


def test_other_seed_other_model():
    first, second = run_here(3, None, "kernel"), run_here(4, None, "kernel")
    assert all(first[name] != second[name] for name in first)


def test_split_column_does_not_depend_on_the_seed():
    first, second = run_here(3, "split", "kernel"), run_here(4, "split", "kernel")
    assert first["split"] == second["split"]
    assert first["loss"] != second["loss"]


def test_other_process_same_model(tmp_path):
    here, there = run_here(5, None, "kernel"), run_elsewhere(tmp_path, 5, "none", "kernel")
    assert there == here


def test_split_without_a_seed_is_the_same_every_time(new_screen, quiet):
    seed = scvi.settings.seed
    scvi.settings._seed = None
    try:
        splits = []
        for _ in range(2):
            adata = new_screen()
            sgv.GraphVCI.setup_anndata(adata)
            model = sgv.GraphVCI(adata, n_hidden=8, n_latent=2)
            model.train(max_epochs=1, **quiet)
            splits.append(model.train_indices.tolist())
        assert splits[0] == splits[1]
        assert len(splits[0]) == 192
    finally:
        scvi.settings.seed = seed


def test_training_leaves_draws_of_epochs_independent_of_batches_before(new_screen, quiet):
    """Draws are seeded by epoch, so validating in between does not change what is learned."""
    losses = []
    for every in (1, 3):
        adata = new_screen()
        sgv.GraphVCI.setup_anndata(adata, split_key="split", grn_key="grn")
        scvi.settings.seed = 0
        model = sgv.GraphVCI(adata, n_hidden=8, n_latent=2)
        model.train(max_epochs=3, check_val_every_n_epoch=every, **quiet)
        losses.append(model.history["train_loss"].astype(float).to_numpy().ravel())
    np.testing.assert_allclose(losses[0][1:], losses[1][1:], rtol=0.05)
