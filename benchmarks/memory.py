"""Estimated and measured peak memory of training, effects and refinement.

Every screen is measured in a process of its own: the largest resident size of a stage above the size before it. What is
loaded with the first model of a process (Lightning and the like) is loaded before. Two training steps are made, for
more would take no more memory. Needs Linux and glibc, which let peaks be reset and freed memory be returned.
``python benchmarks/memory.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import torch
from _common import RESULTS, console, save_table
from scipy import sparse

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training
from scgraphvci.datasets._simulate import write_simulated

KEYS = {"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split"}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
SHORT: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2, **QUIET}
PAPER = {"preset": "paper"}
# Cells, genes, perturbations, expression, network, arguments of the model, batch, treatments, arguments of the refiner.
SCREENS: list[tuple[int, int, int, str, bool, dict[str, Any], int | None, int | None, dict[str, Any]]] = [
    (2_000, 500, 20, "csr", True, {}, None, None, {}),
    (5_000, 2_000, 20, "dense", True, PAPER, None, 10, {"candidates": "all"}),
    (5_000, 500, 20, "dense", False, PAPER, 512, None, {}),
    (4_000, 1_000, 50, "csr", True, {"likelihood": "nb", "propagation": "none"}, None, 50, PAPER),
    (20_000, 500, 10, "backed", True, {}, 512, 10, {}),
    (3_000, 5_000, 10, "dense", True, {"distribution_loss": "mmd", "propagation": "none"}, 512, 10, {}),
    (10_000, 1_000, 500, "csr", False, {"propagation": "none"}, None, 10, {}),
    (50_000, 500, 10, "csr", False, {}, None, 10, {}),
    (5_000, 2_000, 20, "csr", True, {"decoder": "attention", "propagation": "none"}, 2_048, 10, {}),
]
NOTES = """
`sgv.estimate_memory` beside the growth of the largest resident size, in MiB, on one thread. Simulated screens of three
cell types and three donors; about a fifth of the values of sparse expression are stored. Refinement has the regulators
of the prior network as sources of candidate edges, or "all" genes. The libraries, 0.7 GiB, and expression come on top
of both columns. Constants of the estimate, such as tensors per layer, were set with most of these rows in view.
"""


def main() -> None:
    """Run the benchmark, or with --screen one of its screens."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--screens", type=int, nargs="+", default=list(range(len(SCREENS))))
    options.add_argument("--out", type=Path, default=RESULTS)
    options.add_argument("--screen", nargs=2, metavar=("NUMBER", "FILE"), help="for the benchmark's own use")
    args = options.parse_args()
    if args.screen:
        number, path = args.screen
        console.print_json(json.dumps(measure(int(number), Path(path))))
        return
    rows = []
    for number in args.screens:
        rows += one_screen(number)
        frame = pd.DataFrame(rows).set_index("cells")
        save_table(frame, "Memory, estimated and measured", args.out, "memory", NOTES)


def one_screen(number: int) -> list[dict[str, Any]]:
    """Make a screen, measure its stages, remove it."""
    n_cells, n_genes, n_perturbations, kind, *_ = SCREENS[number]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "screen.h5ad"
        shape = {"n_genes": n_genes, "n_perturbations": n_perturbations, "n_cell_types": 3, "n_donors": 3}
        write_simulated(path, n_cells, seed=0, **shape)
        command = [sys.executable, __file__, "--screen", str(number), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"Screen {number}: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads(done.stdout[done.stdout.index("{") :])
    rows = []
    for stage, sizes in found.items():
        about = {
            "cells": n_cells,
            "genes": n_genes,
            "expression": kind,
            "stage": stage,
            "with": describe(number, stage),
        }
        rows.append({**about, **sizes, "estimated / measured": sizes["estimated"] / sizes["measured"]})
        console.print(rows[-1])
    return rows


def describe(number: int, stage: str) -> str:
    """Say what is special about a stage of a screen."""
    *_, has_network, model, batch, n_treatments, refiner = SCREENS[number]
    if stage == "refinement":
        return ", ".join(map(str, refiner.values())) or "default"
    if stage == "effects":
        return f"{n_treatments or 'all'} treatments"
    words = list(map(str, model.values()))
    words += [] if has_network else ["no network"]
    words += [f"batch {batch}"] if batch else []
    return ", ".join(words) or "default"


def measure(number: int, path: Path) -> dict[str, dict[str, float]]:
    """Estimate and measure the stages of a screen in this process."""
    torch.set_num_threads(1)
    _, _, _, kind, has_network, model_kwargs, batch, n_treatments, refiner_kwargs = SCREENS[number]
    network = {"grn_key": "grn"} if has_network else {}
    with quiet_training(0):
        warm_up()
        adata = read(path, kind, counts="likelihood" in model_kwargs)
        sgv.GraphVCI.setup_anndata(adata, **network, **KEYS)
        if has_network:
            sgv.GRNRefiner.setup_anndata(adata, perturbation_key="perturbation", **network, **KEYS)
        asked = {"batch_size": batch, "n_treatments": n_treatments, "refiner_kwargs": refiner_kwargs}
        estimated = sgv.estimate_memory(adata, **asked, **model_kwargs)["bytes"]

        def train() -> sgv.GraphVCI:
            model = sgv.GraphVCI(adata, **model_kwargs)
            model.train(batch_size=batch, **SHORT)
            return model

        def refine() -> sgv.GRNRefiner:
            model = sgv.GRNRefiner(adata, **refiner_kwargs)
            model.train(**SHORT)
            return model

        model, measured = growth(train)
        names = [name for name in model.treatments.names if name != model.treatments.control]
        found = {"training": measured, "effects": growth(partial(model.marginal_effect, names[:n_treatments]))[1]}
        del model
        if has_network:
            _, found["refinement"] = growth(refine)
    return {k: {"estimated": float(estimated[k]) / 2**20, "measured": v / 2**20} for k, v in found.items()}


def warm_up() -> None:
    """Run every stage once on a tiny screen."""
    adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    keys = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}
    sgv.GraphVCI.setup_anndata(adata, grn_key="grn", **keys)
    model = sgv.GraphVCI(adata)
    model.train(max_epochs=1, **QUIET)
    model.marginal_effect()
    sgv.GRNRefiner.setup_anndata(adata, grn_key="grn", perturbation_key="perturbation", **keys)
    sgv.GRNRefiner(adata).train(max_epochs=1, **QUIET)


def read(path: Path, kind: str, *, counts: bool) -> ad.AnnData:
    """Read a screen; expression stays as it is, becomes dense, or stays in the file."""
    adata = ad.read_h5ad(path, backed="r" if kind == "backed" else None)
    if counts:
        adata.X = sparse.csr_matrix(adata.X.floor())
    if kind == "dense":
        adata.X = adata.X.toarray()
    return adata


def growth(stage: Callable[[], Any]) -> tuple[Any, float]:
    """Run a stage; return its result, and the bytes by which the largest resident size exceeds that before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak becomes the present size
    before = resident("VmRSS")
    result = stage()
    return result, resident("VmHWM") - before


def resident(name: str) -> float:
    """Return a line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith(name)))


if __name__ == "__main__":
    main()
