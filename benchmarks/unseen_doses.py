"""Doses that no cell received: the learned curve against straight lines, on screens with known truth.

Treated cells received a tenth, a quarter or all of the largest dose; half of it is predicted. Responses are those of
the model of stratum means. ``python benchmarks/unseen_doses.py --help`` lists the options.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from _common import parser, save_table

import scgraphvci as sgv
from scgraphvci.data import stratum_moments
from scgraphvci.data._mean_model import MeanModel, fit_mean_model

DOSES = (0.1, 0.25, 1.0)
UNSEEN = 0.5
SCREEN = {"n_cells": 6000, "n_genes": 200, "n_perturbations": 12, "n_donors": 1, "n_ood_pairs": 0, "doses": DOSES}


def fit(adata, doses: tuple[float, ...], names: list[str]) -> MeanModel:
    """The model of stratum means of the cells that received some of the doses."""
    adata = adata[np.isin(adata.obs["dose"], (0.0, *doses))]
    design = np.concatenate([np.zeros((1, len(names))), *(dose * np.eye(len(names)) for dose in doses)])
    position = pd.Index(["control", *names]).get_indexer(adata.obs["perturbation"])
    step = np.searchsorted(doses, adata.obs["dose"].to_numpy())
    condition = np.where(position > 0, position + len(names) * step, 0)
    stratum, levels = pd.factorize(adata.obs["cell_type"], sort=True)
    moments = stratum_moments(adata.X, stratum, condition, len(levels), len(design), np.arange(adata.n_obs))
    return fit_mean_model(moments, design, np.arange(len(levels))[:, None], [len(levels)], log=False)


def run(seed: int) -> pd.DataFrame:
    """Errors of pooled responses to the dose that no cell received."""
    adata = sgv.datasets.simulate(seed=seed, **SCREEN)
    names = sorted(set(adata.obs["perturbation"]) - {"control"})
    truth = sgv.datasets.truth(adata[:500])
    control = truth.stratum_mean("control")
    true = np.stack([(truth.stratum_mean(name, dose=UNSEEN) - control).to_numpy().mean(axis=0) for name in names])
    strata = np.arange(adata.obs["cell_type"].nunique())[:, None]
    model = fit(adata, DOSES, names)
    single = {dose: fit(adata, (dose,), names).pooled(strata) for dose in DOSES}  # of dose over dose, that is, at it
    low, high = (dose * single[dose] for dose in DOSES[1:])
    share = (UNSEEN - DOSES[1]) / (DOSES[2] - DOSES[1])
    guesses = {
        "learned curve": model.dose_response(np.array(UNSEEN)) * model.pooled(strata),
        "proportional": UNSEEN * fit(adata, (DOSES[-1],), names).pooled(strata),
        "linear interpolation": low + share * (high - low),
    }
    return pd.DataFrame(
        [
            {
                "predictor": name,
                "seed": seed,
                "1000 mse": 1000 * ((guess - true) ** 2).mean(),
                "slope": (guess * true).sum() / (true**2).sum(),
                "saturation": model.dose_response.saturation if name == "learned curve" else np.nan,
            }
            for name, guess in guesses.items()
        ]
    )


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__).parse_args()
    frame = pd.concat([run(seed) for seed in range(5)])
    table = frame.drop(columns="seed").groupby("predictor", sort=False).agg(["mean", "std"])
    save_table(table, "Responses to a dose that no cell received", args.out, "unseen_doses", "5 seeds.")


if __name__ == "__main__":
    main()
