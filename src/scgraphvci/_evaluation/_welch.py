"""Welch's test of two groups of cells, gene by gene, from their moments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

MIN_VARIANCE = 1e-12  # of a mean: keeps genes that never vary finite


class Group(NamedTuple):
    """Moments of a group of cells.

    Attributes
    ----------
    mean, variance
        Shape ``(n_genes,)``; the variance has denominator n.
    n
        Number of cells.
    """

    mean: np.ndarray
    variance: np.ndarray
    n: int

    @classmethod
    def of(cls, cells: np.ndarray) -> Group:
        """Moments of cells, shape ``(n_cells, n_genes)``."""
        return cls(cells.mean(axis=0), cells.var(axis=0), len(cells))

    @classmethod
    def pooled(cls, mean: np.ndarray, variance: np.ndarray, n: np.ndarray) -> Group:
        """Moments of the union of groups: `mean` and `variance` of shape ``(n_groups, n_genes)``, `n` per group."""
        centre = np.average(mean, axis=0, weights=n)
        spread = np.average(variance + (mean - centre) ** 2, axis=0, weights=n)
        return cls(centre, spread, int(n.sum()))

    @property
    def sample_variance(self) -> np.ndarray:
        """Variance with denominator n - 1."""
        return self.variance * self.n / (self.n - 1)


def welch(a: Group, b: Group) -> tuple[np.ndarray, np.ndarray]:
    """Welch's t of two groups and its two-sided p-value, shape ``(n_genes,)`` each.

    A single cell has no variance: it borrows that of the other group for t, and its p-values are 1.
    """
    spread_a = b.sample_variance if a.n < 2 <= b.n else a.sample_variance if a.n > 1 else np.zeros_like(a.mean)
    spread_b = a.sample_variance if b.n < 2 <= a.n else b.sample_variance if b.n > 1 else np.zeros_like(b.mean)
    part_a, part_b = spread_a / a.n, spread_b / b.n
    t = (a.mean - b.mean) / np.sqrt(part_a + part_b + MIN_VARIANCE)
    if min(a.n, b.n) < 2:
        return t, np.ones_like(t)
    weight = part_a**2 / (a.n - 1) + part_b**2 / (b.n - 1)
    freedom = np.divide((part_a + part_b) ** 2, weight, out=np.full_like(weight, a.n + b.n - 2), where=weight > 0)
    return t, 2 * stats.t.sf(np.abs(t), freedom)
