"""Tables of the simulated screens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from _common import save_table

METRICS = [
    "pearson_shift",
    "pearson_perturbed",
    "weighted_r2",
    "weighted_mse",
    "centroid_accuracy",
    "r2",
    "r2_de",
]
JUDGED = ["pearson_shift", "weighted_r2", "centroid_accuracy"]
SINGLE = ["cell_error", "individuality", "spread", "leak", "seconds"]
SIMPLE = ["no change", "train mean", "stratum mean", "context shift", "additive", "ridge pca"]
N_BOOTSTRAP = 2000


def write_tables(rows: pd.DataFrame, out: Path, name: str, settings: list[str]) -> None:
    """Write means over screens by setting and metric, and differences to the best simple baseline."""
    screens = rows.groupby(["setting", "seed", "predictor"], sort=False)[METRICS + SINGLE].mean().reset_index()
    n_seeds = screens["seed"].nunique()
    note = f"Mean over conditions, then over up to {n_seeds} seeds (n: screens behind the row)."
    for metric in METRICS + SINGLE:
        table = screens.pivot_table(index="predictor", columns="setting", values=metric, aggfunc="mean", sort=False)
        table = table[[setting for setting in settings if setting in table]]
        table.insert(table.shape[1], "mean", table.mean(axis=1, skipna=False))
        table["n"] = screens.dropna(subset=[metric]).groupby("predictor").size().reindex(table.index)
        save_table(table, f"Simulated screens: {metric}", out, f"{name}_{metric}", note)
    save_table(differences(rows, settings), "Simulated screens: differences to the best simple baseline", out,
               f"{name}_differences", "Positive where the predictor is better; the best simple baseline is that of "
               "highest mean over the setting's conditions; 95 % intervals from resampling conditions of all "
               "seeds.")  # fmt: skip


def differences(rows: pd.DataFrame, settings: list[str]) -> pd.DataFrame:
    """Paired differences of every model to the best simple baseline, with bootstrap intervals over conditions."""
    condition = ["seed", "treatment", "cell_type", "donor"]
    rng = np.random.default_rng(0)
    result = []
    for setting in settings:
        for metric in JUDGED:
            wide = rows[rows["setting"] == setting].pivot_table(index=condition, columns="predictor", values=metric)
            if wide.empty:
                continue
            for model in [column for column in wide if column not in SIMPLE]:
                known = wide.dropna(subset=[model])
                best = known[SIMPLE].mean().idxmax()
                difference = (known[model] - known[best]).dropna().to_numpy()
                draws = difference[rng.integers(difference.size, size=(N_BOOTSTRAP, difference.size))].mean(axis=1)
                low, high = np.quantile(draws, [0.025, 0.975])
                result.append((setting, metric, model, best, difference.mean(), low, high, difference.size))
    columns = ["setting", "metric", "predictor", "best baseline", "difference", "low", "high", "n"]
    return pd.DataFrame(result, columns=columns).set_index(["setting", "metric", "predictor"])
