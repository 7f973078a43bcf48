"""How far latents and predictions of a trained model tell apart the arms of real screens.

Trains the default model on all cells of Kang 2018 and Schraivogel 2020 and estimates effects, with the guard against
leaks and without. Needs the folder named by SCGRAPHVCI_REAL_DATA. ``python benchmarks/leaks.py`` writes ``leaks``.
"""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from _common import parser, real_data, save_table

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training
from scgraphvci._reproduce import RECIPES

FILES = {"kang": "kang18_merged_counts.h5ad", "schraivogel": "schraivogel20_k562_72genes.h5ad"}
NOTES = """
Default model without a network, trained on four fifths of the cells; effects of every treatment in every stratum of all
cells. "arm variance": of mean latents between a stratum's arms beyond chance, over that within arms. "trust": median
share of Eq. 4's correction that the guard makes in treated arms. "share": median share of the predicted effect found
to leak, and its 95 % quantile. "detected": rows of Eq. 4 with status `leak_detected`. "distance": median over rows of
the root mean square over genes of Eq. 4 less `observed`, in standard errors of `observed`. "width": mean length of
intervals over that of `observed`.
"""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--data", nargs="+", choices=list(FILES), default=list(FILES))
    args = options.parse_args()
    rows = [row for name in args.data for seed in args.seeds for row in measure(name, seed, args.epochs)]
    index = ["data", "guard"]
    table = pd.DataFrame(rows).groupby(index, sort=False).mean()
    save_table(table, "Leaks in real screens", args.out, "leaks", f"{NOTES}Seeds: {args.seeds}.")


def measure(name: str, seed: int, epochs: int | None) -> list[dict[str, Any]]:
    """Train on one screen, and compare the arms with the guard and without."""
    recipe = RECIPES[name]
    adata = recipe.prepare(ad.read_h5ad(real_data(FILES[name])))
    setup = {key: value for key, value in recipe.setup.items() if key != "split_key"}
    with quiet_training(seed):
        sgv.GraphVCI.setup_anndata(adata, **setup)
        model = sgv.GraphVCI(adata)
        model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    rows = []
    for guard in (True, False):
        effects = model.marginal_effect(leak_guard=guard)
        observed = model.marginal_effect(estimator="observed", keep_influence=False)
        has_error = np.isfinite(effects.std_error).any(axis=2)
        distance = np.sqrt(np.nanmean(((effects.robust - effects.observed) / observed.std_error) ** 2, axis=2))
        by_chance = 1 / effects.n_treated[has_error] - 1 / effects.n_stratum[has_error]
        summary = effects.leakage().summary()
        rows.append(
            {
                "data": name,
                "guard": guard,
                "rows": int(has_error.sum()),
                "treated cells": float(np.median(effects.n_treated[has_error])),
                "arm variance": effects.params["arm_variance"],
                "trust": float(np.median(by_chance / (by_chance + effects.params["arm_variance"]))),
                "share": float(summary["share"].median()),
                "share, 95 %": float(summary["share"].abs().quantile(0.95)),
                "detected": float((effects.status[has_error] == "leak_detected").mean()),
                "distance": float(np.median(distance[has_error])),
                "width": float(np.nanmean(effects.std_error) / np.nanmean(observed.std_error)),
            }
        )
    return rows


if __name__ == "__main__":
    main()
