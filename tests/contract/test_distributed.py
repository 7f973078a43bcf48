"""Training on two processes; CPU and gloo, as a cluster without GPUs would."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
import numpy as np
import scvi
import scgraphvci as sgv

def main(out, kwargs):
    likelihood = kwargs.get("likelihood", "normal")
    adata = sgv.datasets.simulate(n_cells=400, n_genes=40, n_perturbations=4, n_cell_types=2, n_donors=2, seed=0)
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn",
                               layer="counts" if likelihood != "normal" else None)
    scvi.settings.seed = 0
    model = sgv.GraphVCI(adata, n_hidden=16, n_latent=4, n_graph_hidden=8, **kwargs)
    model.train(max_epochs=3, accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true",
                check_val_every_n_epoch=1, enable_progress_bar=False, logger=None)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    weights = model.module.state_dict()
    digest = hashlib.sha256(b"".join(weights[name].cpu().numpy().tobytes() for name in sorted(weights))).hexdigest()
    history = {name: frame.astype(float).to_numpy().ravel().tolist() for name, frame in (model.history or {}).items()}
    predicted = model.predict(model.treatments.perturbations[0])
    Path(out, f"rank{rank}.json").write_text(json.dumps(
        {"digest": digest, "history": history, "finite": bool(np.isfinite(predicted.X).all())}))

if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"decoder": "attention", "likelihood": "nb"}, {"distribution_loss": "adversarial"}, {"preset": "paper"}],
    ids=["default", "attention nb", "adversarial", "paper"],
)
def test_two_processes_train_one_model(tmp_path, kwargs):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), json.dumps(kwargs)],
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["digest"] == ranks[1]["digest"]
    assert ranks[0]["finite"]
    history = ranks[0]["history"]
    assert {"train_loss", "validation_loss", "pearson_shift_validation", "divergence_train"} <= set(history)
    for name, values in history.items():
        assert np.isfinite(values).all(), name
    assert len(history["train_loss"]) == 3
