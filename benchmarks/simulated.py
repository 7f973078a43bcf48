"""Simulated screens with known truth: treatments held out in cell types, with several networks and none.

``python benchmarks/simulated.py --help`` lists the options. Scores are against the noise-free truth.
"""

from __future__ import annotations

import pandas as pd
import torch
from _common import console, mean_scores, parser, refine, save_table, train

import scgraphvci as sgv
from scgraphvci.baselines import ContextShift, NoChange
from scgraphvci.evaluate import METRICS, evaluate_pairs

COVARIATES = ["cell_type", "donor"]
MODELS = {
    "VCI (no GRN)": None,
    "GraphVCI, prior GRN": "grn",
    "GraphVCI, refined GRN": "grn_refined",
    "GraphVCI, degree-matched random GRN": "grn_random",
    "GraphVCI, true GRN": "grn_true",
}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--n-cells", type=int, default=4000)
    options.add_argument("--n-genes", type=int, default=500)
    options.add_argument("--n-perturbations", type=int, default=20)
    options.add_argument("--interaction", type=float, default=0.75, help="how far cell types gate edges, 0 to 1")
    options.add_argument("--name", default="simulated", help="name of the files written")
    args = options.parse_args()

    models = {name: key for name, key in MODELS.items() if args.rows is None or name in args.rows}
    parts, seconds = [], []
    for seed in args.seeds:
        adata = sgv.datasets.simulate(
            args.n_cells, args.n_genes, args.n_perturbations, interaction=args.interaction, seed=seed
        )
        truth = sgv.datasets.truth(adata)
        sgv.grn.add_grn(adata, sgv.grn.degree_matched_random(sgv.grn.get_grn(adata, "grn"), seed), "grn_random")
        if "grn_refined" in models.values():
            seconds.append(("refinement", refine(adata, COVARIATES, seed, args.refine_epochs)))
        setup = {"categorical_covariate_keys": COVARIATES}
        for cls, name in ((NoChange, "no change"), (ContextShift, "context shift")):
            baseline = {name: cls(adata, split_key="split", **setup)}
            parts.append(evaluate_pairs(baseline, baselines=None, groupby="cell_type", truth=truth).assign(seed=seed))
        for name, grn_key in models.items():
            model, time = train(adata, {**setup, "grn_key": grn_key}, seed, args.epochs)
            scores = evaluate_pairs({name: model}, baselines=None, groupby="cell_type", truth=truth)
            parts.append(scores.assign(seed=seed))
            seconds.append((name, time))
            shown = scores[list(METRICS)].mean().round(3).to_dict()
            console.print({"seed": seed, "model": name, **shown, "s": round(time)}, highlight=False)
    table = mean_scores(pd.concat(parts), "seed")
    spent = pd.DataFrame(seconds, columns=["what", "seconds"]).groupby("what", sort=False)["seconds"].mean().round(1)
    notes = (
        f"{args.n_cells} cells x {args.n_genes} genes, {args.n_perturbations} perturbations, interaction "
        f"{args.interaction}; half of the perturbations are held out in one cell type each. Predictions start from the "
        "control cells of that type; R2 DE: the 50 genes of largest true shift. "
        f"Mean seconds on {torch.get_num_threads()} thread(s): {spent.to_dict()}."
    )
    for metric in METRICS:
        save_table(table[metric], f"Simulated screens, {metric} by seed", args.out, f"{args.name}_{metric}", notes)
    save_table(table.xs("mean", axis=1, level="seed"), "Simulated screens, mean over seeds", args.out, args.name, notes)


if __name__ == "__main__":
    main()
