"""Training on two processes; CPU and gloo, as a cluster without GPUs would."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

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

# What is drawn depends on the cells of a minibatch alone, and one process takes the minibatches of two: put together,
# or in turn with one step for both. 240 training cells make 5 steps, 62 validation cells two minibatches and a smaller
# one; their number is even, for Lightning halves it to a whole number, by which it divides the validation loss.
SAME = """
import json, os, sys, zlib
from pathlib import Path
import numpy as np
import scvi
import torch
from scvi.dataloaders import BatchDistributedSampler
from torch.utils.data import DataLoader, Subset
import scgraphvci as sgv
from scgraphvci._constants import KEYS
from scgraphvci.train import CounterfactualPlan, SplitByColumn, _plan
from scgraphvci.train._loader import ScreenDataset

class Rows(ScreenDataset):
    def __getitem__(self, indexes):
        return super().__getitem__(np.asarray(indexes))

class OfTwo(BatchDistributedSampler):
    def __init__(self, cells, *, together):
        super().__init__(cells, batch_size=48, num_replicas=1, rank=0)
        self.cells, self.together = np.asarray(cells), together

    def __iter__(self):
        for batch in super().__iter__():
            for part in [batch] if self.together else [batch[0::2], batch[1::2]]:
                yield self.cells[part]

    def __len__(self):
        return 5 if self.together else 10

def by_one(together):
    def loader(splitter):
        data = Rows(splitter.adata_manager)
        return DataLoader(data, sampler=OfTwo(splitter.train_idx, together=together), batch_size=None)
    SplitByColumn.train_dataloader = loader

def draw_by_batch():
    step = CounterfactualPlan._step
    def seeded(plan, batch, **kwargs):
        torch.manual_seed(zlib.crc32(batch[KEYS.OUTCOME].numpy().tobytes()))
        return step(plan, batch, **kwargs)
    CounterfactualPlan._step = seeded

def draw_nothing():
    _plan.draw_counterfactual = lambda condition, frequency: (condition + 1) % len(frequency)
    torch.distributions.Normal.rsample = lambda self, shape: self.mean.expand(*shape, *self.mean.shape)

def main(out, processes, target, kwargs):
    adata = sgv.datasets.simulate(n_cells=320, n_genes=40, n_perturbations=4, n_cell_types=2, n_donors=2, seed=0)
    layer = "counts" if kwargs.get("likelihood", "normal") != "normal" else None
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], grn_key="grn", layer=layer)
    scvi.settings.seed = 0
    model = sgv.GraphVCI(adata, n_hidden=16, n_latent=4, n_graph_hidden=8, distribution_target=target, **kwargs)
    draw_nothing() if target == "cell" else draw_by_batch()
    if processes == 2:
        where = {"devices": 2, "strategy": "ddp_find_unused_parameters_true"}
    else:
        by_one(together=target == "cell")
        where = {"devices": 1, "accumulate_grad_batches": 1 if target == "cell" else 2}
    cells = np.random.default_rng(0).permutation(320)
    model.train(max_epochs=4, accelerator="cpu", batch_size=24, check_val_every_n_epoch=1, enable_progress_bar=False,
                logger=None, datasplitter_kwargs={"external_indexing": [cells[:240], cells[240:302], cells[302:]]},
                **where)
    history = {name: frame.astype(float).to_numpy().ravel().tolist() for name, frame in model.history.items()}
    fixed, learned = dict(model.module.named_buffers()), dict(model.module.named_parameters())
    rank = int(os.environ.get("LOCAL_RANK", 0))
    torch.save({"history": history, "fixed": fixed, "learned": learned}, Path(out, f"{processes}_{rank}.pt"))

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
"""


def run(folder, script, *arguments):
    path = folder / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, str(path), str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"decoder": "attention", "likelihood": "nb"}, {"distribution_loss": "adversarial"}, {"preset": "paper"}],
    ids=["default", "attention nb", "adversarial", "paper"],
)
def test_two_processes_train_one_model(tmp_path, kwargs):
    run(tmp_path, SCRIPT, json.dumps(kwargs))
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["digest"] == ranks[1]["digest"]
    assert ranks[0]["finite"]
    history = ranks[0]["history"]
    assert {"train_loss", "validation_loss", "pearson_shift_validation", "divergence_train"} <= set(history)
    for name, values in history.items():
        assert np.isfinite(values).all(), name
    assert len(history["train_loss"]) == 3


@pytest.mark.parametrize(
    ("target", "kwargs"),
    [("stratum", {}), ("stratum", {"likelihood": "nb"}), ("cell", {}), ("cell", {"preset": "paper"})],
    ids=["default, in turn", "nb, in turn", "single cells, together", "paper, together"],
)
def test_two_processes_do_what_one_does_at_the_same_global_batch(tmp_path, target, kwargs):
    for processes in (1, 2):
        run(tmp_path, SAME, str(processes), target, json.dumps(kwargs))
    one, two, other = (torch.load(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    assert {"train_loss", "validation_loss", "r2_validation", "pearson_shift_validation"} <= set(one["history"])
    assert set(one["history"]) == set(two["history"])
    for name, values in one["history"].items():
        assert len(values) == 4, name
        np.testing.assert_allclose(two["history"][name], values, rtol=2e-4, atol=1e-5, err_msg=name)
    assert one["history"]["train_loss"][-1] < one["history"]["train_loss"][0] - 1e-3
    for name, values in one["fixed"].items():  # moments and the model of stratum means: of all cells in each process
        torch.testing.assert_close(two["fixed"][name], values, rtol=0, atol=0, msg=name)
    for name, values in one["learned"].items():
        torch.testing.assert_close(two["learned"][name], other["learned"][name], rtol=0, atol=0, msg=name)
        torch.testing.assert_close(two["learned"][name], values, rtol=1e-2, atol=1e-4, msg=name)
