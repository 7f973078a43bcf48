"""Conformal intervals of unseen treatments and of unseen strata, on small screens with known truth.

``python benchmarks/unseen_intervals.py --help`` lists the options. Of every screen a fifth of the treatments are held
out, and some strata of others: how many of the true effects do their intervals hold?
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from _common import console, parser, save_table
from _unseen_screens import Screen, load, mean_model, subset

from scgraphvci.data._unseen_fit import fit_unseen
from scgraphvci.data._unseen_strata import fit_strata_errors

SMALL = {"n_cells": 1500, "n_genes": 60, "n_perturbations": 30, "n_regulators": 30, "n_donors": 1, "n_ood_pairs": 0}
N_HELD = 6  # treatments held out, and pairs of another treatment and a stratum
LARGE = 0.2
ALPHAS = (0.05, 0.1, 0.2)


def treatments(screen: Screen, held: np.ndarray) -> list[dict[str, float]]:
    """Coverage of the pooled effects of held-out treatments, one row per level."""
    rest = np.setdiff1d(np.arange(len(screen.names)), held)
    model = fit_unseen(subset(screen.seen, rest), screen.genes, screen.scale, log=False)
    effects = [model.predict(screen.seen.gene[t]) for t in held]
    shift, sd = (np.stack([getattr(effect, part) for effect in effects]) for part in ("shift", "sd"))
    noise = np.sqrt(screen.seen.noise[held])[:, None] * screen.scale
    observed = screen.seen.response[held] * screen.scale
    return [
        covered(shift, sd, model.margin(alpha), screen.effects[held])
        | {
            "level": 1 - alpha,
            "observed shift": (np.abs(shift - observed) <= model.margin(alpha) * np.hypot(sd, noise)).mean(),
        }
        for alpha in ALPHAS
    ]


def strata(screen: Screen, held: np.ndarray, rng: np.random.Generator) -> list[dict[str, float]]:
    """Coverage of effects in a stratum that is held out of each of some treatments, one row per level."""
    cell_type = pd.factorize(screen.adata.obs["cell_type"], sort=True)[0]
    treatment = pd.Categorical(screen.adata.obs["perturbation"], categories=screen.names).codes
    levels = np.arange(cell_type.max() + 1)[:, None]
    missing = [(int(rng.integers(len(levels))), int(t)) for t in held]
    gone = np.any([(cell_type == x) & (treatment == t) for x, t in missing], axis=0)
    fit, _ = mean_model(screen.adata[~gone], "cell_type", screen.names)
    errors = fit_strata_errors(*fit.regression, levels, len(screen.names), fit.scale)
    unit = np.eye(len(screen.names))
    shift = np.stack([fit.response(unit[[t]], levels[[x]])[0] for x, t in missing])
    sd = np.stack([errors.sd(x, t, one) for (x, t), one in zip(missing, shift, strict=True)])
    true = np.stack([screen.truth.by_stratum(screen.names[t])[x] for x, t in missing])
    return [covered(shift, sd, errors.margin(*missing[0], alpha), true) | {"level": 1 - alpha} for alpha in ALPHAS]


def covered(shift: np.ndarray, sd: np.ndarray, margin: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Share of true effects inside intervals: all, those that are large, and those that are foretold to be."""
    inside = np.abs(shift - true) <= margin * sd
    found = {"all": np.ones_like(inside), "true > .2": np.abs(true) > LARGE, "foretold > .2": np.abs(shift) > LARGE}
    shares = {name: inside[which].mean() if which.any() else np.nan for name, which in found.items()}
    return shares | {"half-width": (margin * sd).mean()}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--screens", type=int, default=200, help="number of small screens")
    args = options.parse_args()
    rows = []
    for seed in range(args.screens):
        screen = load(1000 + seed, **SMALL)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(screen.names))
        parts = {
            "treatment": treatments(screen, order[:N_HELD]),
            "stratum": strata(screen, order[N_HELD : 2 * N_HELD], rng),
        }
        rows += [{"unseen": kind, "seed": seed} | row for kind, part in parts.items() for row in part]
        if seed % 20 == 19:
            console.print({"screens": seed + 1})
    frame = pd.DataFrame(rows).drop(columns="seed")
    table = frame.groupby(["unseen", "level"], sort=False).agg(["mean", "std"])
    save_table(table, "Conformal intervals", args.out, "unseen_coverage", f"{args.screens} screens.")


if __name__ == "__main__":
    main()
