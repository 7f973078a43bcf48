"""What the benchmarks share: data, training, scores and tables."""

from __future__ import annotations

import argparse
import ast
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console

import scgraphvci as sgv
from scgraphvci._evaluation._summary import ScoreTable
from scgraphvci._quiet import quiet_training
from scgraphvci._reproduce import Recipe

console = Console(width=160)
RESULTS = Path(__file__).parent / "results"
NETWORKS = {
    "VCI": None,
    "GraphVCI": "grn",
    "GraphVCI, refined graph": "grn_refined",
    "GraphVCI, random graph": "grn_random",
}
N_BOOTSTRAP = 2000

Fit = Callable[[ad.AnnData, dict[str, Any], int], Any]
"""Trains a model on the cells that are not held out, given data, set-up and seed."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--out", type=Path, default=RESULTS, help="folder for the csv and markdown tables")
    options.add_argument("--epochs", type=int, default=None, help="epochs of every model; its default if left out")
    return options


def keyword_arguments(text: str) -> dict[str, Any]:
    """Read ``key=value,key=value``; values are Python literals or plain words."""
    pairs = [part.split("=", 1) for part in text.split(",") if part]
    return {key.strip(): _literal(value.strip()) for key, value in pairs}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def real_data_parser(description: str | None, models: Sequence[str]) -> argparse.ArgumentParser:
    """Options of the benchmarks on real data."""
    options = parser(description)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--models", nargs="+", choices=models, default=list(models))
    options.add_argument("--refine-epochs", type=int, default=None, help="epochs of the refiner")
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


def motif_prior() -> pd.DataFrame:
    """Read the promoter-motif network: source, target, weight (number of motif collections with the edge)."""
    net = pd.read_csv(real_data("promoter_motif_human.tsv.gz"), sep="\t")
    return net.rename(columns={"n_resources": "weight"})[["source", "target", "weight"]]


def graph_model(name: str, epochs: int | None, refine_epochs: int | None = None) -> Fit:
    """Return what trains GraphVCI with the network of that name, which is made first where the data lack it."""

    def fit(adata: ad.AnnData, setup: dict[str, Any], seed: int) -> sgv.GraphVCI:
        quiet: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
        network = NETWORKS[name]
        if network == "grn_refined":
            columns = {key: setup[key] for key in ("split_key", "categorical_covariate_keys")}
            sgv.tl.refine_grn(adata, key_added=network, seed=seed, max_epochs=refine_epochs, **columns, **quiet)
        if network == "grn_random":
            sgv.grn.add_grn(adata, sgv.grn.degree_matched_random(sgv.grn.get_grn(adata, "grn"), seed), network)
        sgv.GraphVCI.setup_anndata(adata, grn_key=network, **setup)
        model = sgv.GraphVCI(adata)
        model.train(max_epochs=epochs, **quiet)
        return model

    return fit


def graph_models(args: argparse.Namespace) -> dict[str, Fit]:
    """Return what trains the models that the options name."""
    return {name: graph_model(name, args.epochs, args.refine_epochs) for name in args.models if name in NETWORKS}


def score_splits(
    adata: ad.AnnData,
    recipe: Recipe,
    models: dict[str, Fit],
    seeds: Sequence[int],
    splits: Sequence[str] | None = None,
) -> Iterator[pd.DataFrame]:
    """Train and score every model on every seed and split, beside the simple baselines and duplicates.

    Parameters
    ----------
    adata
        Log-normalised data.
    recipe
        Columns, and what is held out.
    models
        What trains them, by name.
    seeds
        Of the splits and the models.
    splits
        Names of the splits to score; all if None.

    Yields
    ------
    For each split :meth:`scgraphvci.Evaluation.pairs` with the columns `seed`, `split` and `seconds` (of the training,
    any refinement included).
    """
    for seed in seeds:
        for split in recipe.splits(adata, recipe, seed):
            if splits is not None and split not in splits:
                continue
            trained: dict[str, Any] = {}
            seconds = {}
            with quiet_training(seed):
                for name, fit in models.items():
                    start = time.perf_counter()
                    trained[name] = fit(adata, recipe.setup, seed)
                    seconds[name] = time.perf_counter() - start
                trained["no change"] = sgv.baselines.NoChange(adata, **recipe.setup)
                pairs = sgv.Evaluation(trained, adata, seed=seed).pairs()
            yield pairs.assign(seed=seed, split=split, seconds=pairs["predictor"].map(seconds))


def means(pairs: pd.DataFrame, metrics: Sequence[str], by: Sequence[str] = ()) -> pd.DataFrame:
    """Mean over conditions in each seed, then mean and, with several seeds, standard deviation over seeds.

    Predictors without any score, such as duplicates that need a second treatment, have no row.
    """
    rows = [*by, "predictor"]
    runs = pairs.groupby([*rows, "seed"], sort=False)[list(metrics)].mean()
    over_seeds = runs.groupby(rows, sort=False)
    table = over_seeds.mean().dropna(how="all")
    if pairs["seed"].nunique() > 1:
        sd = over_seeds.std()
        for metric in metrics:
            table.insert(table.columns.get_loc(metric) + 1, f"{metric} sd", sd[metric])
    return table


def differences(
    pairs: pd.DataFrame, metrics: Sequence[str], condition: Sequence[str], by: Sequence[str] = ()
) -> pd.DataFrame:
    """Paired differences of the models to the best simple baseline, positive where the model is better.

    Every condition counts once: scores are averaged over seeds, unless conditions of different seeds are different
    ones. Of a model the conditions in which it was scored count, on which the best baseline is found too. Intervals
    come from resampling treatments (with seed and dose, where `condition` has them), all conditions of one together,
    or conditions where there are fewer than ten. A metric that is not defined in any condition has no row.

    Parameters
    ----------
    pairs
        Of :meth:`scgraphvci.Evaluation.pairs`, perhaps of several screens or seeds.
    metrics
        Which to compare by.
    condition
        Columns that make a condition.
    by
        Columns to compare within.
    """
    clusters = tuple(key for key in condition if key in ("seed", "treatment", "dose"))
    kinds = pairs.drop_duplicates("predictor").set_index("predictor")["kind"].to_dict()
    groups = pairs.groupby(list(by), sort=False) if by else [((), pairs)]
    rows = []
    for group, frame in groups:
        means = frame.groupby([*condition, "predictor"], dropna=False)[list(metrics)].mean().unstack("predictor")
        here = {name: kinds[name] for name in frame["predictor"].unique()}
        for model in [name for name, kind in here.items() if kind == "model"]:
            own = means[means.xs(model, axis=1, level="predictor").notna().any(axis=1)]
            scores = {name: own.xs(name, axis=1, level="predictor").reset_index(drop=True) for name in here}
            table = ScoreTable(own.index.to_frame(index=False), scores, here, N_BOOTSTRAP, 0, clusters)
            for metric in metrics:
                found = table.statistics(model, metric)
                numbers = [found[key] for key in ("difference", "difference_low", "difference_high", "n")]
                if np.isfinite(found["difference"]):
                    rows.append((*group, metric, model, table.best_baseline(metric), *numbers))
    index = [*by, "metric", "predictor"]
    return pd.DataFrame(rows, columns=[*index, "best baseline", "difference", "low", "high", "n"]).set_index(index)


def seconds_note(pairs: pd.DataFrame) -> str:
    """Return the mean seconds of a training, by model."""
    seconds = pairs.groupby("predictor", sort=False)["seconds"].mean().dropna().round(1)
    return f"Mean seconds of a training, refinement included: {seconds.to_dict()}."


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
