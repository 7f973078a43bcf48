"""The simple predictors that every model must beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scgraphvci.baselines._base import Baseline

PRIOR_CELLS = 2.0  # of every level of a covariate, at the mean of all controls


class NoChange(Baseline):
    """Nothing happens: every cell keeps its expression.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci.baselines import NoChange
    >>> adata = sgv.datasets.simulate(n_cells=200, n_genes=40, n_perturbations=3, n_donors=2, seed=0)
    >>> treatment = adata.obs["perturbation"].cat.categories[1]
    >>> predicted = NoChange(adata, split_key="split").predict(treatment, indices=[5])
    >>> bool((predicted.X == adata.X[[5]].toarray()).all())
    True
    """

    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the mean of the stratum's controls."""
        return self._means.control(stratum)


class TrainMean(Baseline):
    """The mean of the training perturbations, each counting once, whatever stratum and treatment are asked for."""

    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the mean over perturbations of their mean profiles."""
        mean = self._means.treated()
        return self._means.control(stratum) if mean is None else mean


class StratumMean(Baseline):
    """The mean of the training perturbations of the stratum, each counting once; that of all strata if it has none."""

    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the mean over perturbations of their mean profiles in the stratum."""
        mean = self._means.treated(stratum)
        if mean is None:
            mean = self._means.treated()
        return self._means.control(stratum) if mean is None else mean


class ControlLevel(Baseline):
    r"""The control level of the stratum without its noise, and no response.

    Control means :math:`c_x` of strata with :math:`n_x` training controls are fitted by levels of the covariates that
    add up: :math:`b` and :math:`o` minimise :math:`\sum_x n_x (c_x - b - \sum_k o_{k x_k})^2 + 2 \sum o^2`.

    A negative control. Shifts are taken from the mean of the stratum's own controls. The noise of that mean is in the
    true shift and, since this prediction does not share it, in the predicted one too: metrics of shifts from control
    reward the predictor, though it knows of no treatment.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._level = self._fit()

    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the fitted level; the mean of all controls for a stratum that has no cell in the screen."""
        return self._level[stratum] if stratum < len(self._level) else self._means.control(stratum)

    def _fit(self) -> np.ndarray:
        """Fit levels of all strata of the screen, shape ``(n_strata, n_genes)``."""
        covariates = self._codes.strata
        levels = [pd.get_dummies(covariates[key], dtype=float) for key in covariates]
        design = np.column_stack([np.ones(len(covariates)), *levels])
        strata, means, n_cells = self._means.controls()
        weighted = design[strata].T * n_cells
        penalty = np.diag([0.0, *[PRIOR_CELLS] * (design.shape[1] - 1)])
        coefficients = np.linalg.lstsq(weighted @ design[strata] + penalty, weighted @ means, rcond=None)[0]
        return design @ coefficients


class ContextShift(Baseline):
    """The treatment's mean shift in the *other* strata, added to this stratum's control.

    The null to beat where a treatment is held out in a stratum but known in others. Shifts are averaged by treated
    cells. A treatment known in this stratum alone shifts as it does here; one known nowhere by the mean shift of all.
    """

    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the control mean plus the shift of the other strata."""
        return self._means.control(stratum) + self._context_shift(stratum, vector)

    def _context_shift(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        shift = self._means.shift_elsewhere(stratum, vector)
        if shift is None:
            shift = self._means.shift_within(stratum, vector)
        return self._means.mean_shift() if shift is None else shift


class Additive(ContextShift):
    """The sum of the shifts of a treatment's members, each taken alone, added to this stratum's control.

    A member's shift is that of this stratum if it was observed here, else its context shift. A treatment that was
    itself observed in this stratum, at this dose, has its mean there.
    """

    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the treatment's own mean, or the control mean plus the sum of the members' shifts."""
        observed = self._means.observed(stratum, vector)
        if observed is not None:
            return observed
        profile = self._means.control(stratum).copy()
        for member in np.flatnonzero(vector):
            alone = np.zeros_like(vector)
            alone[member] = vector[member]
            shift = self._means.shift_within(stratum, alone)
            profile += self._context_shift(stratum, alone) if shift is None else shift
        return profile
