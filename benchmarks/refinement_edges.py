"""What more steps do to refined networks: number of edges and ranking at the start, after 1 x and after 4 x the steps.

The default starts at evidence and stays near it. Without evidence, the null slot of the softmax keeps the level of each
row of logits in place; the plain softmax leaves it to the penalty, so that training longer removes edges.
``python benchmarks/refinement_edges.py --help`` lists the options.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from _common import console, parser, save_table
from anndata import AnnData

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training
from scgraphvci.model._refiner import DEFAULT_STEPS, DEFAULT_STEPS_EVIDENCE

SETUP = {
    "split_key": "split",
    "categorical_covariate_keys": ["cell_type", "donor"],
    "perturbation_key": "perturbation",
}
NETWORKS: dict[str, dict[str, Any]] = {
    "default": {},
    "without evidence": {"evidence": False},
    "plain softmax": {"evidence": False, "null_slot": False},
}
BATCH, THRESHOLD, ANY_CONFIDENCE = 64, 0.3, 1e-9
SCOPES = ["all", "within", "outside"]
NOTES = f"""
Simulated screens of 5,000 cells with 20 perturbations. 1 x the steps is what training takes by default,
{DEFAULT_STEPS_EVIDENCE} with evidence and {DEFAULT_STEPS:,} without. "edges" have a confidence above {THRESHOLD},
"prior" of them are edges of the prior. AUPRC is over all pairs of a regulator and another gene, over those "within" the
prior, and over those "outside". "ranking" is the Spearman correlation with the confidences of the row above.
"""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--genes", type=int, default=200)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--times", type=int, nargs="+", default=[0, 1, 4], help="multiples of the default steps")
    args = options.parse_args()
    runs = pd.DataFrame([row for seed in args.seeds for row in run(args.genes, seed, args.times)])
    keys = ["network", "steps"]
    table = runs.groupby(keys, sort=False).mean().drop(columns="seed")
    if len(args.seeds) > 1:
        spread = runs.groupby(keys, sort=False).std()
        for column in ("edges", *(f"{scope} auprc" for scope in SCOPES)):
            table.insert(table.columns.get_loc(column) + 1, f"{column} sd", spread[column])
    seeds = f"{args.genes} genes; mean and standard deviation over seeds {', '.join(map(str, args.seeds))}."
    save_table(table, "Edges and steps", args.out, "refinement_edges", NOTES + seeds)


def run(n_genes: int, seed: int, times: list[int]) -> list[dict[str, Any]]:
    """Refine one screen with every network, for each number of steps from the start."""
    adata = sgv.datasets.simulate(n_cells=5000, n_genes=n_genes, n_perturbations=20, seed=seed)
    rows = []
    for name, options in NETWORKS.items():
        before = None
        steps = DEFAULT_STEPS_EVIDENCE if options.get("evidence", True) else DEFAULT_STEPS
        for multiple in times:
            net = refine(adata, seed, multiple * steps, options)
            row = {"network": name, "steps": f"{multiple} x", "seed": seed, **scores(adata, net, before)}
            console.print(row)
            rows.append(row)
            before = net
    return rows


def refine(adata: AnnData, seed: int, n_steps: int, options: dict[str, Any]) -> pd.DataFrame:
    """Train for a number of steps and return all confidences."""
    sgv.GRNRefiner.setup_anndata(adata, **SETUP)
    with quiet_training(seed):
        model = sgv.GRNRefiner(adata, **options)
        train = np.flatnonzero(adata.obs["split"] == "train")
        if n_steps:
            epochs = round(n_steps / np.ceil(len(train) / BATCH))
            model.train(max_epochs=epochs, batch_size=BATCH, accelerator="cpu", enable_progress_bar=False)
        else:
            model._initialise(train)
            model.is_trained_ = True
    return model.get_refined_grn(ANY_CONFIDENCE)


def scores(adata: AnnData, net: pd.DataFrame, before: pd.DataFrame | None) -> dict[str, float]:
    """Count edges, and compare with the truth and with an earlier network."""
    kept = net[net["weight"] > THRESHOLD]
    table = sgv.grn.evaluate(
        {"refined": net},
        sgv.grn.get_grn(adata, "grn_true"),
        candidates=list(adata.var_names[adata.var["is_regulator"]]),
        prior="grn",
        adata=adata,
        baselines=[],
        **SETUP,
    )
    auprc = table[table["predictor"] == "refined"].set_index("scope")["auprc"]
    row = {"edges": len(kept), "prior": int(kept["in_prior"].sum()), **{f"{s} auprc": auprc[s] for s in SCOPES}}
    ranking = np.nan
    if before is not None:
        both = net.merge(before, on=["source", "target"])
        ranking = both["weight_x"].corr(both["weight_y"], method="spearman")
    return {**row, "ranking": ranking}


if __name__ == "__main__":
    main()
