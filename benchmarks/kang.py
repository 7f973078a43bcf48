"""Interferon response of Kang 2018, held out in one cell type at a time, with the promoter-motif network.

Needs the folder named by SCGRAPHVCI_REAL_DATA. ``python benchmarks/kang.py --help`` lists the options.
"""

from __future__ import annotations

import pandas as pd
import torch
from _common import console, load_kang, mean_scores, motif_prior, parser, random_split, refine, save_table, train

import scgraphvci as sgv
from scgraphvci.baselines import ContextShift, NoChange
from scgraphvci.evaluate import METRICS, evaluate_pairs

TREATMENT = "IFNb"
COVARIATES = ["cell_type"]
MODELS = {"VCI (no GRN)": None, "GraphVCI, prior GRN": "grn", "GraphVCI, refined GRN": "grn_refined"}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--cell-types", nargs="+", default=None, help="cell types to hold out; all if left out")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--without-transferred", action="store_true", help="drop cells whose label was transferred")
    options.add_argument("--name", default="kang", help="name of the files written")
    args = options.parse_args()

    full = load_kang(transferred=not args.without_transferred)
    report = sgv.grn.add_grn(full, motif_prior())
    console.print(f"{full.n_obs} cells x {full.n_vars} genes; {report.edges_kept} edges of the prior")
    models = {name: key for name, key in MODELS.items() if args.rows is None or name in args.rows}
    parts, seconds = [], []
    for cell_type in args.cell_types or sorted(full.obs["cell_type"].unique()):
        adata = full.copy()
        split = random_split(adata.n_obs, args.seed)
        split[((adata.obs["cell_type"] == cell_type) & (adata.obs["perturbation"] == TREATMENT)).to_numpy()] = "ood"
        adata.obs["split"] = pd.Categorical(split)
        if "grn_refined" in models.values():
            seconds.append(("refinement", refine(adata, COVARIATES, args.seed, args.refine_epochs)))
        setup = {"categorical_covariate_keys": COVARIATES}
        for cls, name in ((NoChange, "no change"), (ContextShift, "context shift")):
            parts.append(evaluate_pairs({name: cls(adata, split_key="split", **setup)}, baselines=None))
        for name, grn_key in models.items():
            model, time = train(adata, {**setup, "grn_key": grn_key}, args.seed, args.epochs)
            parts.append(evaluate_pairs({name: model}, baselines=None))
            seconds.append((name, time))
            scores = parts[-1][list(METRICS)].iloc[0].round(3).to_dict()
            console.print({"held out": cell_type, "model": name, **scores, "s": round(time)}, highlight=False)
    table = mean_scores(pd.concat(parts), "cell_type")
    spent = pd.DataFrame(seconds, columns=["what", "seconds"]).groupby("what", sort=False)["seconds"].mean().round(1)
    notes = (
        f"{full.n_obs} cells x {full.n_vars} highly variable genes (chosen on all cells), normalised to 1,000 and "
        f"log1p. {TREATMENT} is held out in one cell type at a time; predictions start from the control cells of that "
        f"type. R2 DE: 50 genes of largest Welch t. One seed ({args.seed}). VCI is GraphVCI without a network. "
        f"Mean seconds on {torch.get_num_threads()} thread(s): {spent.to_dict()}."
    )
    for metric in METRICS:
        save_table(table[metric], f"Kang 2018, {metric}", args.out, f"{args.name}_{metric}", notes)
    mean = table.xs("mean", axis=1, level="cell_type")
    save_table(mean, "Kang 2018, mean over cell types", args.out, args.name, notes)


if __name__ == "__main__":
    main()
