"""Nine kinds of simulated screens with known truth: GraphVCI, the comparison models and every simple baseline.

``python benchmarks/screens.py --help`` lists the options. Scores of stratum means are against noise-free means; the
scores of single cells against each cell's own noise-free counterfactual. Rows are added to one csv as they are
computed, and what is there already is not computed again: several runs may fill one table. ``--tables`` writes the
tables from it.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import console, parser
from _screen_tables import JUDGED, SINGLE, write_tables

import scgraphvci as sgv

COVARIATES = ["cell_type", "donor"]
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {"n_cells": 4000, "n_genes": 500, "n_perturbations": 20},
    "weak effects": {"n_cells": 4000, "n_genes": 500, "n_perturbations": 20, "effect_strength": 1.0},
    "few cells": {"n_cells": 1200, "n_genes": 500, "n_perturbations": 20},
    "many cells": {"n_cells": 12000, "n_genes": 500, "n_perturbations": 20},
    "5 treatments": {"n_cells": 4000, "n_genes": 500, "n_perturbations": 5},
    "100 treatments": {"n_cells": 10000, "n_genes": 1000, "n_perturbations": 100},
    "additive strata": {"n_cells": 4000, "n_genes": 500, "n_perturbations": 20, "interaction": 0.0},
    "interacting strata": {
        "n_cells": 6000, "n_genes": 500, "n_perturbations": 30,
        "n_cell_types": 6, "n_donors": 1, "interaction": 1.0,
    },
    "strong state": {"n_cells": 4000, "n_genes": 500, "n_perturbations": 20, "state_strength": 1.5},
}  # fmt: skip
NETWORKS = {
    "VCI": None,
    "GraphVCI": "grn",
    "GraphVCI, refined graph": "grn_refined",
    "GraphVCI, random graph": "grn_random",
    "GraphVCI, true graph": "grn_true",
}
DEEP = {
    "AE": sgv.baselines.AE,
    "CEVAE": sgv.baselines.CEVAE,
    "GANITE": sgv.baselines.GANITE,
    "CPA": sgv.baselines.CPA,
}
# What the defaults are worth: GraphVCI with one of them changed. Arguments of the model, then of the training plan.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no baseline, no gain": ({"baseline": False}, {}),
    "no gain": ({"response_gain": False}, {}),
    "expression as input": ({"residual_input": False}, {}),
    "each cell to its stratum": ({"distribution_target": "cell"}, {}),
    "gaussian distribution loss": ({"distribution_loss": "gaussian"}, {}),
    "mmd distribution loss": ({"distribution_loss": "mmd"}, {}),
    "mmd distribution loss, weight 20": ({"distribution_loss": "mmd", "covariate_weight": 20.0}, {}),
    "unobserved pairs free": ({}, {"hold_unobserved": False}),
    "no propagation": ({"propagation": "none"}, {}),
    "last weights": ({}, {"keep_best": False}),
    "distribution weight 0.5": ({"covariate_weight": 0.5}, {}),
    "distribution weight 10": ({"covariate_weight": 10.0}, {}),
    "divergence weight 0.2": ({"divergence_weight": 0.2}, {}),
    "attention decoder": ({"decoder": "attention"}, {}),
    "4 latent samples": ({"n_samples": 4}, {}),
    "latent 16": ({"n_latent": 16}, {}),
    "latent 64": ({"n_latent": 64}, {}),
    "width 64": ({"n_hidden": 64, "n_outcome_embedding": 64}, {}),
    "width 256": ({"n_hidden": 256, "n_outcome_embedding": 256}, {}),
    "treatment embedding 8": ({"n_treatment_embedding": 8}, {}),
    "2 graph layers": ({"n_graph_layers": 2}, {}),
    "dropout 0.1": ({"dropout_rate": 0.1}, {}),
    "learning rate 3e-3": ({}, {"lr": 3e-3}),
    "learning rate on plateau": ({}, {"reduce_lr_on_plateau": True}),
    "frozen encoder": ({}, {"frozen_encoder": True}),
}
N_LEAK = 3  # treatments whose leak is measured


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    known = [*NETWORKS, *DEEP, *VARIANTS]
    options.add_argument(
        "--models", nargs="+", choices=[*known, "variants"], default=["GraphVCI", "VCI", *DEEP],
        help="what to train; `variants` are all models with one default changed",
    )  # fmt: skip
    options.add_argument("--name", default="screens", help="name of the files written")
    options.add_argument("--tables", action="store_true", help="only write the tables from what was computed")
    args = options.parse_args()
    names = [name for word in args.models for name in (VARIANTS if word == "variants" else [word])]
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.name}_conditions.csv"
    if not args.tables:
        for seed in args.seeds:
            for setting in args.settings:
                run(setting, seed, names, args.epochs, path)
    write_tables(pd.read_csv(path), args.out, args.name, list(SETTINGS))


def run(setting: str, seed: int, models: list[str], epochs: int | None, path: Path) -> None:
    """Train what is missing on one screen, score it and add its rows to the table."""
    done = set()
    if path.exists():
        rows = pd.read_csv(path, usecols=["setting", "seed", "predictor"])
        done = set(rows.loc[(rows["setting"] == setting) & (rows["seed"] == seed), "predictor"])
    todo = [name for name in models if name not in done]
    if not todo:
        return
    adata = sgv.datasets.simulate(seed=seed, **SETTINGS[setting])
    truth = sgv.datasets.truth(adata)
    if "GraphVCI, random graph" in todo:
        sgv.grn.add_grn(adata, sgv.grn.degree_matched_random(sgv.grn.get_grn(adata, "grn"), seed), "grn_random")
    if "GraphVCI, refined graph" in todo:
        quiet = {"accelerator": "cpu", "enable_progress_bar": False}
        columns = {"split_key": "split", "categorical_covariate_keys": COVARIATES, "perturbation_key": "perturbation"}
        sgv.tl.refine_grn(adata, seed=seed, **columns, **quiet)
    shift = sgv.baselines.ContextShift(adata, categorical_covariate_keys=COVARIATES, split_key="split")
    for name in todo:
        model, seconds = train(adata, name, seed, epochs)
        simple = None if "context shift" in done else "simple"
        done.add("context shift")
        pairs = sgv.Evaluation(
            {name: model}, adata, baselines=simple, truth=truth, duplicates=False, min_cells=1, seed=seed
        ).pairs()
        single = pd.DataFrame([cell_scores(model, shift, adata, truth, row) for row in conditions(pairs, name)])
        pairs = pairs.merge(single, on=["predictor", "treatment", *COVARIATES], how="left")
        pairs.loc[pairs["predictor"] == name, ["seconds", "leak"]] = [seconds, leak(model, adata, truth)]
        pairs = pairs.assign(setting=setting, seed=seed)
        pairs.to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.5g")
        means = pairs.loc[pairs["predictor"] == name, [*JUDGED, *SINGLE]].mean().round(3).to_dict()
        console.print({"setting": setting, "seed": seed, "model": name, **means})


def train(adata: Any, name: str, seed: int, epochs: int | None) -> tuple[Any, float]:
    """Set up and train a model with its defaults; return it and the seconds it took."""
    sgv.settings.seed = seed
    sgv.settings.verbosity = logging.ERROR
    logging.getLogger("lightning").setLevel(logging.ERROR)
    cls = DEEP.get(name, sgv.GraphVCI)
    network = {} if name in DEEP else {"grn_key": NETWORKS.get(name, "grn")}
    model_kwargs, plan_kwargs = VARIANTS.get(name, ({}, {}))
    cls.setup_anndata(adata, categorical_covariate_keys=COVARIATES, split_key="split", **network)
    model = cls(adata, **model_kwargs)
    start = time.perf_counter()
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, plan_kwargs=plan_kwargs)
    return model, time.perf_counter() - start


def conditions(pairs: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """Held-out conditions of a predictor."""
    return pairs.loc[pairs["predictor"] == name, ["predictor", "treatment", *COVARIATES]].to_dict("records")


def cell_scores(model: Any, shift: Any, adata: Any, truth: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Compare predictions of single control cells of a stratum with their own true counterfactuals.

    `cell_error` is the squared error over that of the better of two reference predictors: the stratum's mean plus the
    context shift, and the cell plus the context shift. `individuality` is the correlation between predicted and true
    deviations of cells from the mean over cells, all genes together; `spread` the median over genes of the variance of
    sampled cells over that of true ones.
    """
    obs = adata.obs
    here = (obs["cell_type"] == row["cell_type"]) & (obs["donor"] == row["donor"]) & (obs["split"] != "ood")
    cells = np.flatnonzero(here & (obs["perturbation"] == "control"))
    true = truth.counterfactual_mean(row["treatment"], indices=cells)
    predicted = dense(model.predict(row["treatment"], indices=cells).X)
    moved = dense(shift.predict(row["treatment"], indices=cells).X)
    error, by_cell, by_stratum = (
        np.square(guess - true).mean() for guess in (predicted, moved, np.broadcast_to(moved.mean(axis=0), true.shape))
    )
    deviation, true_deviation = predicted - predicted.mean(axis=0), true - true.mean(axis=0)
    norm = np.sqrt(np.square(deviation).sum() * np.square(true_deviation).sum())
    held_out = np.flatnonzero(
        (obs["cell_type"] == row["cell_type"])
        & (obs["donor"] == row["donor"])
        & (obs["perturbation"] == row["treatment"])
    )
    drawn = dense(model.sample(row["treatment"], indices=cells, n_samples=1).X)
    return {
        **row,
        "cell_error": error / min(by_cell, by_stratum),
        "individuality": float((deviation * true_deviation).sum() / norm) if norm > 0 else np.nan,
        "spread": sgv.metrics.variance_ratio(dense(adata.X[held_out]), drawn),
    }


def leak(model: Any, adata: Any, truth: Any) -> float:
    """Shift between arms of what is predicted under control, along and relative to the true effect.

    In a randomised arm, treated and control cells of a stratum have the same control counterfactuals: what differs is
    treatment that leaked through the latent. Mean over strata of the projection on the true effect.
    """
    obs = adata.obs
    train = (obs["split"] == "train").to_numpy()
    stratum = obs.groupby(COVARIATES, observed=True).ngroup().to_numpy()
    control = np.flatnonzero(train & (obs["perturbation"] == "control").to_numpy())
    reference = dense(model.predict("control", indices=control).X)
    values = []
    for name in [name for name in obs["perturbation"].cat.categories if name != "control"][:N_LEAK]:
        treated = np.flatnonzero(train & (obs["perturbation"] == name).to_numpy())
        predicted = dense(model.predict("control", indices=treated).X)
        for x in np.unique(stratum[treated]):
            mine, theirs = stratum[treated] == x, stratum[control] == x
            if min(mine.sum(), theirs.sum()) < 5:
                continue
            cells = np.flatnonzero(stratum == x)
            effect = (truth.counterfactual_mean(name, cells) - truth.counterfactual_mean("control", cells)).mean(axis=0)
            difference = predicted[mine].mean(axis=0) - reference[theirs].mean(axis=0)
            values.append(difference @ effect / (effect @ effect))
    return float(np.mean(values))


def dense(values: Any) -> np.ndarray:
    """Dense copy of a matrix."""
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)


if __name__ == "__main__":
    main()
