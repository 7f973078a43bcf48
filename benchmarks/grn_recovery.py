"""How well refined networks recover the true one on simulated screens, beside prior, correlation and regression.

``python benchmarks/grn_recovery.py --help`` lists the options. ``--refine "evidence_weight=0.01"`` gives options of
``sgv.tl.refine_grn`` (or of ``sgv.GRNRefiner``); given several times, every one is a row of its own.
"""

from __future__ import annotations

import inspect
import time
from typing import Any

import pandas as pd
from _common import keyword_arguments, parser, save_table

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training

COLUMNS = {"perturbation_key": "perturbation", "categorical_covariate_keys": ["cell_type", "donor"]}
METRICS = ["auprc", "early_precision", "auroc"]
SCOPES = ["all", "within", "outside"]
SIMULATE = {"n_cells": 5000, "n_perturbations": 20}
ANY_CONFIDENCE = 1e-9
NOTES = """
Simulated screens of 5,000 cells with 20 perturbations; only training cells are used. Candidates are all pairs of a
regulator and another gene; "within" and "outside" are those in the prior and those that are not. Networks are ranked by
weight; edges not listed tie. "refined" ranks all confidences, "refined, cut" only those above the threshold. "random"
is a graph with the degrees of the prior.
"""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--genes", type=int, nargs="+", default=[200, 400, 800], help="sizes of the screens")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--refine", action="append", metavar="KEY=VALUE,...", help="options of a refinement")
    options.add_argument("--no-refinement", action="store_true", help="score prior and baselines only")
    options.add_argument("--grnboost2", action="store_true", help="score boosted trees too, which are slow")
    options.add_argument("--matched", action="store_true", help="cut all to the edges of the smallest refined network")
    args = options.parse_args()
    settings = {} if args.no_refinement else {_name(text): keyword_arguments(text) for text in args.refine or [""]}
    runs = pd.concat([run(n_genes, seed, settings, args) for n_genes in args.genes for seed in args.seeds])
    keys = ["genes", "predictor"]
    means = runs.groupby(keys, sort=False).mean(numeric_only=True).drop(columns="seed")
    if len(args.seeds) > 1:
        spread = runs.groupby(keys, sort=False).std(numeric_only=True)
        for column in [name for name in means if name.startswith(tuple(SCOPES))]:
            means.insert(means.columns.get_loc(column) + 1, f"{column} sd", spread[column])
    seeds = f"Seeds {', '.join(map(str, args.seeds))}."
    save_table(means, "Recovery of true networks", args.out, "grn_recovery", NOTES + seeds)


def run(n_genes: int, seed: int, settings: dict[str, dict[str, Any]], args: Any) -> pd.DataFrame:
    """Refine and score on one screen: one row for each network and baseline."""
    adata = sgv.datasets.simulate(n_genes=n_genes, seed=seed, **SIMULATE)
    nets, seconds = {}, {}
    for name, options in settings.items():
        start = time.perf_counter()
        with quiet_training(seed):
            nets[name] = refine(adata, seed, args.epochs, options)
        seconds[name] = time.perf_counter() - start
        threshold = options.get("threshold", inspect.signature(sgv.tl.refine_grn).parameters["threshold"].default)
        nets[f"{name}, cut"] = nets[name][nets[name]["weight"] > threshold]
    truth = sgv.grn.get_grn(adata, "grn_true")
    common = {
        "candidates": list(adata.var_names[adata.var["is_regulator"]]),
        "prior": "grn",
        "adata": adata,
        "seed": seed,
        "split_key": "split",
        "n_edges": "matched" if args.matched else None,
        **COLUMNS,
    }
    table = sgv.grn.evaluate(nets or {"truth": truth}, truth, **common)
    if args.grnboost2:
        boosted = sgv.grn.evaluate(nets or {"truth": truth}, truth, baselines=["grnboost2"], **common)
        table = pd.concat([table, boosted[boosted["predictor"] == "grnboost2"]])
    wide = table.pivot(index="predictor", columns="scope", values=METRICS)
    wide.columns = [f"{scope} {metric}" for metric, scope in wide.columns]
    wide = wide.loc[table["predictor"].unique(), [f"{scope} {metric}" for scope in SCOPES for metric in METRICS]]
    wide["edges"] = table[table["scope"] == "all"].set_index("predictor")["n_edges"]
    wide["seconds"] = pd.Series(seconds)
    return wide.assign(genes=n_genes, seed=seed).reset_index()


def refine(adata: Any, seed: int, epochs: int | None, options: dict[str, Any]) -> pd.DataFrame:
    """Refine the prior of a screen and return the confidences of all edges."""
    own = {k: v for k, v in options.items() if k in inspect.signature(sgv.tl.refine_grn).parameters}
    model_kwargs = {k: v for k, v in options.items() if k not in own}
    call: dict[str, Any] = {
        "split_key": "split",
        **COLUMNS,
        "max_epochs": epochs,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        **own,
        "threshold": ANY_CONFIDENCE,
    }
    refined = sgv.tl.refine_grn(adata, seed=seed, model_kwargs=model_kwargs, copy=True, **call)
    return sgv.grn.get_grn(refined, "grn_refined")


def _name(text: str) -> str:
    return f"refined, {text}" if text else "refined"


if __name__ == "__main__":
    main()
