"""Averages of stratum effects over reported strata, and their variance at the level of cells or of clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from scgraphvci.estimate._accumulate import ARM, REFERENCE, BoolArray, EffectSums, FloatArray, IntArray, membership
from scgraphvci.estimate._influence import Influence, Moments, cells_by_stratum, influence_totals, variance_by_role


@dataclass(frozen=True)
class StratumAverage:
    """Which strata are averaged into which reported stratum, with weights proportional to their cells.

    Parameters
    ----------
    reported
        Reported stratum of each stratum, ``(n_strata,)``.
    n_reported
        Number of reported strata.
    used
        Strata that enter an average, ``(n_strata,)``.
    covered
        Reported strata with at least one stratum that has both arms, ``(n_reported,)``.
    n_used
        Cells of the strata that enter, ``(n_reported,)``.
    weight
        Sparse ``(n_reported, n_strata)``; rows sum to one.
    """

    reported: IntArray
    n_reported: int
    used: BoolArray
    covered: BoolArray
    n_used: IntArray
    weight: sparse.csr_array

    @classmethod
    def of(cls, moments: Moments, reported: IntArray, n_reported: int) -> StratumAverage:
        """Average over the strata that have both arms; over all strata where no stratum has.

        A stratum with a single cell in an arm has no variance, so it enters only where no stratum has two.
        """
        smaller_arm = moments.count[:, ARM]
        if moments.with_reference:
            smaller_arm = np.minimum(smaller_arm, moments.count[:, REFERENCE])
        largest = np.zeros(n_reported, dtype=np.int64)
        np.maximum.at(largest, reported, smaller_arm)
        covered = largest > 0
        used = (smaller_arm >= np.minimum(largest, 2)[reported]) | ~covered[reported]

        cells = moments.n_cells * used
        n_used = membership(reported, n_reported) @ cells
        share = np.divide(cells, n_used[reported], out=np.full(len(cells), np.nan), where=n_used[reported] > 0)
        weight = sparse.csr_array((share, (reported, np.arange(len(cells)))), shape=(n_reported, len(cells)))
        return cls(reported, n_reported, used, covered, n_used, weight)

    def mean(self, value: FloatArray) -> FloatArray:
        """Weighted mean of values ``(n_strata, n_genes)`` over the strata used, ``(n_reported, n_genes)``."""
        return self.weight @ np.where(self.used[:, None], value, 0.0)

    def cell_variance(self, moments: Moments, influence: Influence) -> tuple[FloatArray, FloatArray]:
        """Variance of the average when cells are independent, given the cells of each stratum.

        Degrees of freedom follow Welch and Satterthwaite over strata and roles.

        Returns
        -------
        Variance and degrees of freedom, each ``(n_reported, n_genes)``.
        """
        by_role = variance_by_role(moments, influence)
        freedom = np.maximum(moments.count - 1, 1)[:, :, None]
        variance = self.weight.power(2) @ by_role.sum(axis=1)
        spread = self.weight.power(4) @ (by_role**2 / freedom).sum(axis=1)
        return variance, np.divide(variance**2, spread, out=np.full_like(variance, np.nan), where=spread > 0)

    def cluster_variance(
        self, sums: EffectSums, moments: Moments, influence: Influence, effect: FloatArray
    ) -> tuple[FloatArray, IntArray]:
        """Variance of the average when clusters are independent: ``G / (G - 1)`` times the sum of squared totals.

        A cluster's total is the sum of its influence values over all strata. It includes the difference of each
        stratum's effect from the average: a cluster brings its own cells of each stratum, and where strata are nested
        in clusters (donor among the covariates) that difference is all there is.

        G counts the clusters that have cells in the arm, or those that have cells in the reference, whichever are
        fewer.

        Parameters
        ----------
        sums, moments, influence
            Of one treatment.
        effect
            Effect in each stratum, ``(n_strata, n_genes)``.

        Returns
        -------
        Variance ``(n_reported, n_genes)`` and G ``(n_reported,)``.

        Raises
        ------
        ValueError
            If the sums were made without clusters.
        """
        if sums.groups.cluster is None:
            msg = "These sums have no clusters. Make their `Groups` with `cluster`."
            raise ValueError(msg)
        used = self.used[sums.groups.stratum]
        reported = self.reported[sums.groups.stratum]
        n_clusters = int(sums.groups.cluster.max(initial=0)) + 1
        pairs, pair = np.unique(reported * n_clusters + sums.groups.cluster, return_inverse=True)
        to_pair = membership(pair, len(pairs))[:, used]
        to_reported = membership(pairs // n_clusters, self.n_reported)
        heterogeneity = np.where(self.used[:, None], effect - self.mean(effect)[self.reported], 0.0)
        cells = cells_by_stratum(sums, sums.count.sum(axis=1))[used]
        total = to_pair @ influence_totals(sums, moments, influence)[used] + (to_pair @ cells) @ heterogeneity
        squares = to_reported @ total**2

        arms = [ARM, REFERENCE] if moments.with_reference else [ARM]
        clusters_by_arm = to_reported @ (to_pair @ sums.count[used][:, arms] > 0).astype(np.int64)
        n_effective = clusters_by_arm.min(axis=1)
        factor = n_effective / np.maximum(n_effective - 1, 1)
        return factor[:, None] * squares / np.maximum(self.n_used, 1)[:, None] ** 2, n_effective
