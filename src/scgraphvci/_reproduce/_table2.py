"""Table 2: the robust estimator of stratum means during training."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback

from scgraphvci._compat import forget_manager
from scgraphvci._constants import SPLITS
from scgraphvci._evaluation._welch import Group, welch
from scgraphvci._quiet import quiet_training
from scgraphvci._reproduce._experiment import EFFECT_MODELS, Experiment, Split
from scgraphvci._reproduce._recipes import SPLIT_KEY
from scgraphvci._reproduce._tables import Report, as_text, mean_and_sd, over_runs, versions
from scgraphvci.baselines._base import ScreenCoder
from scgraphvci.data import OutcomeField, StratumMoments, stratum_moments
from scgraphvci.estimate import MarginalEffects
from scgraphvci.metrics import r2

logger = logging.getLogger(__name__)

ESTIMATORS = {"mean": "plugin", "robust": "robust", "observed": "observed"}  # the paper's names and ours
N_CHECKPOINTS = 4
N_DE = 50
MIN_CELLS = 5  # validation cells behind a true mean


class Snapshots(Callback):
    """Keep the weights at evenly spaced epochs, the last among them.

    Parameters
    ----------
    n_snapshots
        How many, fewer where there are fewer epochs.
    """

    def __init__(self, n_snapshots: int) -> None:
        self.n_snapshots = n_snapshots
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Copy the weights if this is one of the epochs."""
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs
        if epoch in {round(last * k / self.n_snapshots) for k in range(1, self.n_snapshots + 1)}:
            state = pl_module.module.state_dict()
            self.weights[epoch] = {name: value.detach().cpu().clone() for name, value in state.items()}


def reproduce_table2(experiment: Experiment) -> Report:
    r"""Compare three estimators of the mean of a treatment in a stratum while the model trains.

    For every treatment and stratum, the mean under the treatment is estimated from *training* cells, and its R2 against
    the mean of the *validation* ("test") cells of that stratum and treatment is averaged over all such pairs with at
    least five validation cells (the paper's appendix C.1); mean and standard deviation are over runs. The estimators:
    "mean" is the mean prediction over the training cells of the stratum; "robust" is Eq. 4; "observed", which the paper
    leaves out, is the plain mean of the training cells of the pair. It needs no model and does not change with epochs.
    Each is taken at four points of the training. Differentially expressed genes are the 50 with the largest Welch t of
    the pair's validation cells against the training controls of the stratum. Treatments with several doses count at
    their most frequent one.

    Parameters
    ----------
    experiment
        What to run; models without marginal effects are an error.

    Returns
    -------
    Report whose rows are models and parts of their training. Numbers: `table2`, and `table2_pairs`, one row per seed,
    split, model, epoch, pair and estimator.

    Raises
    ------
    ValueError
        If a model has no marginal effects, or no pair has enough cells.
    """
    without = [name for name in experiment.models if name not in EFFECT_MODELS]
    if without:
        msg = f"{without} have no marginal effects. Table 2 takes {list(EFFECT_MODELS)}."
        raise ValueError(msg)
    parts = [
        _track(experiment, name, split).assign(seed=split.seed, split=split.name, model=name)
        for split in experiment.splits()
        for name in experiment.models
    ]
    pairs = pd.concat(parts, ignore_index=True)
    by_split = pairs.groupby(["model", "trained", "estimator", "seed", "split"], sort=False)[["r2", "r2_de"]].mean()
    by_run = by_split.groupby(["model", "trained", "estimator", "seed"], sort=False).mean()
    runs = pd.DataFrame(
        {
            f"{metric} {estimator}": by_run[metric].xs(estimator, level="estimator")
            for metric in ("r2", "r2_de")
            for estimator in ESTIMATORS
        }
    )
    columns = [str(name) for name in runs]
    runs = runs.reset_index()
    label = "model, part of its epochs"
    runs[label] = runs["model"] + ", " + runs["trained"]
    mean, sd = over_runs(runs, label, columns)
    return Report(
        title="Table 2: estimates of stratum means during training",
        tables={"R2 against validation cells, mean ± standard deviation over runs": as_text(mean, sd, columns)},
        notes=_notes(experiment, pairs),
        numbers={"table2": mean_and_sd(mean, sd), "table2_pairs": pairs},
    )


def _track(experiment: Experiment, name: str, split: Split) -> pd.DataFrame:
    """Train a model and score its estimates at four epochs."""
    snapshots = Snapshots(N_CHECKPOINTS)
    model, seconds = experiment.fit(name, split, callbacks=[snapshots])
    truth = _Truth(experiment, split)
    train = split.adata[split.adata.obs[SPLIT_KEY] == SPLITS.TRAIN].copy()
    parts = []
    for number, (epoch, weights) in enumerate(snapshots.weights.items(), start=1):
        model.module.load_state_dict(weights)
        with quiet_training(split.seed):
            # All point estimates are in every result; robust is Eq. 4 as published.
            effects = model.marginal_effect(adata=train, reference=None, estimator="observed", leak_guard=False)
        parts.append(truth.score(effects).assign(epoch=epoch, trained=f"{number}/{len(snapshots.weights)}"))
        means = parts[-1].groupby("estimator")["r2"].mean().round(3).to_dict()
        logger.info("%s, epoch %d: R2 %s", name, epoch, means)
    logger.info("%s: %.0f s of training", name, seconds)
    forget_manager(model, train)
    model.deregister_manager(split.adata)
    return pd.concat(parts)


class _Truth:
    """Means of validation cells by stratum and treatment, and which genes differ from control there."""

    def __init__(self, experiment: Experiment, split: Split) -> None:
        self._coder = ScreenCoder(**experiment.recipe.setup)
        self._codes = self._coder.code(split.adata)
        parts = self._coder.split(split.adata)
        matrix = OutcomeField(None).get_field_data(split.adata)
        size = len(self._codes.strata), len(self._codes.table.design)
        moments = [
            stratum_moments(matrix, self._codes.stratum, self._codes.condition, *size, np.flatnonzero(parts == part))
            for part in (SPLITS.TEST, SPLITS.TRAIN)
        ]
        self._validation, self._train = moments

    def score(self, effects: MarginalEffects) -> pd.DataFrame:
        """R2 of every estimator in every pair with training cells and enough validation cells."""
        keys = list(effects.strata.columns)
        levels = list(self._codes.strata[keys].itertuples(index=False, name=None))
        rows = []
        for j, stratum in enumerate(effects.strata.itertuples(index=False, name=None)):
            row = levels.index(stratum)
            for i, treatment in enumerate(effects.treatments):
                validation = self._group(self._validation, row, str(treatment))
                if validation is None or validation.n < MIN_CELLS or effects.n_treated[i, j] == 0:
                    continue
                de_genes = self._de_genes(validation, row)
                labels = {"treatment": treatment, **dict(zip(keys, stratum, strict=True))}
                labels |= {"n_train": effects.n_treated[i, j], "n_validation": validation.n}
                for name, field in ESTIMATORS.items():
                    estimate = getattr(effects, field)[i, j]
                    rows.append(
                        {
                            **labels,
                            "estimator": name,
                            "r2": r2(validation.mean, estimate),
                            "r2_de": np.nan if de_genes is None else r2(validation.mean[de_genes], estimate[de_genes]),
                        }
                    )
        if not rows:
            msg = f"No pair of treatment and stratum has training cells and {MIN_CELLS} validation cells. Pool strata."
            raise ValueError(msg)
        return pd.DataFrame(rows)

    def _group(self, moments: StratumMoments, stratum: int, treatment: str) -> Group | None:
        """Moments of a pair, at the treatment's most frequent dose; None without cells."""
        condition = self._codes.table.condition(self._codes.table.vector(treatment))
        row = -1 if condition is None else moments.row[stratum, condition]
        if row < 0:
            return None
        return Group(moments.mean[row].astype(float), moments.variance[row].astype(float), int(moments.n_cells[row]))

    def _de_genes(self, validation: Group, stratum: int) -> np.ndarray | None:
        """Positions of the genes of largest Welch t against training controls; None without controls."""
        control = self._group(self._train, stratum, self._codes.table.control)
        if control is None:
            return None
        return np.argsort(-np.abs(welch(validation, control)[0]), kind="stable")[:N_DE]


def _notes(experiment: Experiment, pairs: pd.DataFrame) -> list[str]:
    """What the table shows, from how much data."""
    one = pairs.drop_duplicates(["seed", "split", "treatment", *experiment.recipe.covariates])
    n_runs = pairs["seed"].nunique()
    n_train, n_validation = one[["n_train", "n_validation"]].median()
    return [
        experiment.recipe.note,
        f"{n_runs} run(s), each the mean over {len(one) / n_runs:.0f} pairs of treatment and stratum with at least "
        f"{MIN_CELLS} validation cells (median {n_train:.0f} training and {n_validation:.0f} validation cells).",
        "All three estimate the mean of a treatment in a stratum from training cells. mean: mean prediction over the "
        "training cells of the stratum. robust: the paper's Eq. 4. observed: plain mean of the training cells that "
        "received the treatment, which needs no model; the paper has no such column. r2_de: over the 50 genes of "
        "largest Welch t of the pair's validation cells against training controls.",
        versions(),
    ]
