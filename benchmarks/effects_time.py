"""Time and memory of marginal effects and joint bands on arrays, beside a naive implementation in the same run.

100 strata x 50 treatments x 5,000 genes, 1,000 multipliers; predictions come in batches from a function, and no array
of cells x genes x treatments is formed. Rows: 20 clusters per stratum, and independent cells (50 random groups for the
bands). Each runs in a process of its own, on one thread, so that its peak memory is its own. Seconds are those of the
processor. ``python benchmarks/effects_time.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from scgraphvci.estimate import EffectSums, Groups, MarginalEffects, marginal_effects
from scgraphvci.estimate._multiplier import signs

RESULTS = Path(__file__).parent / "results"
N_DRAWS = 1000
BATCH = 1000


class Screen:
    """Cells of the same number in every stratum and arm, with outcomes and predictions made batch by batch."""

    def __init__(self, options: argparse.Namespace) -> None:
        n_arms = options.treatments + 1  # arm 0 is the reference
        per_stratum = n_arms * options.cells
        self.n_genes, self.n_strata = options.genes, options.strata
        self.stratum = np.repeat(np.arange(options.strata), per_stratum)
        self.arm = np.tile(np.repeat(np.arange(n_arms), options.cells), options.strata)
        cell = np.tile(np.arange(per_stratum), options.strata)
        self.cluster = cell % options.clusters if options.clusters else None

    def batch(self, cells: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Outcomes, predictions under the treatment and under the reference, float32."""
        rng = np.random.default_rng(cells.start)
        state = rng.standard_normal((len(self.arm[cells]), self.n_genes), dtype=np.float32)
        return state + (self.arm[cells] > 0)[:, None], np.float32(0.8) * state + 1, np.float32(0.7) * state


def add_cells(sums: EffectSums, screen: Screen, group: np.ndarray, treatment: int) -> float:
    """Add all cells; return the seconds that took without those of the predictions."""
    seconds = 0.0
    for start in range(0, len(group), BATCH):
        here = slice(start, start + BATCH)
        outcome, predicted, reference = screen.batch(here)
        begin = time.process_time()
        sums.update(outcome, predicted, reference, screen.arm[here] == treatment, screen.arm[here] == 0, group[here])
        seconds += time.process_time() - begin
    return seconds


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds and memory of one row."""
    compile_loops(options)
    screen = Screen(options)
    groups, group = Groups.from_codes(screen.stratum, screen.cluster)
    sums = EffectSums(groups, screen.n_genes)
    add_cells(sums, screen, group, treatment=2)
    begin = time.process_time()
    sums.clear()  # as between treatments: their memory is used again
    seconds = time.process_time() - begin + add_cells(sums, screen, group, treatment=1)
    frame, genes = pd.DataFrame({"stratum": range(options.strata)}), [f"g{g}" for g in range(options.genes)]

    def all_treatments() -> Iterator[tuple[str, EffectSums]]:
        for t in range(options.treatments):
            yield f"t{t}", sums

    begin, wall = time.process_time(), time.perf_counter()
    effects = marginal_effects(all_treatments(), strata=frame, genes=genes, keep_influence="bands")
    estimated, waited = time.process_time() - begin, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if (effects.bands.method != "multiplier_bootstrap").any():
        sys.exit("Some rows have no bootstrap: give every arm more cells.")
    n_values = len(group) * options.genes * options.treatments
    return {
        "cells": len(group),
        "effects and bands (s)": estimated,
        "wall clock (s)": waited,
        "peak memory (GiB)": peak,
        "sums over cells (s)": seconds * options.treatments,
        "ns per prediction summed": seconds * options.treatments / n_values * 1e9,
        **frames(effects),
        **naive(screen, options),
    }


def compile_loops(options: argparse.Namespace) -> None:
    """Do the same for a small screen: compiled loops are made, or read from their cache, once per process."""
    small = Screen(argparse.Namespace(strata=1, treatments=2, genes=8, cells=50, clusters=options.clusters))
    groups, group = Groups.from_codes(small.stratum, small.cluster)
    sums = EffectSums(groups, small.n_genes)
    add_cells(sums, small, group, treatment=1)
    marginal_effects([("t", sums)], strata=pd.DataFrame(index=[0]), genes=range(8), keep_influence="bands")


def frames(effects: MarginalEffects) -> dict[str, float]:
    """Seconds and memory of frames: of one row, and of one treatment at a time."""
    begin = time.process_time()
    effects.to_frame(treatments="t0", strata={"stratum": 0}, joint=True)
    one = time.process_time() - begin
    largest = 0
    begin = time.process_time()
    for name in effects.treatments:
        largest = max(largest, effects.to_frame(treatments=name, joint=True).memory_usage(deep=False).sum())
    every = time.process_time() - begin
    return {"frame of a row (s)": one, "frames by treatment (s)": every, "largest frame (GiB)": largest / 2**30}


def naive(screen: Screen, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the textbook way for one stratum and treatment, times their number.

    Influence values of every cell, their sums by cluster from pandas, and a loop over multipliers.
    """
    cells = slice(0, int((screen.stratum == 0).sum()))
    outcome, predicted, reference = (value.astype(np.float64) for value in screen.batch(cells))
    arm = screen.arm[cells]
    cluster = np.arange(len(arm)) % 50 if screen.cluster is None else screen.cluster[cells]
    begin = time.process_time()
    value = predicted - reference - (predicted - reference).mean(axis=0)
    for code, sign, mean in ((1, 1, predicted), (0, -1, reference)):
        mine = arm == code
        residual = outcome[mine] - mean[mine]
        value[mine] += sign * len(arm) / mine.sum() * (residual - residual.mean(axis=0))
    totals = pd.DataFrame(value).groupby(cluster).sum().to_numpy() / len(arm)
    largest = []
    for multipliers in signs(len(totals), N_DRAWS, 0).astype(np.float64):
        drawn = multipliers[:, None] * totals
        spread = np.sqrt(((drawn - drawn.mean(axis=0)) ** 2).sum(axis=0))
        largest.append(np.abs(drawn.sum(axis=0) / spread).max())
    np.quantile(largest, 0.95)
    seconds = time.process_time() - begin
    return {"naive (s)": seconds * options.strata * options.treatments}


def main() -> None:
    """Run the benchmark, or one row of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--strata", type=int, default=100)
    options.add_argument("--treatments", type=int, default=50)
    options.add_argument("--genes", type=int, default=5000)
    options.add_argument("--cells", type=int, default=20, help="cells of every stratum and arm")
    options.add_argument("--out", type=Path, default=RESULTS)
    options.add_argument("--clusters", type=int, default=None, help="measure one row in this process: 0 for none")
    args = options.parse_args()
    if args.clusters is not None:
        print(json.dumps(measure(args)))
        return
    from _common import save_table

    rows = {}
    for clusters, name in ((20, "20 clusters per stratum"), (0, "independent cells")):
        sizes = [f"--{key}={getattr(args, key)}" for key in ("strata", "treatments", "genes", "cells")]
        found = subprocess.run(
            [sys.executable, __file__, f"--clusters={clusters}", *sizes],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        row = json.loads(found.stdout.splitlines()[-1])
        rows[name] = row | {"naive / ours": row["naive (s)"] / row["effects and bands (s)"]}
    notes = (
        f"{args.strata} strata x {args.treatments} treatments x {args.genes:,} genes, {N_DRAWS:,} multipliers, one "
        "thread. Seconds are of the processor but for the wall clock, which other processes lengthen. `effects and "
        "bands`: estimates, errors, leak tests and joint bands of all treatments, given their sums. `sums over cells` "
        "is the one pass over the predictions of all cells under all treatments, which grows with their number: the "
        "second treatment summed was timed, its seconds scaled, and its sums used for all. The naive way (influence "
        "values of every cell, sums by cluster, a loop over multipliers; no leak tests) was timed on one stratum and "
        "treatment and scaled."
    )
    table = pd.DataFrame(rows).T.rename_axis("design")
    save_table(table, "Marginal effects on arrays", args.out, "effects_time", notes)


if __name__ == "__main__":
    main()
