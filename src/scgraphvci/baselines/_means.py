"""Means and shifts of training cells, looked up by stratum and treatment vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scgraphvci.data import StratumMoments


class TrainMeans:
    """Mean profiles of training cells and their shifts from control.

    A treatment vector that was never observed is looked up at the nearest dose of the same perturbations.

    Parameters
    ----------
    moments
        Moments of the training cells.
    design
        Treatment vectors, shape ``(n_conditions, n_perturbations)``; row 0 is control.
    """

    def __init__(self, moments: StratumMoments, design: np.ndarray) -> None:
        self._row = moments.row
        self._mean = moments.mean.astype(np.float64)
        self._n_cells = moments.n_cells.astype(np.float64)
        self._design = design
        self._support = design != 0
        self._has_control = self._row[:, 0] >= 0
        self._control = self._average(self._row[self._has_control, 0])

    def control(self, stratum: int) -> np.ndarray:
        """Mean of the stratum's controls; of all controls where it has none."""
        row = self._row[stratum, 0] if stratum < len(self._row) else -1
        return self._mean[row] if row >= 0 else self._control

    def controls(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return strata with controls, their control means ``(n_strata, n_genes)``, and the numbers of cells."""
        rows = self._row[self._has_control, 0]
        return np.flatnonzero(self._has_control), self._mean[rows], self._n_cells[rows]

    def observed(self, stratum: int, vector: np.ndarray) -> np.ndarray | None:
        """Mean of exactly this treatment in this very stratum, or None where that was not observed."""
        if stratum >= len(self._row):
            return None
        rows = self._row[stratum, (self._design == vector).all(axis=1)]
        rows = rows[rows >= 0]
        return self._average(rows) if rows.size else None

    def treated(self, stratum: int | None = None) -> np.ndarray | None:
        """Mean over perturbations, each counting once, of their mean profiles in a stratum, or over all cells.

        None where the stratum has no treated training cells.
        """
        if stratum is not None and stratum >= len(self._row):
            return None
        rows = self._row[:, 1:] if stratum is None else self._row[[stratum], 1:]
        profiles = [self._average(column[column >= 0]) for column in rows.T if np.any(column >= 0)]
        return np.mean(profiles, axis=0) if profiles else None

    def shift_within(self, stratum: int, vector: np.ndarray) -> np.ndarray | None:
        """Shift from control in this very stratum, or None where that was not observed."""
        if stratum >= len(self._row):
            return None
        return self._shift(np.array([stratum]), vector)

    def shift_elsewhere(self, stratum: int, vector: np.ndarray) -> np.ndarray | None:
        """Shift from control averaged over the other strata by their treated cells, or None."""
        strata = np.arange(len(self._row))
        return self._shift(strata[strata != stratum], vector)

    def is_known(self, vector: np.ndarray) -> bool:
        """Whether a treatment's shift was observed in some stratum, at whatever dose."""
        return self._shift(np.arange(len(self._row)), vector) is not None

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observed pairs of stratum and treatment whose stratum has controls.

        Returns
        -------
        Strata, treatments (rows of the design, never control), and shifts from control, shape ``(n_pairs, n_genes)``.
        """
        strata, treated = np.nonzero((self._row[:, 1:] >= 0) & self._has_control[:, None])
        conditions = treated + 1
        shifts = self._mean[self._row[strata, conditions]] - self._mean[self._row[strata, 0]]
        return strata, conditions, shifts

    def mean_shift(self) -> np.ndarray:
        """Mean over treatments, each counting once, of their shifts averaged over strata."""
        strata = np.arange(len(self._row))
        shifts = [self._shift(strata, vector) for vector in self._design[1:]]
        known = [shift for shift in shifts if shift is not None]
        return np.mean(known, axis=0) if known else np.zeros(self._mean.shape[1])

    def _shift(self, strata: np.ndarray, vector: np.ndarray) -> np.ndarray | None:
        """Shift averaged over strata that have both arms, by their treated cells."""
        strata = strata[self._has_control[strata]]
        observed = (self._row[strata] >= 0).any(axis=0) & (self._support == (vector != 0)).all(axis=1)
        candidates = np.flatnonzero(observed)
        if candidates.size == 0:
            return None
        nearest = candidates[np.argmin(np.abs(self._design[candidates] - vector).sum(axis=1))]
        rows = self._row[strata, nearest]
        seen = rows >= 0
        shifts = self._mean[rows[seen]] - self._mean[self._row[strata[seen], 0]]
        return np.average(shifts, axis=0, weights=self._n_cells[rows[seen]])

    def _average(self, rows: np.ndarray) -> np.ndarray:
        """Mean over the cells of some rows; 0 without any."""
        if rows.size == 0:
            return np.zeros(self._mean.shape[1])
        return np.average(self._mean[rows], axis=0, weights=self._n_cells[rows])
