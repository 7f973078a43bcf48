"""Treatments that no training cell received: foretold responses against baselines, on screens with known truth.

``python benchmarks/unseen.py --help`` lists the options. Responses are those of the model of stratum means, which
predictions of unseen treatments start from; ``--model`` trains GraphVCI itself on one fold of every screen. Every
treatment is held out once. Intervals are measured by ``unseen_intervals.py``, real screens by ``unseen_real.py``.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
from _common import console, parser, save_table
from _unseen_screens import (
    METRICS,
    SCREEN,
    Fit,
    Screen,
    Truth,
    baselines,
    described,
    descriptors,
    folds,
    hidden_descriptors,
    load,
    network,
    ours,
    scores,
)  # fmt: skip

import scgraphvci as sgv

SMALLER = SCREEN | {"n_cells": 3000, "n_genes": 200}  # for models that are trained


def run(seed: int) -> pd.DataFrame:
    """Scores of all predictors on one screen, for unseen treatments and for pairs with one or two unseen members."""
    screen = load(seed, **SCREEN)
    rng = np.random.default_rng(seed)
    prior = sgv.grn.get_grn(screen.adata, "grn")
    nets = {"prior": screen.genes.network, "true": network(screen.adata, sgv.grn.get_grn(screen.adata, "grn_true"))}
    random = network(screen.adata, sgv.grn.degree_matched_random(prior, seed))
    entrants: dict[tuple[str, str], Fit] = {}
    for label, net in nets.items():
        entrants[label, "GraphVCI"] = ours(screen, net)
        entrants.update({(label, name): fit for name, fit in baselines(screen, descriptors(screen, net)).items()})
    drug = hidden_descriptors(screen, rng)
    entrants["descriptors", "GraphVCI"] = described(screen, drug)
    entrants["descriptors", "shuffled descriptors"] = described(screen, rng.permutation(drug))
    entrants.update({("descriptors", name): fit for name, fit in baselines(screen, drug).items()})
    entrants["control", "random graph"] = ours(screen, random)
    entrants["control", "no graph"] = ours(screen._replace(genes=screen.genes._replace(network=None)))
    entrants["control", "shuffled targets"] = ours(screen, gene=rng.permutation(screen.seen.gene))
    held_out = list(folds(len(screen.names), seed))
    pairs = [_pairs(screen, held, rng) for held in held_out]
    rows = []
    for (label, name), fit in entrants.items():
        tables: dict[str, dict[str, np.ndarray]] = {"single": {}, "pair, 1 seen": {}, "pair, 0 seen": {}}
        truths: dict[str, dict[str, np.ndarray]] = {key: {} for key in tables}
        for held, of_fold in zip(held_out, pairs, strict=True):
            predict = fit(np.setdiff1d(np.arange(len(screen.names)), held))
            for t in held:
                tables["single"][screen.names[t]], truths["single"][screen.names[t]] = predict(t), screen.effects[t]
            for kind, a, b, true in of_fold:
                other = predict(b) if b in held else screen.seen.response[b] * screen.scale
                tables[kind][f"{a}+{b}"], truths[kind][f"{a}+{b}"] = predict(a) + other, true
        for kind, table in tables.items():
            rows.append(
                {"task": kind, "network": label, "predictor": name, "seed": seed} | scores(screen, table, truths[kind])
            )
    console.print({"seed": seed, "done": True})
    return pd.DataFrame(rows)


def _pairs(screen: Screen, held: np.ndarray, rng: np.random.Generator) -> list[tuple[str, int, int, np.ndarray]]:
    """Pairs of every held-out treatment with a seen one and with another held-out one, and their true effects."""
    seen = np.setdiff1d(np.arange(len(screen.names)), held)
    truth, found = Truth(screen.adata), []
    for position, a in enumerate(held):
        for kind, b in (("pair, 1 seen", rng.choice(seen)), ("pair, 0 seen", held[position - 1])):
            effect = truth.effect(f"{screen.names[a]}+{screen.names[b]}")
            found.append((kind, int(a), int(b), effect))
    return found


def train_models(seed: int, epochs: int | None) -> pd.DataFrame:
    """Train GraphVCI with one fold of treatments held out; score it by `Evaluation` beside all simple baselines."""
    adata = sgv.datasets.simulate(seed=seed, **SMALLER)
    names = list(adata.obs["perturbation"].cat.categories)[1:]
    held = [names[t] for t in next(folds(len(names), seed))]
    is_held = adata.obs["perturbation"].isin(held).to_numpy()
    adata.obs["split"] = np.where(is_held, "ood", adata.obs["split"].astype(str))
    sgv.settings.seed = seed
    models = {}
    for label, key in (("GraphVCI, prior", "grn"), ("GraphVCI, true graph", "grn_true")):
        sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key=key)
        models[label] = sgv.GraphVCI(adata)
        models[label].train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    evaluation = sgv.Evaluation(models, adata, truth=sgv.datasets.truth(adata), duplicates=False, seed=seed)
    return evaluation.pairs().assign(seed=seed)


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--model", action="store_true", help="train GraphVCI on one fold of every screen")
    args = options.parse_args()
    warnings.filterwarnings("ignore", message="No training cell received")
    sgv.settings.verbosity = logging.ERROR
    if args.model:
        pairs = pd.concat([train_models(seed, args.epochs) for seed in args.seeds])
        columns = ["pearson_shift", "weighted_mse", "weighted_r2", "centroid_accuracy"]
        table = pairs.groupby("predictor", sort=False)[columns].mean()
        save_table(table, "GraphVCI on unseen treatments", args.out, "unseen_model", f"Seeds {args.seeds}.")
    else:
        frame = pd.concat([run(seed) for seed in args.seeds])
        table = frame.groupby(["task", "network", "predictor"], sort=False)[METRICS].agg(["mean", "std"])
        save_table(table, "Unseen treatments on simulated screens", args.out, "unseen", f"Seeds {args.seeds}.")


if __name__ == "__main__":
    main()
