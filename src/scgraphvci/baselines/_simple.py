"""The simple predictors that every model must beat."""

from __future__ import annotations

import numpy as np

from scgraphvci.baselines._base import Baseline


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

    A member's shift is that of this stratum if it was observed here, else its context shift.
    """

    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the control mean plus the sum of the members' shifts."""
        profile = self._means.control(stratum).copy()
        for member in np.flatnonzero(vector):
            alone = np.zeros_like(vector)
            alone[member] = vector[member]
            shift = self._means.shift_within(stratum, alone)
            profile += self._context_shift(stratum, alone) if shift is None else shift
        return profile
