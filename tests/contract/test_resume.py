"""A training killed at any moment goes on from its last checkpoint, and ends as one that was left alone."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow
EPOCHS = 30
SCRIPT = """
import sys, warnings
from pathlib import Path
import numpy as np, scvi
from lightning.pytorch.callbacks import ModelCheckpoint
import scgraphvci as sgv

warnings.simplefilter("ignore")
folder, epochs, ckpt_path = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None
adata = sgv.datasets.simulate(n_cells=240, n_genes=40, n_perturbations=4, n_cell_types=2, n_donors=2, seed=0)
sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn")
scvi.settings.seed = 3
model = sgv.GraphVCI(adata, n_hidden=16, n_latent=4, n_graph_hidden=8, dropout_rate=0.1)
checkpoint = ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, logger=None, enable_checkpointing=True,
            callbacks=[checkpoint], ckpt_path=ckpt_path, batch_size=32)
weights = {name: value.numpy() for name, value in model.module.state_dict().items()}
np.savez(folder / "done.npz", predicted=model.predict("control", source="all").X, **weights)
"""


def start(script, folder, ckpt_path=None):
    arguments = [sys.executable, str(script), str(folder), str(EPOCHS), *([str(ckpt_path)] if ckpt_path else [])]
    return subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


def last_checkpoint(folder):
    """The checkpoint of the last epoch, None if there is none."""
    numbers = {int(re.search(r"epoch=(\d+)", path.name)[1]): path for path in folder.glob("epoch=*.ckpt")}
    return (max(numbers), numbers[max(numbers)]) if numbers else (-1, None)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "train.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def undisturbed(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(script, folder))
    with np.load(folder / "done.npz") as found:
        return dict(found)


@pytest.mark.parametrize(
    ("number", "seed"),
    [(signal.SIGKILL, 0), (signal.SIGTERM, 1), (signal.SIGKILL, 2)],
    ids=["KILL", "TERM", "KILL too"],
)
def test_killed_training_resumes_to_the_same_result(script, undisturbed, tmp_path, number, seed):
    process = start(script, tmp_path)
    try:
        while last_checkpoint(tmp_path)[1] is None and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0.0, 0.6))
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert not (tmp_path / "done.npz").exists(), "the training was over before it could be killed"
    epoch, checkpoint = last_checkpoint(tmp_path)
    assert 0 <= epoch < EPOCHS - 1
    finish(start(script, tmp_path, checkpoint))
    with np.load(tmp_path / "done.npz") as found:
        assert set(found.files) == set(undisturbed)
        for name, expected in undisturbed.items():
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
