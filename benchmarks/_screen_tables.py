"""Tables of the simulated screens."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from _common import differences, save_table

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
RUN = ["setting", "seed"]
CONDITION = ["seed", "treatment", "cell_type", "donor"]


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
    complete = screens.groupby("predictor", sort=False).filter(lambda one: len(one) == len(screens.groupby(RUN)))
    shown = [metric for metric in JUDGED + SINGLE if metric != "seconds"]  # of machines that do nothing else
    summary = complete.groupby(["predictor", "setting"], sort=False)[shown].mean()
    summary = summary.groupby("predictor", sort=False).mean().dropna(axis=1, how="all")
    about = "Mean over conditions, seeds, then settings, of predictors that were run on every screen."
    save_table(summary, "Simulated screens: means over settings", out, f"{name}_summary", about)
    known = rows[rows["setting"].isin(settings)]
    save_table(differences(known, JUDGED, CONDITION, ["setting"]),
               "Simulated screens: differences to the best simple baseline", out, f"{name}_differences",
               "Positive where the predictor is better; the best simple baseline is that of best mean over the "
               "setting's conditions; 95 % intervals from resampling treatments of all seeds, each with all its "
               "strata.")  # fmt: skip
