"""Clusters that an average rests on, and the variance of what they bring to its error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scgraphvci.estimate._accumulate import ARM, REFERENCE, FloatArray, IntArray


@dataclass(frozen=True)
class Clusters:
    """Cells of every cluster or block, and what follows from them.

    Parameters
    ----------
    cells
        Cells averaged over, by role, ``(n_reported, n_clusters, n_roles)``.
    with_reference
        Whether the reference counts.
    independent
        Whether clusters are random blocks of independent cells.

    Examples
    --------
    >>> import numpy as np
    >>> clusters = Clusters(np.array([[[5, 5, 0], [5, 5, 0], [60, 60, 0]]]), with_reference=True, independent=False)
    >>> clusters.n.item(), clusters.effective.round(2).item()
    (3, 1.34)
    """

    cells: IntArray
    with_reference: bool
    independent: bool

    @cached_property
    def n(self) -> IntArray:
        """Clusters that have cells in the arm, or in the reference, whichever are fewer, ``(n_reported,)``."""
        return np.asarray((self._of_arms > 0).sum(axis=-2).min(axis=-1))

    @cached_property
    def effective(self) -> FloatArray:
        r"""Clusters of equal size that would tell as much, of the arm or the reference, whichever are fewer.

        :math:`1 / \sum_c w_c^2`, w being the shares of an arm's cells: the mean of an arm lies closest to the mean of
        its largest clusters, whose totals are therefore too small. Random blocks are as good as equal. Shape
        ``(n_reported,)``.
        """
        if self.independent:
            return self.n.astype(np.float64)
        size = self._of_arms.astype(np.float64)
        square = (size**2).sum(axis=-2)
        return np.asarray(
            np.divide(size.sum(axis=-2) ** 2, square, out=np.zeros_like(square), where=square > 0).min(axis=-1)
        )

    def variance_of(self, totals: FloatArray) -> FloatArray:
        """Variance of an average when clusters are independent: ``G / (G - 1)`` times the sum of their squared totals.

        G is `effective`; totals are as `StratumAverage.cluster_totals` gives, ``(n_reported, n_clusters, n_genes)``.
        """
        return small_sample_factor(self.effective)[:, None] * np.einsum("xcg,xcg->xg", totals, totals)

    @property
    def _of_arms(self) -> IntArray:
        return self.cells[..., [ARM, REFERENCE] if self.with_reference else [ARM]]


def small_sample_factor(effective: FloatArray) -> FloatArray:
    """``G / (G - 1)`` for a variance from effectively G clusters; 1 where there is one."""
    several = effective > 1
    return np.where(several, effective / np.where(several, effective - 1, 1), 1.0)
