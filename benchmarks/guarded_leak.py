"""What a leak does to `robust`, its guard and its status, on simulated arrays.

``python benchmarks/guarded_leak.py`` writes ``coverage_guard``. No model is trained. Cells have states and a variance
along the effect of the treatment; predictions contain a share of the effect that the cell received. As in a screen of
many arms that leak alike, the guard is given the variance between arms, in units of the variance between cells.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _common import save_table
from interval_coverage import CELLS_AT_ONCE, N_FACTORS, N_GENES, genes

from scgraphvci.estimate import EffectSums, Groups, marginal_effects

ALONG_EFFECT = 0.5
"""Standard deviation of cells along the effect, of which a leak cannot be told by looking at one cell."""
NOISE = 1.1
DESIGNS = [(2_000, 0.05), (2_000, 0.3), (20_000, 0.05)]
LEAKS = [0.0, 0.05, 0.1, 0.25, 0.5]
PREDICTIONS = {"strong": 1.0, "weak": 0.2}
"""Share of a cell's state that predictions know: weak ones let leaks be found that are small beside the errors."""
NOTE = (
    f"{N_GENES} genes, {N_FACTORS} common factors; coverage and bias are over genes with an effect. Bias is in "
    "standard errors, along the effect; `test` is the share of screens in which the test of a leak rejects at .05."
)


def simulate(
    n_cells: int, share: float, leak: float, known: float, n_screens: int, rng: np.random.Generator
) -> tuple[EffectSums, np.ndarray]:
    """Sums of a batch of screens of one stratum, and true effects ``(n_genes,)``."""
    loading, effect = genes()
    screen = np.repeat(np.arange(n_screens), n_cells)
    order = np.argsort(rng.random((n_screens, n_cells)), axis=1)
    treated = (order < round(share * n_cells)).ravel()
    state = rng.normal(size=(len(screen), N_FACTORS)) @ loading
    state += ALONG_EFFECT * rng.normal(size=(len(screen), 1)) * effect
    outcome = state + treated[:, None] * effect + NOISE * rng.normal(size=state.shape)
    predicted_reference = known * state + leak * treated[:, None] * effect
    groups, group = Groups.from_codes(screen, seed=int(rng.integers(2**31)))
    sums = EffectSums(groups, N_GENES)
    sums.update(outcome, predicted_reference + effect, predicted_reference, treated, ~treated, group)
    return sums, effect


def row(n_cells: int, share: float, leak: float, known: float, n_screens: int) -> dict[str, float]:
    """Means over screens."""
    rng = np.random.default_rng([n_cells, round(100 * share)])
    size = min(n_screens, max(1, CELLS_AT_ONCE // n_cells))
    between = (leak / ALONG_EFFECT) ** 2 / (N_FACTORS + 1)
    batches = []
    for start in range(0, n_screens, size):
        n_here = min(size, n_screens - start)
        sums, effect = simulate(n_cells, share, leak, known, n_here, rng)
        hit = effect != 0
        of_batch: dict[str, np.ndarray] = {}
        for name, arm_variance in (("no guard", 0.0), ("guard", between)):
            made = marginal_effects(
                [("a", sums)], strata=pd.DataFrame({"screen": range(n_here)}), genes=range(N_GENES),
                arm_variance=arm_variance,
            )  # fmt: skip
            inside = ((made.ci_low <= effect) & (effect <= made.ci_high))[0][:, hit]
            error = np.sign(effect[hit]) * ((made.robust - effect) / made.std_error)[0][:, hit]
            of_batch[f"covers, {name}"] = inside.mean(axis=1)
            of_batch[f"bias, {name}"] = error.mean(axis=1)
            of_batch[f"leak_detected, {name}"] = made.status[0] == "leak_detected"
            of_batch["test"] = made.leaks.p_value[0] <= 0.05  # of the model, whatever the guard
        batches.append(pd.DataFrame(of_batch))
    return pd.concat(batches).astype(float).mean().to_dict()


def run(out: Path, n_screens: int) -> None:
    """Write the table."""
    rows = []
    for predictions, known in PREDICTIONS.items():
        for n_cells, share in DESIGNS:
            # A screen of 20,000 cells takes ten times as long and is as many times as precise.
            screens = n_screens if n_cells <= 2_000 else n_screens // 2
            for leak in LEAKS:
                key = {"predictions": predictions, "cells": n_cells, "treated": share, "leak": leak, "screens": screens}
                rows.append(key | row(n_cells, share, leak, known, screens))
    table = pd.DataFrame(rows).set_index(["predictions", "cells", "treated", "leak"])
    table.insert(1, "test", table.pop("test"))
    save_table(table, "A leak, with and without the guard", out, "coverage_guard", NOTE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screens", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    run(arguments.out, arguments.screens)
