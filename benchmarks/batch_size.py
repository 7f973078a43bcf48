"""Accuracy and time of training by batch size, at the same number of epochs.

The base screen of `screens.py`, with known truth. Every batch size is trained with the default learning rate, and with
one that grows with the square root of the batch size. ``python benchmarks/batch_size.py --help`` lists the options.
"""

from __future__ import annotations

import inspect

import pandas as pd
import torch
from _common import means, parser, save_table
from anndata import AnnData
from out_of_core import Clock
from screens import COVARIATES, SETTINGS

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training
from scgraphvci.train import CounterfactualPlan

DEFAULT_RATE = inspect.signature(CounterfactualPlan).parameters["lr"].default
TUNED_AT = 128  # batch size of that learning rate
SCORES = ["pearson_shift", "weighted_r2", "seconds"]
NOTES = """
{epochs} epochs of the training cells among {cells:,} cells x {genes} genes; the default model. Held-out conditions
against noise-free means: mean over conditions, then over seeds ({seeds} here), with their standard deviation where
there are several. Seconds are those of one epoch, the last: processor time on one thread, with validation.
"""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--batches", type=int, nargs="+", default=[128, 256, 512, 1024])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options.set_defaults(epochs=40)
    args = options.parse_args()
    torch.set_num_threads(1)
    found = []
    for n_seeds, seed in enumerate(args.seeds, start=1):
        adata = sgv.datasets.simulate(seed=seed, **SETTINGS["base"])
        for batch in args.batches:
            for lr in dict.fromkeys([DEFAULT_RATE, DEFAULT_RATE * (batch / TUNED_AT) ** 0.5]):
                found.append(scores(adata, seed, args.epochs, batch, lr))
        table = means(pd.concat(found), SCORES, ["batch", "learning rate"])
        notes = NOTES.format(epochs=args.epochs, cells=adata.n_obs, genes=adata.n_vars, seeds=n_seeds)
        save_table(table.droplevel("predictor"), "Batch size", args.out, "batch_size", notes)


def scores(adata: AnnData, seed: int, epochs: int, batch: int, lr: float) -> pd.DataFrame:
    """Train a model; return its scores on held-out conditions, and what training took."""
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=COVARIATES, split_key="split", grn_key="grn")
    clock = Clock()
    with quiet_training(seed):
        model = sgv.GraphVCI(adata)
        model.train(
            max_epochs=epochs, batch_size=batch, plan_kwargs={"lr": lr}, callbacks=[clock],
            accelerator="cpu", enable_progress_bar=False,
        )  # fmt: skip
        truth = sgv.datasets.truth(adata)
        evaluation = sgv.Evaluation(
            {"GraphVCI": model}, adata, baselines=None, truth=truth, duplicates=False, min_cells=1, seed=seed
        )
        pairs = evaluation.pairs()
    pairs = pairs.assign(batch=batch, seed=seed, seconds=clock.ended - clock.started)
    return pairs.assign(**{"learning rate": f"{lr:.4f}"})


if __name__ == "__main__":
    main()
