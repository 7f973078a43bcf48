"""Figure 6a: training with the original and with the refined network."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scgraphvci._reproduce._experiment import RANDOM, REFINED, Experiment
from scgraphvci._reproduce._figures import FigureReport, as_figure
from scgraphvci._reproduce._table1 import _evaluate
from scgraphvci._reproduce._tables import Report, as_text, mean_and_sd, over_runs, versions
from scgraphvci.pl._base import BLUE, GREY, ORANGE, finish, panels, tidy

logger = logging.getLogger(__name__)

NETWORKS = {"GraphVCI": "original", REFINED: "refined", RANDOM: "random"}
STYLES = {"original": (BLUE, "-"), "refined": (ORANGE, "--"), "random": (GREY, ":")}  # curves may coincide
CURVES = {"r2": "R2", "pearson_shift": "Pearson of the shift"}
SCORES = ("r2", "r2_de", "pearson_shift", "pearson_perturbed", "weighted_r2")


def reproduce_fig6a(experiment: Experiment) -> FigureReport:
    """Train GraphVCI with the original, the refined and a random network, and follow its accuracy.

    Curves are on validation cells: accuracy of mean predictions for a stratum under treatments that the cells did not
    receive. The table is on held-out conditions after training. All runs train for as many epochs as the first.

    Parameters
    ----------
    experiment
        What to run; of its models GraphVCI with these networks.

    Returns
    -------
    Mean curves with bands of one standard deviation over runs, and a report with the scores. Numbers: `fig6a` (mean and
    standard deviation by network and epoch), `fig6a_runs` (the curves of every seed and split) and `fig6a_ood`.
    """
    curves, scores = [], []
    for split in experiment.splits():
        for name in experiment.models:
            model, seconds = experiment.fit(name, split)
            context: dict[str, Any] = {"seed": split.seed, "split": split.name, "network": NETWORKS[name]}
            history = {metric: model.history[f"{metric}_validation"].iloc[:, 0].astype(float) for metric in CURVES}
            curve = pd.DataFrame(history).rename_axis("epoch").reset_index()
            curves.append(curve.assign(epoch=curve["epoch"] + 1, **context))
            conditions = _evaluate(experiment, split, {name: model}, baselines=None, duplicates=False).pairs()
            scores.append({**context, **conditions[list(SCORES)].mean()})
            # Splits differ in training cells, on which default epochs depend; curves need common ones.
            experiment = replace(experiment, max_epochs=len(model.history["train_loss"]))
            model.deregister_manager(split.adata)
            logger.info("%s network: %.0f s, R2 held out %.3f", NETWORKS[name], seconds, scores[-1]["r2"])
    runs = pd.concat(curves, ignore_index=True)
    by_run = runs.groupby(["network", "seed", "epoch"], sort=False)[list(CURVES)].mean().reset_index()
    by_epoch = by_run.groupby(["network", "epoch"], sort=False)[list(CURVES)]
    summary = mean_and_sd(by_epoch.mean(), by_epoch.std()).reset_index()
    held_out = pd.DataFrame(scores).groupby(["network", "seed"], sort=False)[list(SCORES)].mean().reset_index()
    mean, sd = over_runs(held_out, "network", SCORES)
    report = Report(
        title="Figure 6a: training with the original and the refined network",
        tables={"Held-out conditions after training, mean ± standard deviation over runs": as_text(mean, sd, SCORES)},
        notes=_notes(experiment, runs),
        numbers={
            "fig6a": summary,
            "fig6a_runs": runs[["network", "seed", "split", "epoch", *CURVES]],
            "fig6a_ood": mean_and_sd(mean, sd),
        },
    )
    return FigureReport(_draw(summary), report)


def _draw(summary: pd.DataFrame) -> Figure:
    """One panel per metric: means over runs by epoch, with bands of one standard deviation."""
    axes = panels(len(CURVES), None, None, (3.8, 3.0))
    for axis, (metric, label) in zip(axes, CURVES.items(), strict=True):
        for network, part in summary.groupby("network", sort=False):
            epoch, mean, sd = part["epoch"], part[metric], part[f"{metric}_sd"]
            colour, style = STYLES[str(network)]
            axis.plot(epoch, mean, style, color=colour, label=network, linewidth=1.8)
            axis.fill_between(epoch, mean - sd, mean + sd, color=colour, alpha=0.12, linewidth=0)
        axis.set(xlabel="epoch", ylabel=label)
        axis.set_title("validation cells", fontsize="medium")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axis)
    axes[-1].legend(frameon=False, title="network")
    return as_figure(finish(axes, show=False, return_fig=True))


def _notes(experiment: Experiment, runs: pd.DataFrame) -> list[str]:
    """What was trained, and on what the curves are."""
    return [
        experiment.recipe.note,
        f"{runs['seed'].nunique()} run(s) of {experiment.epochs} epochs over {runs['split'].nunique()} split(s), which "
        "are averaged in each run. GraphVCI with the dot decoder. original: the given network; refined: with the "
        "training cells of each run; random: as many regulators and targets for every gene as in the given one.",
        "Curves: predicted means of strata under treatments that the cells did not receive, against validation cells; "
        "the model keeps the weights of the lowest validation loss. Bands and ±: one standard deviation over runs.",
        versions(),
    ]
