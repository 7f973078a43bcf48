"""What keeps leaks of treatments out of Eq. 4."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from scgraphvci.estimate._arm_moments import ArmMoments
from scgraphvci.estimate._arm_variance import concentration, variance_between
from scgraphvci.estimate._cell_states import CellStates, StatePredictions
from scgraphvci.model._cross_fit import Predictor
from scgraphvci.model._effect_cells import EffectCells
from scgraphvci.module._likelihood import Likelihood, is_count

LeakGuard = bool | Literal["states", "share"]


class Guard(NamedTuple):
    """What keeps leaks out of Eq. 4.

    Attributes
    ----------
    states
        Predictions from states of cells; `None` if the guard is by share alone.
    arm_variance, concentrated
        For the share of the model's correction, where there are no predictions from states.
    """

    states: StatePredictions | None = None
    arm_variance: float = 0.0
    concentrated: np.ndarray | None = None

    @property
    def name(self) -> LeakGuard:
        """Value of `leak_guard` that asks for it."""
        if self.states is not None:
            return "states"
        return False if self.concentrated is None else "share"


def check_guard(leak_guard: LeakGuard, likelihood: Likelihood) -> None:
    """Raise if there is no such guard, or none for this likelihood."""
    if leak_guard not in (True, False, "states", "share"):
        msg = f"Unknown `leak_guard` {leak_guard!r}. Choose one of True, False, 'states', 'share'."
        raise ValueError(msg)
    if leak_guard == "states" and is_count(likelihood):
        msg = (
            f"leak_guard='states' is for log1p expression, and this model's likelihood is "
            f"{likelihood!r}: the variance of counts within arms depends on their mean. Choose 'share'."
        )
        raise ValueError(msg)


@torch.inference_mode()
def learn_guard(
    predictors: list[Predictor], cells: EffectCells, leak_guard: LeakGuard, batch_size: int | None
) -> Guard:
    """Learn the guard in one pass over the cells.

    The variance between arms is averaged over predictors by their cells. Latents of several predictors mean
    different things: each has columns of its own, 0 for cells of others.
    """
    if leak_guard is False:
        return Guard()
    stratum = cells.groups.stratum[cells.group]
    factors = cells.strata.apply(lambda column: pd.factorize(column)[0])
    levels = factors.to_numpy().reshape(cells.groups.n_strata, -1)  # of a single stratum, no columns
    states = CellStates(stratum, cells.condition, levels) if leak_guard == "states" else None
    found = []
    for k, predictor in enumerate(predictors):
        arms = ArmMoments(stratum[predictor.position], cells.condition[predictor.position])
        for encoded in predictor.model._encoded(predictor.adata, cells.cell[predictor.position], batch_size):
            latent = encoded.qz.mean.cpu().numpy()
            arms.update(latent, encoded.position)
            if states is not None:
                columns = np.zeros((len(latent), len(predictors), latent.shape[1]), dtype=latent.dtype)
                columns[:, k] = latent
                outcome = predictor.scale * encoded.batch["outcome"].cpu().numpy()
                states.update(outcome, columns.reshape(len(latent), -1), predictor.position[encoded.position])
        found.append(variance_between(arms))
    arm_variance = float(np.average(found, weights=[len(predictor.position) for predictor in predictors]))
    predictions = None if states is None else states.fit()
    if predictions is not None and not predictions.n_known:
        predictions = None
    return Guard(predictions, arm_variance, concentration(stratum, cells.condition, cells.groups.n_strata))
