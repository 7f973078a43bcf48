"""What the benchmarks share: data, training and tables."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from rich.console import Console

import scgraphvci as sgv

console = Console(width=160)
RESULTS = Path(__file__).parent / "results"
METRICS = ("r2", "r2_de", "pearson_shift")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--out", type=Path, default=RESULTS, help="folder for the csv and markdown tables")
    options.add_argument("--epochs", type=int, default=None, help="epochs of every model; its default if left out")
    options.add_argument("--refine-epochs", type=int, default=None, help="epochs of the refiner")
    options.add_argument("--rows", nargs="+", default=None, help="names of the models to train; all if left out")
    return options


def real_data(name: str) -> Path:
    """Path of a file in the folder that SCGRAPHVCI_REAL_DATA names."""
    folder = os.environ.get("SCGRAPHVCI_REAL_DATA")
    if not folder:
        sys.exit("Set SCGRAPHVCI_REAL_DATA to the folder that holds the data.")
    path = Path(folder) / name
    if not path.is_file():
        sys.exit(f"{path} does not exist.")
    return path


def random_split(n: int, seed: int, share: float = 0.8) -> np.ndarray:
    """Draw "train" and "test" 4 : 1."""
    return np.where(np.random.default_rng(seed).random(n) < share, "train", "test").astype(object)


def load_kang(*, transferred: bool = True, n_genes: int = 1500) -> ad.AnnData:
    """Read Kang 2018: `n_genes` highly variable genes of all cells, normalised to 1,000 counts and log1p.

    The layer "counts" keeps counts. Cells whose label was transferred from neighbours are dropped on request.
    """
    adata = ad.read_h5ad(real_data("kang18_merged_counts.h5ad"))
    if not transferred:
        adata = adata[adata.obs["cell_type_source"] != "transferred"].copy()
    adata.layers["counts"] = adata.X.copy()
    threads = torch.get_num_threads()
    sc.pp.normalize_total(adata, target_sum=1e3)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=n_genes)
    torch.set_num_threads(threads)  # numba, which scanpy calls, raises torch's number too
    return adata[:, adata.var["highly_variable"]].copy()


def motif_prior() -> pd.DataFrame:
    """Read the promoter-motif network: source, target, weight (number of motif collections with the edge)."""
    net = pd.read_csv(real_data("promoter_motif_human.tsv.gz"), sep="\t")
    return net.rename(columns={"n_resources": "weight"})[["source", "target", "weight"]]


def refine(adata: ad.AnnData, covariates: Sequence[str], seed: int, epochs: int | None) -> float:
    """Refine ``varp["grn"]`` into ``varp["grn_refined"]`` from train cells; return the seconds it took."""
    start = time.perf_counter()
    sgv.tl.refine_grn(
        adata,
        split_key="split",
        categorical_covariate_keys=list(covariates),
        seed=seed,
        max_epochs=epochs,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    return time.perf_counter() - start


def train(
    adata: ad.AnnData, setup: Mapping[str, Any], seed: int, epochs: int | None, **model_kwargs: Any
) -> tuple[sgv.GraphVCI, float]:
    """Set up and train a GraphVCI; return it and the seconds it took."""
    sgv.settings.seed = seed
    sgv.settings.verbosity = logging.ERROR
    logging.getLogger("lightning").setLevel(logging.ERROR)
    sgv.GraphVCI.setup_anndata(adata, split_key="split", **setup)
    model = sgv.GraphVCI(adata, **model_kwargs)
    start = time.perf_counter()
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    return model, time.perf_counter() - start


def save_table(frame: pd.DataFrame, title: str, out: Path, name: str, notes: str = "") -> None:
    """Write a frame as csv and markdown, and print it."""
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / f"{name}.csv", float_format="%.4f")
    text = f"# {title}\n\n{notes.strip()}\n\n{to_markdown(frame)}\n"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def to_markdown(frame: pd.DataFrame) -> str:
    """Markdown of a frame with its index as first columns."""
    flat = frame.reset_index()
    flat.columns = [" ".join(map(str, c)).strip() if isinstance(c, tuple) else str(c) for c in flat.columns]
    lines = ["| " + " | ".join(flat.columns) + " |", "|" + " --- |" * len(flat.columns)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in flat.itertuples(index=False)]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)


def mean_scores(pairs: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean of the metrics by predictor for each level of `by`, and their mean over levels."""
    table = pairs.groupby(["predictor", by], sort=False)[list(METRICS)].mean()
    mean = table.groupby("predictor", sort=False).mean()
    mean.index = pd.MultiIndex.from_product([mean.index, ["mean"]], names=table.index.names)
    return pd.concat([table, mean]).unstack(by).reindex(pairs["predictor"].unique())
