"""Seconds per training step, beside a naive decoder and bare matrix products, and per epoch beside SCVI, in one run.

The naive decoder forms the (cells x genes x features) tensor. Bare products are the products of every linear layer and
decoder head, forward and both gradients, without anything between them. Settings: 2,000 genes, batch 64, the paper's
widths, depths and three latent samples. ``python benchmarks/step_time.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import scvi
import torch
from _common import RESULTS, console, save_table
from anndata import AnnData
from torch import nn

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training
from scgraphvci.module import _decoders as decoders
from scgraphvci.train import CounterfactualPlan

N_CELLS, N_EDGES, BATCH = 2048, 40_000, 64


def main() -> None:
    """Run the benchmark."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--n-genes", type=int, default=2000)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--out", type=Path, default=RESULTS)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    adata = screen(args.n_genes)

    rows = []
    for decoder in ("attention", "dot"):
        model = paper_model(adata, decoder)
        step, products = stepper(model), product_shapes(model)
        ours = seconds(step, args.steps)
        with naive_heads():
            naive = seconds(step, max(2, args.steps // 10))
        bare = seconds(bare_products(products), args.steps)
        rows.append((decoder, ours, naive, bare, naive / ours, ours / bare))
        console.print(dict(zip(("decoder", "ours", "naive", "bare"), rows[-1], strict=False)))
    columns = ["decoder", "ours (s)", "naive (s)", "bare products (s)", "naive / ours", "ours / bare"]
    notes = f"{args.n_genes} genes, batch {BATCH}, {N_EDGES:,} edges, 3 latent samples, {args.threads} thread(s)."
    save_table(pd.DataFrame(rows, columns=columns).set_index("decoder"), "Training step", args.out, "step_time", notes)

    epochs = {"SCVI": scvi_epoch(adata), "GraphVCI": our_epoch(adata, "default")}
    epochs['GraphVCI(preset="paper")'] = our_epoch(adata, "paper")
    frame = pd.DataFrame({"seconds": epochs, "ratio to SCVI": {k: v / epochs["SCVI"] for k, v in epochs.items()}})
    save_table(frame.rename_axis("model"), "Epoch", args.out, "epoch_time", f"{N_CELLS} cells x {args.n_genes} genes.")


def screen(n_genes: int) -> AnnData:
    """Simulate a screen with a random network of the size of the paper's."""
    adata = sgv.datasets.simulate(N_CELLS, n_genes, 30, seed=0)
    rng = np.random.default_rng(0)
    genes = adata.var_names.to_numpy()
    net = pd.DataFrame({"source": genes[rng.integers(n_genes // 10, size=N_EDGES)],
                        "target": genes[rng.integers(n_genes, size=N_EDGES)]})  # fmt: skip
    sgv.grn.add_grn(adata, net, "grn")
    return adata


def paper_model(adata: AnnData, decoder: str) -> sgv.GraphVCI:
    """Build a model with the paper's settings."""
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type", "donor"], grn_key="grn")
    return sgv.GraphVCI(adata, preset="paper", decoder=decoder)


def stepper(model: sgv.GraphVCI) -> Callable[[], None]:
    """Return a function that makes one training step on the same cells."""
    moments = model._moments(np.arange(N_CELLS))
    model.module.initialise(moments)
    plan = CounterfactualPlan(model.module, moments=moments)
    optimiser = torch.optim.Adam(model.module.parameters(), lr=3e-4)
    batch = next(iter(model._make_data_loader(adata=model.adata, indices=np.arange(BATCH), batch_size=BATCH)))

    def step() -> None:
        optimiser.zero_grad()
        plan._step(dict(batch))[1].loss.backward()
        optimiser.step()

    return step


def product_shapes(model: sgv.GraphVCI) -> list[tuple[int, int, int]]:
    """Record (rows, inner, columns) of every matrix product of a step."""
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
    stepper(model)()
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


def seconds(function: Callable[[], None], n: int) -> float:
    """Median seconds of `n` calls after one that does not count."""
    times = []
    for _ in range(n + 1):
        start = clock()
        function()
        times.append(clock() - start)
    return float(np.median(times[1:]))


def clock() -> float:
    """Processor time on one thread, which other programs hardly change; else wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def our_epoch(adata: AnnData, preset: str) -> float:
    """Seconds per epoch of GraphVCI without validation."""
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type", "donor"], grn_key="grn")
    return _epoch(sgv.GraphVCI(adata, preset=preset))


def scvi_epoch(adata: AnnData) -> float:
    """Seconds per epoch of SCVI on the counts of the same cells."""
    scvi.model.SCVI.setup_anndata(adata, layer="counts", categorical_covariate_keys=["cell_type", "donor"])
    return _epoch(scvi.model.SCVI(adata))


def _epoch(model: scvi.model.base.BaseModelClass, n: int = 3) -> float:
    """Time of `n` + 1 epochs minus that of one, per epoch: set-up cancels."""
    spent = []
    for epochs in (1, n + 1):
        start = clock()
        with quiet_training(seed=0):
            model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, train_size=0.8,
                        check_val_every_n_epoch=1000)  # fmt: skip
        spent.append(clock() - start)
    return (spent[1] - spent[0]) / n


if __name__ == "__main__":
    main()
