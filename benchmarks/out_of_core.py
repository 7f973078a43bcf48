"""Seconds and memory of training and prediction on a file, by number of cells.

Simulated screens are written block by block to an .h5ad file with CSR expression in a temporary folder, which is
removed in the end, and read in backed mode. Training and each prediction run in a process of their own, so that peak
memory is theirs. ``python benchmarks/out_of_core.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import scvi
import torch
from _common import RESULTS, console, save_table
from lightning.pytorch.callbacks import Callback

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training
from scgraphvci.datasets._simulate import write_simulated

SCREEN = {"n_perturbations": 50, "n_cell_types": 3, "n_donors": 3, "seed": 0}
SETUP = {"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split", "grn_key": "grn"}
N_PREDICTED = 100_000
STAGES = ("train", "predict", "predict to a file")
NOTES = """
{genes:,} genes, {density:.0%} of them seen in a cell; the default model, batch {batch}. Seconds are processor time on
one thread, which other programs on the machine do not add to. "set-up" is `setup_anndata`; "before training" what
`train` does before the first step: moments of strata, residuals, and the cell-type deviations fitted to them; "epoch"
one pass over the training cells with validation after it. Predictions are of up to {predicted:,} cells: into memory, or
with `store=` into a file. Memory is the largest resident size of the process so far; the libraries and an open file
alone take the size given under "libraries".
"""


def main() -> None:
    """Run the benchmark, or with --stage one part of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cells", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    options.add_argument("--genes", type=int, default=2000)
    options.add_argument("--batch", type=int, default=512)
    options.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options.add_argument("--out", type=Path, default=RESULTS)
    options.add_argument("--stage", nargs=2, metavar=("STAGE", "FOLDER"), help="for the benchmark's own use")
    args = options.parse_args()
    if args.stage:
        stage, folder = args.stage
        console.print_json(json.dumps(measure(stage, Path(folder), args.batch)))
        return
    rows = []
    for n_cells in args.cells:
        rows.append(one_size(n_cells, args))
        frame = pd.DataFrame(rows).set_index("cells")
        numbers = {"genes": args.genes, "density": frame.pop("density").iloc[0], "batch": args.batch}
        notes = NOTES.format(**numbers, predicted=N_PREDICTED)
        save_table(frame, "Data larger than memory", args.out, "out_of_core", notes)


def one_size(n_cells: int, args: argparse.Namespace) -> dict[str, Any]:
    """Write a screen, measure all stages, remove it."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        path = Path(folder) / "screen.h5ad"
        write_simulated(path, n_cells, n_genes=args.genes, **SCREEN)
        console.print(f"{n_cells:,} cells written in {time.process_time() - start:.0f} s")
        row: dict[str, Any] = {"cells": n_cells, "file (GiB)": path.stat().st_size / 2**30}
        row["density"] = density(path)
        for stage in args.stages:
            command = [sys.executable, __file__, "--batch", str(args.batch), "--stage", stage, folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{stage}, {n_cells:,} cells: {done.stderr.strip().splitlines()[-1]}")
            row |= json.loads(done.stdout[done.stdout.index("{") :])
            console.print(row)
    return row


def density(path: Path) -> float:
    """Share of the values that are stored."""
    adata = ad.read_h5ad(path, backed="r")
    first = adata.X[:1000]
    adata.file.close()
    return first.nnz / (first.shape[0] * first.shape[1])


class Clock(Callback):
    """Notes time and memory when the first epoch starts and ends."""

    def __init__(self) -> None:
        self.started = self.ended = 0.0
        self.peak_before = 0.0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Note when the first step begins."""
        self.started, self.peak_before = time.process_time(), peak()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Note when the last step and validation are over."""
        self.ended = time.process_time()


def measure(stage: str, folder: Path, batch: int) -> dict[str, float]:
    """Measure a stage in this process."""
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    adata = ad.read_h5ad(folder / "screen.h5ad", backed="r")
    found = train(adata, folder, batch) if stage == "train" else predict(adata, folder, to_file=stage != "predict")
    adata.file.close()
    return found


def train(adata: ad.AnnData, folder: Path, batch: int) -> dict[str, float]:
    """Set up, train for an epoch, save."""
    libraries, start = peak(), time.process_time()
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    found = {"set-up (s)": time.process_time() - start, "libraries (GiB)": libraries, "set-up (GiB)": peak()}
    model, clock = sgv.GraphVCI(adata), Clock()
    start = time.process_time()
    with quiet_training(0):
        model.train(max_epochs=1, batch_size=batch, accelerator="cpu", enable_progress_bar=False, callbacks=[clock])
    model.save(folder / "model", save_anndata=False)
    return {
        **found,
        "before training (s)": clock.started - start,
        "before training (GiB)": clock.peak_before,
        "epoch (s)": clock.ended - clock.started,
        "epoch (GiB)": peak(),
    }


def predict(adata: ad.AnnData, folder: Path, *, to_file: bool) -> dict[str, float]:
    """Predict cells spread over the file."""
    model = sgv.GraphVCI.load(folder / "model", adata)
    cells = list(range(0, adata.n_obs, max(1, adata.n_obs // N_PREDICTED)))[:N_PREDICTED]
    start = time.process_time()
    where = {"store": folder / "predicted.h5ad"} if to_file else {}
    model.predict(model.treatments.perturbations[0], indices=cells, **where)
    name = "predict to a file" if to_file else "predict"
    return {f"{name} (s)": time.process_time() - start, f"{name} (GiB)": peak()}


def peak() -> float:
    """Largest resident size of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
