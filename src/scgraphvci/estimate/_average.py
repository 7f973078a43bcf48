"""Averages of stratum effects over reported strata, and their variance at the level of cells or of clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from scgraphvci.estimate._accumulate import ARM, REFERENCE, BoolArray, EffectSums, FloatArray, IntArray, membership
from scgraphvci.estimate._clusters import Clusters
from scgraphvci.estimate._influence import Influence, Moments, influence_totals, variance_by_role


@dataclass(frozen=True)
class StratumAverage:
    """Which strata are averaged into which reported stratum, and with which weights.

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
        """Average over the strata that have both arms, with weights proportional to their cells; see `over`."""
        smaller_arm = moments.count[:, ARM]
        if moments.with_reference:
            smaller_arm = np.minimum(smaller_arm, moments.count[:, REFERENCE])
        return cls.over(smaller_arm, moments.n_cells, reported, n_reported)

    @classmethod
    def over(
        cls,
        smaller_arm: IntArray,
        n_cells: IntArray,
        reported: IntArray,
        n_reported: int,
        size: FloatArray | None = None,
    ) -> StratumAverage:
        """Average over the strata that have both arms; over all strata where no stratum has.

        A stratum with a single cell in an arm has no variance, so it enters only where no stratum has two.

        Parameters
        ----------
        smaller_arm
            Cells of the arm or the reference, whichever are fewer, ``(n_strata,)``.
        n_cells
            Cells of each stratum, ``(n_strata,)``.
        reported, n_reported
            As in the class.
        size
            What weights are proportional to, ``(n_strata,)``; cells if None.
        """
        largest = np.zeros(n_reported, dtype=np.int64)
        np.maximum.at(largest, reported, smaller_arm)
        covered = largest > 0
        used = (smaller_arm >= np.minimum(largest, 2)[reported]) | ~covered[reported]

        to_reported = membership(reported, n_reported)
        n_used = to_reported @ (n_cells * used)
        size = np.asarray(n_cells if size is None else size, dtype=np.float64) * used
        total = (to_reported @ size)[reported]
        share = np.divide(size, total, out=np.full(len(size), np.nan), where=total > 0)
        weight = sparse.csr_array((share, (reported, np.arange(len(size)))), shape=(n_reported, len(size)))
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
        per_freedom = 1.0 / np.maximum(moments.count - 1, 1)
        variance = self.weight.power(2) @ by_role.sum(axis=1)
        spread = self.weight.power(4) @ np.einsum("srg,srg,sr->sg", by_role, by_role, per_freedom)
        return variance, np.divide(variance**2, spread, out=np.full_like(variance, np.nan), where=spread > 0)

    def unexpected_variance(self, moments: Moments) -> FloatArray:
        """Variance that influence values do not tell, independent over strata, ``(n_reported, n_genes)``."""
        if moments.unexpected is None:
            return np.zeros((self.n_reported, moments.mean.shape[-1]))
        return self.weight.power(2) @ np.where(self.used[:, None], moments.unexpected, 0.0)

    def cluster_totals(
        self, sums: EffectSums, moments: Moments, influence: Influence, effect: FloatArray | None = None
    ) -> FloatArray:
        """Sum of influence values of every cluster or block, over the cells averaged: its share in the error.

        Parameters
        ----------
        sums, moments, influence
            Of one treatment.
        effect
            Effect in each stratum, ``(n_strata, n_genes)``. If given, totals include the difference of each stratum's
            effect from the average: a cluster brings its own cells of each stratum, and where strata are nested in
            clusters (donor among the covariates) that difference is all there is.

        Returns
        -------
        Shape ``(n_reported, n_clusters, n_genes)``, in units of the outcome.

        Raises
        ------
        ValueError
            If the sums were made without clusters and without blocks.
        """
        if effect is not None:
            influence = self.with_heterogeneity(influence, effect)
        return self.by_cluster(sums, influence_totals(sums, moments, influence)[0])

    def heterogeneity(self, effect: FloatArray) -> FloatArray:
        """Difference of each stratum's effect from the average it enters, ``(n_strata, n_genes)``; else zero."""
        return np.where(self.used[:, None], effect - self.mean(effect)[self.reported], 0.0)

    def with_heterogeneity(self, influence: Influence, effect: FloatArray) -> Influence:
        """The influence function, plus `heterogeneity` for every cell."""
        return Influence(influence.weight, influence.intercept + self.heterogeneity(effect)[:, None])

    def by_cluster(self, sums: EffectSums, total: FloatArray) -> FloatArray:
        """Sum totals of groups ``(n_groups, k)`` in each cluster, per cell averaged, ``(n_reported, n_clusters, k)``.

        The array given may be changed.
        """
        summing = self._by_cluster(sums)
        share = 1.0 / np.maximum(self.n_used, 1)[self.reported[sums.groups.stratum]]
        in_order = np.arange(summing.shape[1] + 1)
        one_each = summing.shape[0] == summing.shape[1] and np.array_equal(summing.indptr, in_order)
        if one_each and np.array_equal(summing.indices, in_order[:-1]):
            total *= (share * summing.data)[:, None]  # every group is a cluster: nothing to sum
            return total.reshape(self.n_reported, -1, total.shape[1])
        summing.data *= share[summing.indices]
        return (summing @ total).reshape(self.n_reported, -1, total.shape[1])

    def clusters(self, sums: EffectSums) -> Clusters:
        """Clusters or blocks of the cells averaged over."""
        count = self._by_cluster(sums) @ sums.count
        cells = np.rint(count).astype(np.int64).reshape(self.n_reported, -1, count.shape[1])
        return Clusters(cells, sums.with_reference, sums.groups.independent)

    def _by_cluster(self, sums: EffectSums) -> sparse.csr_array:
        """Matrix (reported strata x clusters, groups) that sums groups of strata used."""
        if sums.groups.cluster is None:
            msg = "These sums have no clusters. Make their `Groups` with `cluster`, or with random blocks."
            raise ValueError(msg)
        n_clusters = int(sums.groups.cluster.max(initial=0)) + 1
        row = self.reported[sums.groups.stratum] * n_clusters + sums.groups.cluster
        used = self.used[sums.groups.stratum].astype(np.float64)
        shape = (self.n_reported * n_clusters, sums.groups.n_groups)
        return sparse.csr_array((used, (row, np.arange(sums.groups.n_groups))), shape=shape)
