"""Many cycles of training, prediction, saving and loading in one process, whose memory must stay flat.

    python benchmarks/soak.py --cycles 200 --out benchmarks/results/soak.md

Each cycle makes a screen, trains a model for an epoch, predicts, estimates effects, saves the model with its data,
loads it and lets everything go. After a warm-up of a tenth of the cycles, resident memory and what Python holds
(tracemalloc) are noted after every cycle; the slope of a line through them is growth per cycle.
"""

from __future__ import annotations

import argparse
import gc
import resource
import tempfile
import time
import tracemalloc
import warnings
import weakref
from pathlib import Path

import numpy as np
import scvi
from _common import console

import scgraphvci as sgv

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": None, "enable_model_summary": False}
SCREEN = {"n_cells": 120, "n_genes": 30, "n_perturbations": 3, "n_cell_types": 2, "n_donors": 2}
SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split", "grn_key": "grn"}
MB = 1e6


def cycle(seed: int, folder: Path) -> list[weakref.ref]:
    """Run one cycle; return references to what must be gone after it."""
    adata = sgv.datasets.simulate(**SCREEN, seed=seed)
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    scvi.settings.seed = seed
    model = sgv.GraphVCI(adata, n_hidden=8, n_latent=3, n_graph_hidden=4)
    model.train(max_epochs=1, **QUIET)
    treatment = model.treatments.perturbations[0]
    expected = model.predict(treatment, source="all").X
    model.marginal_effect(min_cells=2)
    model.save(folder, overwrite=True, save_anndata=True)
    model.deregister_manager(adata)  # before its copy is loaded, which goes by the same identifier
    loaded = sgv.GraphVCI.load(folder)
    if not np.array_equal(loaded.predict(treatment, source="all").X, expected):
        msg = f"Cycle {seed}: the loaded model predicts something else."
        raise RuntimeError(msg)
    gone = [weakref.ref(thing) for thing in (adata, model, model.module, loaded, loaded.adata)]
    loaded.deregister_manager(loaded.adata)
    return gone


def resident_size() -> int:
    """Bytes of this process in memory now; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def slope(values: np.ndarray) -> tuple[float, float]:
    """Growth per cycle and its standard error."""
    x = np.arange(values.size) - (values.size - 1) / 2
    per_cycle = float(x @ values / (x @ x))
    residual = values - values.mean() - per_cycle * x
    return per_cycle, float(np.sqrt(residual @ residual / max(values.size - 2, 1) / (x @ x)))


def main() -> None:
    """Run the cycles and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    warm_up = max(arguments.cycles // 10, 2)
    resident, held, alive, start = [], [], 0, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        for number in range(arguments.cycles):
            gone = cycle(number, Path(folder) / "model")
            gc.collect()
            alive += sum(reference() is not None for reference in gone)
            if number >= warm_up:
                resident.append(resident_size() / MB)
                held.append(tracemalloc.get_traced_memory()[0] / MB)
    rows = [
        f"{arguments.cycles} cycles ({warm_up} of warm-up), {time.process_time() - start:.0f} s of CPU; "
        f"{alive} of {5 * arguments.cycles} models, modules and data were left.",
        "",
        "| memory | after warm-up (MB) | at the end (MB) | highest (MB) | growth per cycle (kB) | its error (kB) |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in {"resident": resident, "held by Python": held}.items():
        per_cycle, error = slope(np.array(values))
        rows.append(
            f"| {name} | {values[0]:.1f} | {values[-1]:.1f} | {max(values):.1f} | {per_cycle * 1e3:.1f} | "
            f"{error * 1e3:.1f} |"
        )
    table = "\n".join(rows) + "\n"
    console.print(table)
    if arguments.out:
        arguments.out.write_text(f"# Soak\n\n`python benchmarks/soak.py --cycles {arguments.cycles}`\n\n{table}")


if __name__ == "__main__":
    main()
