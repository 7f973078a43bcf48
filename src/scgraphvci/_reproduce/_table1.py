"""Table 1: accuracy in strata where treatments were held out."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd

from scgraphvci._evaluation._summary import ScoreTable
from scgraphvci._quiet import quiet_training
from scgraphvci._reproduce._experiment import Experiment, Split
from scgraphvci._reproduce._tables import Report, as_text, mean_and_sd, over_runs, versions
from scgraphvci.baselines import NoChange
from scgraphvci.evaluate import Evaluation
from scgraphvci.metrics import METRICS

logger = logging.getLogger(__name__)

SHOWN = ("r2", "r2_de", "pearson_shift", "pearson_perturbed", "weighted_r2", "centroid_accuracy", "seconds")
COMPARED = (*SHOWN[:-1], "weighted_mse", "energy_distance", "mmd")
N_BOOTSTRAP = 1000
STARTS = {
    "matched": "Predictions start from control cells of the stratum.",
    "paper": "Predictions start from control cells of all strata, their covariates overwritten. Simple baselines move "
    "those cells as they are and miss the level of the stratum, which flatters models: conclude from the matched "
    "protocol.",
}


def reproduce_table1(experiment: Experiment) -> Report:
    """Score models and simple baselines on held-out conditions, over seeds.

    As in the paper, R2 compares the mean prediction of a treatment in a stratum with the mean of the held-out cells
    (`r2_de` over 50 differentially expressed genes), and is averaged over conditions; mean and standard deviation are
    over runs. Where a recipe has several splits, their means are averaged. All other metrics of
    :class:`scgraphvci.Evaluation`, its simple baselines and duplicates are computed on the same conditions.

    Parameters
    ----------
    experiment
        What to run.

    Returns
    -------
    Report with two tables: the predictors, and the models' differences to the best simple baseline. Numbers: `table1`
    (all metrics), `table1_differences`, and `table1_conditions`, one row per seed, split, condition and predictor.
    """
    parts, seconds = [], []
    for split in experiment.splits():
        context: dict[str, Any] = {"seed": split.seed, "split": split.name}
        for name in experiment.models:
            pairs, took = _score_model(experiment, name, split)
            parts.append(pairs.assign(**context))
            seconds.append({**context, "predictor": name, "seconds": took})
        simple = {"no change": NoChange(split.adata, **experiment.recipe.setup)}
        parts.append(_evaluate(experiment, split, simple).pairs().assign(**context))
    conditions = pd.concat(parts, ignore_index=True)
    metrics = [name for name in METRICS if name in conditions]
    mean, sd = over_runs(_by_run(conditions, metrics, pd.DataFrame(seconds)), "predictor", [*metrics, "seconds"])
    differences = _differences(_pooled(experiment, conditions, metrics))
    return Report(
        title=f"Table 1, {experiment.protocol} protocol",
        tables={
            "Mean ± standard deviation over runs": as_text(
                mean, sd, [name for name in SHOWN if mean[name].notna().any()]
            ),
            "Difference to the best simple baseline, positive where the model is better": _differences_as_text(
                differences
            ),
        },
        notes=_notes(experiment, conditions),
        numbers={"table1": mean_and_sd(mean, sd), "table1_differences": differences, "table1_conditions": conditions},
    )


def _score_model(experiment: Experiment, name: str, split: Split) -> tuple[pd.DataFrame, float]:
    """Fit and score one model, and let go of it."""
    model, seconds = experiment.fit(name, split)
    pairs = _evaluate(experiment, split, {name: model}, baselines=None, duplicates=False).pairs()
    model.deregister_manager(split.adata)
    logger.info("%s: %.0f s, R2 %.3f, DE genes %.3f", name, seconds, pairs["r2"].mean(), pairs["r2_de"].mean())
    return pairs, seconds


def _evaluate(experiment: Experiment, split: Split, models: dict[str, Any], **options: Any) -> Evaluation:
    options |= {"truth": split.truth, "protocol": experiment.protocol, "n_bootstrap": 1, "seed": split.seed}
    with quiet_training(split.seed):
        return Evaluation(models, split.adata, **options)


def _by_run(conditions: pd.DataFrame, metrics: list[str], seconds: pd.DataFrame) -> pd.DataFrame:
    """Scores of every predictor in every run: means over conditions, then over splits; seconds are summed."""
    by_split = conditions.groupby(["predictor", "seed", "split"], sort=False)[metrics].mean()
    by_run = by_split.groupby(["predictor", "seed"], sort=False).mean()
    return by_run.join(seconds.groupby(["predictor", "seed"])["seconds"].sum()).reset_index()


def _pooled(experiment: Experiment, conditions: pd.DataFrame, metrics: list[str]) -> ScoreTable:
    """Conditions of all runs and splits in one table, on which differences are resampled.

    Runs on the same data have the same conditions, which would otherwise count as independent: they are averaged.
    Simulated runs have treatments of their own.
    """
    runs = ["seed"] if experiment.data is None else []
    keys = ["split", "treatment", "dose", *experiment.recipe.covariates, *runs]
    clusters = (*runs, "treatment", "dose")
    grouped = conditions.groupby(["predictor", *keys], sort=False)
    means = grouped[metrics].mean().join(grouped[["n_cells", "thin"]].first())
    scores = {str(name): frame.droplevel("predictor") for name, frame in means.groupby("predictor", sort=False)}
    order = next(iter(scores.values())).index
    scores = {name: frame.loc[order].reset_index() for name, frame in scores.items()}
    kinds = dict(conditions.groupby("predictor")["kind"].first())
    labels = next(iter(scores.values()))[[*keys, "n_cells", "thin"]]
    metric_scores = {name: frame[metrics] for name, frame in scores.items()}
    return ScoreTable(labels, metric_scores, kinds, N_BOOTSTRAP, seed=0, cluster_keys=clusters)


def _differences(table: ScoreTable) -> pd.DataFrame:
    """Differences of the models to the best simple baseline of each metric, and the range of the metric."""
    calibration = table.calibration()
    return pd.DataFrame(
        [
            {
                "metric": metric,
                "predictor": name,
                "best_baseline": table.best_baseline(metric),
                **table.statistics(name, metric),
                "dynamic_range": calibration.loc[metric, "drf"],
            }
            for metric in COMPARED
            for name in table.names("model")
        ]
    )


def _differences_as_text(differences: pd.DataFrame) -> pd.DataFrame:
    """One row per metric that is defined, one column per model."""
    defined = differences[differences["n"] > 0]
    by_metric = defined.drop_duplicates("metric").set_index("metric")
    columns = {
        "best baseline": by_metric["best_baseline"].astype(str),
        "dynamic range": by_metric["dynamic_range"].map("{:.2f}".format),
    }
    for name, rows in defined.groupby("predictor", sort=False):
        rows = rows.set_index("metric")
        columns[str(name)] = pd.Series(
            {
                metric: _difference(row["difference"], row["difference_low"], row["difference_high"])
                for metric, row in rows.iterrows()
            }
        )
    return pd.DataFrame(columns, index=by_metric.index)


def _difference(value: float, low: float, high: float) -> str:
    """A difference and its interval, which a single condition does not have."""
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})" if np.isfinite(low) else f"{value:+.3f}"


def _notes(experiment: Experiment, conditions: pd.DataFrame) -> list[str]:
    """What the tables show, from how much data."""
    one = conditions[conditions["predictor"] == conditions["predictor"].iloc[0]]
    size = one.groupby("seed").agg(n=("n_cells", "size"), cells=("n_cells", "sum"), thin=("thin", "sum")).mean()
    n_epochs = experiment.epochs
    epochs = f"{n_epochs} epoch{'' if n_epochs == 1 else 's'}" if n_epochs else "their default number of epochs"
    target = "the mean of the held-out cells" if experiment.data is not None else "the noise-free true mean"
    return [
        experiment.recipe.note,
        f"{conditions['seed'].nunique()} run(s), each over {size['n']:.0f} held-out conditions ({size['cells']:.0f} "
        f"cells; {size['thin']:.0f} conditions with fewer than 5 cells, kept). {STARTS[experiment.protocol]} Models "
        f"were trained for {epochs}; seconds are those of all trainings of a run.",
        f"r2: mean prediction against {target} over all genes; r2_de: over the 50 most differentially expressed genes. "
        "Both, and pearson_shift, are reported because others report them; conclude from the other metrics. Duplicates "
        "show what a repeated experiment scores. n/a: not defined here.",
        "Intervals come from resampling treatments with all their conditions, or conditions where there are fewer than "
        "ten treatments, each averaged over runs on the same data. Dynamic range: share of "
        "the way from the best negative control to a perfect prediction that a repeated experiment goes; below .2 the "
        "metric cannot tell good from bad on these data.",
        versions(),
    ]
