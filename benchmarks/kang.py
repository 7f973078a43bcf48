"""Interferon response of Kang 2018, held out in one cell type at a time, with the promoter-motif network.

Runs on all labelled cells, and on those whose label was published rather than transferred from neighbours. Rows are
added to one csv as they are computed, and predictors that are there already are not trained again. scGen is left
out, and the script says so, where pertpy with its JAX backend is not installed (``pip install "pertpy[jax]"``).
Needs the folder named by SCGRAPHVCI_REAL_DATA. ``python benchmarks/kang.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import anndata as ad
import pandas as pd
import torch
from _common import (
    NETWORKS,
    Fit,
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
from _scgen import ScGen, import_scgen

import scgraphvci as sgv
from scgraphvci._reproduce import RECIPES

RECIPE = RECIPES["kang"]
CELL_TYPES = ["B", "CD14+Mono", "CD4T", "CD8T", "Dendritic", "FCGR3A+Mono", "NK"]
LABELS = {"all": "all labelled cells", "published": "cells with a published label"}
METRICS = ["r2", "r2_de", "pearson_shift"]  # others need a second treatment
SCGEN = "scGen"


def main() -> None:
    """Run the benchmark."""
    options = real_data_parser(__doc__, [*NETWORKS, SCGEN])
    options.add_argument("--cell-types", nargs="+", choices=CELL_TYPES, default=CELL_TYPES, help="to hold out")
    options.add_argument("--labels", nargs="+", choices=list(LABELS), default=list(LABELS), help="cells to run on")
    options.add_argument("--name", default="kang", help="name of the files written")
    args = options.parse_args()
    models, left_out = fits(args)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.name}_conditions.csv"
    sizes = []
    for labels in args.labels:
        adata = load(published=labels == "published")
        sizes.append(f"{adata.n_obs} {LABELS[labels]}")
        for seed, split in product(args.seeds, args.cell_types):
            done = known(path, labels, seed, split)
            missing = {name: fit for name, fit in models.items() if name not in done}
            if not missing:
                continue
            for pairs in score_splits(adata, RECIPE, missing, [seed], [split]):
                rows = pairs[~pairs["predictor"].isin(done)].assign(labels=labels)
                rows.to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.5g")
                console.print(f"{labels}, seed {seed}, held out of {split}")
                console.print(rows.set_index("predictor")[[*METRICS, "seconds"]].round(3))
    pairs = pd.read_csv(path)
    write(pairs, args, notes(sizes, args, pairs, left_out))


def known(path: Path, labels: str, seed: int, split: str) -> set[str]:
    """Predictors that the file has scores of."""
    if not path.exists():
        return set()
    rows = pd.read_csv(path, usecols=["labels", "seed", "split", "predictor"])
    here = (rows["labels"] == labels) & (rows["seed"] == seed) & (rows["split"] == split)
    return set(rows.loc[here, "predictor"])


def fits(args: argparse.Namespace) -> tuple[dict[str, Fit], str]:
    """Return what trains the models, and what to say of one that cannot be imported."""
    models = graph_models(args)
    if SCGEN in args.models:
        try:
            import_scgen()
        except ImportError as error:
            left_out = f"scGen was left out: {error}."
            console.print(left_out, style="bold red", markup=False)
            return models, left_out
        models[SCGEN] = lambda adata, setup, seed: ScGen(adata, setup, seed, args.epochs)
    return models, ""


def load(*, published: bool) -> ad.AnnData:
    """Read, select and log-normalise cells, and add the motif network."""
    adata = ad.read_h5ad(real_data("kang18_merged_counts.h5ad"))
    if published:
        adata = adata[(adata.obs["cell_type_source"] != "transferred").to_numpy()].copy()
    adata = RECIPE.prepare(adata)
    report = sgv.grn.add_grn(adata, motif_prior())
    console.print(f"{adata.n_obs} cells x {adata.n_vars} genes; {report.edges_kept} edges of the prior")
    return adata


def notes(sizes: list[str], args: argparse.Namespace, pairs: pd.DataFrame, left_out: str) -> str:
    """What readers of the tables should know."""
    return (
        f"{RECIPE.note} {' or '.join(sizes)}. Predictions start from the control cells of the type; R2 DE: 50 genes of "
        f"largest Welch t. Seeds: {args.seeds}. VCI is GraphVCI without a network; the random graph has the degrees of "
        f"the prior. {seconds_note(pairs)} {torch.get_num_threads()} thread(s). {left_out}"
    )


def write(pairs: pd.DataFrame, args: argparse.Namespace, notes: str) -> None:
    """Write means over types, each type's scores, and differences to the best simple baseline."""
    title = "Kang 2018"
    for metric in METRICS:
        table = means(pairs, [metric], ["labels", "cell_type"])[metric].unstack("cell_type")
        table = table.reindex(means(pairs, [metric], ["labels"]).index)[args.cell_types]
        save_table(table, f"{title}, {metric} by held-out type", args.out, f"{args.name}_{metric}", notes)
    frame = differences(pairs, METRICS, ["cell_type"], ["labels"])
    about = "Positive where the model is better; 95 % intervals from resampling cell types, each averaged over seeds."
    save_table(frame, f"{title}, differences to the best simple baseline", args.out, f"{args.name}_differences", about)
    save_table(means(pairs, METRICS, ["labels"]), f"{title}, mean over cell types", args.out, args.name, notes)


if __name__ == "__main__":
    main()
