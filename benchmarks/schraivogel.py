"""CRISPRi screen of Schraivogel 2020 (TAP-seq): half of the treatments held out of one sample at a time.

The panel of 72 genes leaves next to no edges of any network, so that only VCI, the model without one, is trained.
Needs the folder named by SCGRAPHVCI_REAL_DATA. ``python benchmarks/schraivogel.py --help`` lists the options.
"""

from __future__ import annotations

import anndata as ad
import pandas as pd
import torch
from _common import (
    console,
    differences,
    graph_models,
    means,
    real_data,
    real_data_parser,
    save_table,
    score_splits,
    seconds_note,
)

from scgraphvci._reproduce import RECIPES

RECIPE = RECIPES["schraivogel"]
METRICS = ["pearson_perturbed", "weighted_r2", "centroid_accuracy", "r2", "pearson_shift"]
TITLE = "Schraivogel 2020, treatments held out of a sample"


def main() -> None:
    """Run the benchmark."""
    args = real_data_parser(__doc__, ["VCI"]).parse_args()
    adata = RECIPE.prepare(ad.read_h5ad(real_data("schraivogel20_k562_72genes.h5ad")))
    parts = []
    for pairs in score_splits(adata, RECIPE, graph_models(args), args.seeds):
        parts.append(pairs)
        console.print(f"seed {pairs['seed'].iloc[0]}, held out of {pairs['split'].iloc[0]}")
    pairs = pd.concat(parts, ignore_index=True)
    notes = (
        f"{adata.n_obs} cells x {adata.n_vars} genes. {RECIPE.note} The strongest effect of a treatment is on its "
        "target gene. The samples are replicates of one line, so that the context shift is nearly a repeated "
        f"experiment. Seeds: {args.seeds}. {seconds_note(pairs)} {torch.get_num_threads()} thread(s)."
    )
    frame = differences(pairs, METRICS, ["treatment", "sample"])
    about = "Positive where the model is better; 95 % intervals from resampling treatments, averaged over seeds."
    save_table(frame, f"{TITLE}: differences to the best simple baseline", args.out, "schraivogel_differences", about)
    save_table(means(pairs, METRICS), TITLE, args.out, "schraivogel", notes)


if __name__ == "__main__":
    main()
