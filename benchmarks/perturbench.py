"""Doses and combinations of the perturbench file (Norman 2019, McFaline-Figueroa 2024), some of them held out.

The file is small and its signal weak: this shows that combinations and doses work, not how accurate the model can be.
Needs the folder named by SCGRAPHVCI_REAL_DATA. ``python benchmarks/perturbench.py --help`` lists the options.
"""

from __future__ import annotations

import anndata as ad
import pandas as pd
import torch
from _common import (
    NETWORKS,
    console,
    differences,
    graph_models,
    means,
    motif_prior,
    real_data,
    real_data_parser,
    save_table,
    score_splits,
    seconds_note,
)

import scgraphvci as sgv
from scgraphvci._reproduce import RECIPES

RECIPE = RECIPES["perturbench"]
METRICS = ["pearson_perturbed", "weighted_r2", "centroid_accuracy", "r2", "r2_de", "pearson_shift"]
TITLE = "Combinations and doses of the perturbench file"


def main() -> None:
    """Run the benchmark."""
    args = real_data_parser(__doc__, list(NETWORKS)).parse_args()
    adata = ad.read_h5ad(real_data("perturbench_devel_500genes.h5ad"))
    console.print(sgv.grn.add_grn(adata, motif_prior()), highlight=False)
    pairs = pd.concat(score_splits(adata, RECIPE, graph_models(args), args.seeds), ignore_index=True)
    is_combination = pairs["treatment"].str.contains(RECIPE.combination_sep, regex=False)
    pairs["held out"] = is_combination.map({True: "combination", False: "stratum"})
    notes = (
        f"{adata.n_obs} cells. {RECIPE.note} True means are those of about 100 cells: noise alone keeps correlations "
        "of weak shifts far below 1, as the duplicates show. K562 cells were activated (CRISPRa), the others repressed "
        f"(CRISPRi). Seeds: {args.seeds}. {seconds_note(pairs)} {torch.get_num_threads()} thread(s)."
    )
    frame = differences(pairs, METRICS, ["treatment", "dose", "cell_type"], ["held out"])
    about = "Positive where the model is better; 95 % intervals from resampling treatments, averaged over seeds."
    save_table(frame, f"{TITLE}: differences to the best simple baseline", args.out, "perturbench_differences", about)
    save_table(means(pairs, METRICS, ["held out"]), TITLE, args.out, "perturbench", notes)


if __name__ == "__main__":
    main()
