"""Counts of arms, and first and second moments of latents within them, gathered in one pass over the cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from scgraphvci.estimate._accumulate import FloatArray, IntArray, membership

NEGLIGIBLE = 1e-4
"""Directions with less than this share of the largest variance hold nothing: their latents are not used."""


class ArmMoments:
    """Arms of a screen, the cells that each stratum has of each condition, and moments of their latents.

    Parameters
    ----------
    stratum
        Stratum of each cell, ``(n_cells,)``, codes from 0.
    condition
        What each cell received, ``(n_cells,)``, codes from 0.

    Attributes
    ----------
    of_cell
        Arm of each cell, ``(n_cells,)``.
    stratum, condition
        Of each arm, ``(n_arms,)``.
    count
        Cells added of each arm, ``(n_arms,)``.

    Examples
    --------
    >>> import numpy as np
    >>> arms = ArmMoments([0, 0, 0], [1, 1, 0])
    >>> _ = arms.update([[1.0], [3.0], [7.0]], slice(None))
    >>> (arms.mean - arms.mean[0]).ravel().tolist(), arms.n_within
    ([0.0, -5.0], 1.0)
    """

    def __init__(self, stratum: ArrayLike, condition: ArrayLike) -> None:
        stratum, condition = np.asarray(stratum, dtype=np.int64), np.asarray(condition, dtype=np.int64)
        n_conditions = int(condition.max(initial=0)) + 1
        pairs, self.of_cell = np.unique(stratum * n_conditions + condition, return_inverse=True)
        self.stratum, self.condition = np.divmod(pairs, n_conditions)
        self.count: FloatArray = np.zeros(len(pairs))
        self._origin: FloatArray | None = None  # a first cell: sums of squares are then no difference of large numbers
        self._first: FloatArray = np.zeros((len(pairs), 0))
        self._second: FloatArray = np.zeros((0, 0))

    def update(self, latent: ArrayLike, cells: IntArray | slice) -> tuple[sparse.csr_array, FloatArray]:
        """Add cells.

        Parameters
        ----------
        latent
            Shape ``(batch, n_latent)``.
        cells
            Their positions among the cells of the constructor, ``(batch,)``, or a slice of them.

        Returns
        -------
        Which arm each cell is in, as a sparse matrix of ones, ``(n_arms, batch)``, and latents less a common origin,
        ``(batch, n_latent)``.
        """
        latent = np.asarray(latent, dtype=np.float64)
        if self._origin is None:
            n_latent = latent.shape[1]
            self._origin = latent[0].copy()
            self._first, self._second = np.zeros((len(self.count), n_latent)), np.zeros((n_latent, n_latent))
        latent = latent - self._origin
        member = membership(self.of_cell[cells], len(self.count)).astype(np.float64)
        self.count += member.sum(axis=1)
        self._first += member @ latent
        self._second += latent.T @ latent
        return member, latent

    @property
    def n_within(self) -> float:
        """Degrees of freedom within arms: cells less arms that have any."""
        return float(self.count.sum() - (self.count > 0).sum())

    @property
    def mean(self) -> FloatArray:
        """Mean latent of each arm less the common origin, ``(n_arms, n_latent)``; 0 without cells."""
        return self._first / np.maximum(self.count, 1)[:, None]

    def unit_directions(self) -> FloatArray:
        """Directions of the latent that are uncorrelated within arms, scaled to unit variance, ``(n_latent, k)``."""
        second = (self._second - self._first.T @ self.mean) / max(self.n_within, 1.0)
        variance, direction = np.linalg.eigh(second)
        used = variance > max(NEGLIGIBLE * variance[-1], np.finfo(float).tiny)
        return np.asarray(direction[:, used] / np.sqrt(variance[used]))
