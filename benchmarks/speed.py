"""Seconds of every part of the work, each beside a naive way or bare matrix products in the same run.

Steps: a training step of both decoders and two likelihoods, by genes, beside a decoder that forms the (cells x genes x
features) tensor and beside the bare products of all linear layers and heads with their gradients. Parts: prediction,
sampling, stratum moments, set-up, save and load. Epochs beside SCVI's on the same cells at the same batch size; with
``--full`` of 50,000 cells. Marginal effects have `effects_time.py`, refinement `refinement_time.py`. On one thread
seconds are of the processor, the least of several calls. ``python benchmarks/speed.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import scvi
import torch
from _common import RESULTS, console, save_table
from anndata import AnnData
from lightning.pytorch import Callback
from torch import nn

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training
from scgraphvci.data import stratum_moments
from scgraphvci.module import _decoders as decoders
from scgraphvci.train import CounterfactualPlan

COVARIATES = ["cell_type", "donor"]
EDGES_PER_GENE = 20
MODELS = {
    "default": {},
    "default, VCI": {"grn_key": None},
    "default, NB": {"likelihood": "nb"},
    "paper, attention": {"preset": "paper", "decoder": "attention"},
    "paper, dot": {"preset": "paper", "decoder": "dot"},
    "paper, attention, NB": {"preset": "paper", "decoder": "attention", "likelihood": "nb"},
}
TABLES = ["steps", "parts", "epochs"]
NAIVE_VALUES = 5e8  # most values of the naive decoder's tensor


def main() -> None:
    """Run the benchmark."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--genes", type=int, nargs="+", default=[500, 2000, 8000], help="of the training steps")
    options.add_argument("--cells", type=int, default=2048)
    options.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    options.add_argument("--repeats", type=int, default=10)
    options.add_argument("--threads", choices=["1", "all"], default="1")
    options.add_argument(
        "--only", nargs="+", choices=["steps", "parts", "epochs"], default=["steps", "parts", "epochs"]
    )
    options.add_argument("--full", action="store_true", help="epochs of 50,000 cells")
    options.add_argument("--out", type=Path, default=RESULTS)
    args = options.parse_args()
    if args.threads == "1":
        torch.set_num_threads(1)
    where = f"{torch.get_num_threads()} thread(s)"
    suffix = "" if args.threads == "1" else "_threads"
    if "steps" in args.only:
        rows = [row for n in args.genes for row in steps(screen(args.cells, n), args.models, args.repeats)]
        notes = f"{EDGES_PER_GENE} edges per gene, batch 128 (paper: 64 and 3 latent samples), {where}."
        save(rows, "Training step", args.out, f"speed_steps{suffix}", notes)
    if "parts" in args.only:
        notes = f"{args.cells:,} cells x 2,000 genes, {where}."
        save(parts(screen(args.cells, 2000), args.repeats), "Parts", args.out, f"speed_parts{suffix}", notes)
    if "epochs" in args.only:
        n_cells = 50_000 if args.full else args.cells
        save(epochs(screen(n_cells, 2000), 2 if args.full else 4), "Epoch", args.out, f"speed_epochs{suffix}",
             f"{n_cells:,} cells x 2,000 genes, {where}, without validation.")  # fmt: skip


def screen(n_cells: int, n_genes: int) -> AnnData:
    """Simulate a screen with a random network of the size of the paper's."""
    adata = sgv.datasets.simulate(n_cells, n_genes, 30, seed=0)
    rng = np.random.default_rng(0)
    genes = adata.var_names.to_numpy()
    n_edges = EDGES_PER_GENE * n_genes
    net = pd.DataFrame({"source": genes[rng.integers(n_genes // 10, size=n_edges)],
                        "target": genes[rng.integers(n_genes, size=n_edges)]})  # fmt: skip
    sgv.grn.add_grn(adata, net.drop_duplicates(), "grn")
    return adata


def build(adata: AnnData, grn_key: str | None = "grn", **settings: str) -> sgv.GraphVCI:
    """Set up and build a model, without deviations by level, whose fit before the first step would hide the rest."""
    layer = "counts" if "likelihood" in settings else None
    sgv.GraphVCI.setup_anndata(adata, layer=layer, categorical_covariate_keys=COVARIATES, grn_key=grn_key)
    return sgv.GraphVCI(adata, propagation="none", **settings)


def steps(adata: AnnData, names: list[str], repeats: int) -> Iterator[dict[str, float | str]]:
    """Time training steps."""
    for name in names:
        model = build(adata, **MODELS[name])
        step = stepper(model)
        ours, bare = seconds([step, bare_products(product_shapes(model, step))], repeats)
        head, n_cells = model.module.decoder.heads[0], (model.module.n_samples + 1) * model._preset.batch_size
        width = head.gene_score.out_features if hasattr(head, "gene_score") else np.inf  # VCI has no naive decoder
        naive = np.nan
        if n_cells * adata.n_vars * width <= NAIVE_VALUES:
            with naive_heads():
                (naive,) = seconds([step], 2)
        yield {"model": name, "genes": adata.n_vars, "ours (s)": ours, "naive decoder (s)": naive,
               "bare products (s)": bare, "naive / ours": naive / ours, "ours / bare": ours / bare}  # fmt: skip


def stepper(model: sgv.GraphVCI) -> Callable[[], None]:
    """Return a function that makes one training step on the same cells."""
    cells = np.arange(model.adata.n_obs)
    moments = model._moments(model._registered_cells(), cells)
    model.module.initialise(moments)
    plan = CounterfactualPlan(model.module, moments=moments)
    optimiser = torch.optim.Adam(model.module.parameters(), lr=3e-4, fused=True)
    n = model._preset.batch_size
    batch = next(iter(model._make_data_loader(adata=model.adata, indices=cells[:n], batch_size=n)))

    def step() -> None:
        optimiser.zero_grad()
        plan._step(dict(batch))[1].loss.backward()
        optimiser.step()

    return step


def product_shapes(model: sgv.GraphVCI, step: Callable[[], None]) -> list[tuple[int, int, int]]:
    """Record (rows, inner, columns) of every dense matrix product of a step."""
    shapes: list[tuple[int, int, int]] = []
    n_genes = model.summary_stats["n_vars"]

    def linear(layer: nn.Linear, inputs: tuple, output: torch.Tensor) -> None:
        shapes.append((inputs[0].numel() // layer.in_features, layer.in_features, layer.out_features))

    def head(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        n_products = 2 if isinstance(layer, decoders.AttentionHead) else 1
        shapes.extend([(*inputs[0].shape, n_genes)] * n_products)

    hooks = []
    for layer in model.module.modules():
        if isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_hook(linear))
        elif isinstance(layer, decoders.AttentionHead | decoders.DotHead):
            hooks.append(layer.register_forward_hook(head))
    step()
    for hook in hooks:
        hook.remove()
    return shapes


def bare_products(shapes: list[tuple[int, int, int]]) -> Callable[[], None]:
    """Return a function that makes these products and those of their two gradients."""
    arrays = [(torch.randn(n, k), torch.randn(k, m), torch.randn(n, m)) for n, k, m in shapes]

    def run() -> None:
        for left, right, gradient in arrays:
            torch.mm(left, right)
            torch.mm(gradient, right.T)
            torch.mm(left.T, gradient)

    return run


@contextmanager
def naive_heads() -> Iterator[None]:
    """Replace the decoder heads by ones that form the (cells x genes x features) tensor."""

    def attend(features: torch.Tensor, cell_score: torch.Tensor, gene_score: torch.Tensor) -> torch.Tensor:
        score = decoders._bounded(cell_score)[:, None, :] + decoders._bounded(gene_score)[None]
        return (torch.softmax(score, dim=-1) * features[:, None, :]).sum(dim=-1)

    def dot(self: nn.Module, features: torch.Tensor, genes: torch.Tensor) -> torch.Tensor:
        return (features[:, None, :] * self.gene_score(genes)[None]).sum(dim=-1)

    with mock.patch.object(decoders, "attend", attend), mock.patch.object(decoders.DotHead, "forward", dot):
        yield


def parts(adata: AnnData, repeats: int) -> Iterator[dict[str, float | str]]:
    """Time prediction, sampling, moments, set-up, save and load."""
    n, treatment, few = adata.n_obs, adata.obs["perturbation"].cat.categories[1], max(2, repeats // 3)

    def row(what: str, beside: str, calls: list[Callable[[], object]]) -> dict[str, float | str]:
        ours, other = seconds(calls, few)
        return {"part": what, "ours (s)": ours, "cells per second": n / ours, "beside": beside, "its seconds": other,
                "other / ours": other / ours}  # fmt: skip

    for name in ("default", "paper, attention", "paper, dot"):
        model = build(adata, **MODELS[name])
        fit(model, 1)
        calls = [lambda m=model: m.predict(treatment, source="all"), lambda m=model: m.sample(treatment, source="all")]
        with naive_heads():
            (naive,) = seconds([lambda m=model: m.predict(treatment, indices=range(256))], 1)
        naive *= n / 256
        yield row(f"prediction, {name}", "sampling", calls) | {"naive decoder (s)": naive}
    yield row("stratum moments", "pandas groupby", moment_calls(adata))
    yield row("set-up and model", "copy of X", [lambda: build(adata), adata.X.copy])
    with tempfile.TemporaryDirectory() as folder:
        target, weights = f"{folder}/model", f"{folder}/weights"
        save_calls = [
            lambda: model.save(target, overwrite=True),
            lambda: torch.save(model.module.state_dict(), weights),
        ]
        yield row("save", "torch.save of weights", save_calls)
        load_calls = [lambda: sgv.GraphVCI.load(target, adata, accelerator="cpu"), lambda: torch.load(weights)]
        yield row("load", "torch.load of weights", load_calls)


def moment_calls(adata: AnnData) -> list[Callable[[], object]]:
    """Return our moments, and means and variances by pandas from a dense frame."""
    stratum, condition = adata.obs.groupby(COVARIATES, observed=True).ngroup(), adata.obs["perturbation"].cat.codes
    n_strata, n_conditions = stratum.max() + 1, condition.max() + 1
    codes = stratum.to_numpy(), condition.to_numpy()

    def naive() -> object:
        dense = adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X
        groups = pd.DataFrame(dense).groupby([*codes])
        return groups.mean(), groups.var(ddof=0)

    return [lambda: stratum_moments(adata.X, *codes, n_strata, n_conditions, np.arange(adata.n_obs)), naive]


def epochs(adata: AnnData, n: int) -> Iterator[dict[str, float | str]]:
    """Time the least of `n` epochs, each beside one of SCVI at the same batch size."""
    for name, batch_size in (("default", 128), ("default, VCI", 128), ("paper, attention", 64)):
        scvi.model.SCVI.setup_anndata(adata, layer="counts", categorical_covariate_keys=COVARIATES)
        theirs = epoch(lambda: scvi.model.SCVI(adata), batch_size, n)
        ours = epoch(lambda name=name: build(adata, **MODELS[name]), batch_size, n)
        yield {"model": name, "batch": batch_size, "ours (s)": ours, "SCVI (s)": theirs, "ours / SCVI": ours / theirs}


def epoch(make: Callable[[], scvi.model.base.BaseModelClass], batch_size: int, n: int) -> float:
    """Least time of `n` epochs, from the start of one to that of the next: set-up does not count."""
    watch = EpochClock()
    fit(make(), n + 1, batch_size, [watch])
    return float(np.diff(watch.starts).min())


class EpochClock(Callback):
    """Reads the clock where epochs start."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_epoch_start(self, *args: Any) -> None:
        """Read the clock."""
        self.starts.append(clock())


def fit(
    model: scvi.model.base.BaseModelClass, n_epochs: int, batch_size: int = 128, callbacks: Sequence[Callback] = ()
) -> None:
    """Train without validation or chatter."""
    with quiet_training(seed=0):
        model.train(max_epochs=n_epochs, accelerator="cpu", enable_progress_bar=False, train_size=0.8,
                    batch_size=batch_size, check_val_every_n_epoch=1000, callbacks=list(callbacks))  # fmt: skip


def seconds(functions: list[Callable[[], object]], n: int) -> list[float]:
    """Least seconds of `n` calls of each after one that does not count, in turn, so that load falls on all alike."""
    least = [np.inf] * len(functions)
    for repeat in range(n + 1):
        for k, function in enumerate(functions):
            start = clock()
            function()
            least[k] = min(least[k], clock() - start) if repeat else np.inf
    return least


def clock() -> float:
    """Processor time on one thread, which other programs hardly change; else wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def save(rows: Iterable[dict[str, float | str]], title: str, out: Path, name: str, notes: str) -> None:
    """Write rows as they come, as json; then all of them as csv and markdown."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for row in rows:
        found.append(row)
        console.print(row)
        (out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    frame = pd.DataFrame(found)
    save_table(frame.set_index(frame.columns[0]), title, out, name, notes)


if __name__ == "__main__":
    main()
