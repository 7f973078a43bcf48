"""Influence totals kept in a result, and what is joint over genes: simultaneous bands and Romano-Wolf p-values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scgraphvci.estimate._accumulate import FloatArray, IntArray
from scgraphvci.estimate._multiplicity import adjust_p_values
from scgraphvci.estimate._multiplier import MIN_CLUSTERS, joint_level, romano_wolf, signs

N_DRAWS, SEED = 1000, 0
"""Of the multiplier bootstrap, unless said otherwise."""


LIKE_SIZE = 0.85
"""Least ratio of effective clusters to clusters for a bootstrap: with a few large ones 95 % bands cover .85 to .92."""


@dataclass(frozen=True)
class InfluenceTotals:
    """Sums of influence values over the cells of each cluster, or of each random block of independent cells.

    Parameters
    ----------
    total
        Float32 or float64, ``(n_treatments, n_strata, n_clusters, n_genes)``, in units of the outcome: what the cluster
        adds to the error of the estimate. Zero where the stratum has no cells of the cluster.
    n_clusters
        Clusters or blocks with cells in the arm, or in the reference, whichever are fewer,
        ``(n_treatments, n_strata)``.
    effective
        Clusters of equal size that would tell as much (see `Clusters.effective`), ``(n_treatments, n_strata)``.
    independent
        Whether cells are independent: blocks then only tell how errors of genes go together.
    cells
        Cells averaged over, by cluster and role, ``(n_treatments, n_strata, n_clusters, n_roles)``; `None` for
        contrasts, whose two sides have cells of their own.
    variance, df
        Of independent cells, ``(n_treatments, n_strata, n_genes)``, also where cells are too few for the result to
        show an error: an average over strata still rests on them. `None` with clusters, whose totals say it.
    """

    total: NDArray[np.floating[Any]]
    n_clusters: IntArray
    effective: FloatArray
    independent: bool
    cells: IntArray | None = None
    variance: FloatArray | None = None
    df: FloatArray | None = None

    def take(self, treatments: IntArray, strata: IntArray) -> InfluenceTotals:
        """The same for some treatments and strata."""
        chosen = np.ix_(treatments, strata)
        held: dict[str, Any] = {
            name: value[chosen] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, **held)

    def can_be_drawn(self, row: tuple[int, ...]) -> bool:
        """Whether clusters are many and alike enough in size for a bootstrap of the largest statistic."""
        enough = self.n_clusters[row] >= MIN_CLUSTERS
        return bool(enough and self.effective[row] >= LIKE_SIZE * self.n_clusters[row])

    def of_row(self, treatment: int, stratum: int) -> FloatArray:
        """Totals of the clusters that have cells in one stratum, ``(n_present, n_genes)``."""
        total = self.total[treatment, stratum]
        return total[total.any(axis=1)]


@dataclass(frozen=True)
class JointLevels:
    """Levels of the pointwise intervals that hold jointly over genes, ``(n_treatments, n_strata)``.

    Parameters
    ----------
    level
        NaN where no gene has an error.
    method
        How it was found: "multiplier_bootstrap" from 12 clusters of like size on, else "bonferroni", `None` without an
        error.
    """

    level: FloatArray
    method: NDArray[np.object_]

    def take(self, treatments: IntArray, strata: IntArray) -> JointLevels:
        """The same for some treatments and strata."""
        chosen = np.ix_(treatments, strata)
        return JointLevels(self.level[chosen], self.method[chosen])


def joint_levels(
    influence: InfluenceTotals,
    p_value_known: NDArray[np.bool_],
    alpha: float,
    n_draws: int = N_DRAWS,
    seed: int = SEED,
) -> JointLevels:
    """Level of the pointwise intervals that hold jointly over genes, in every treatment and stratum.

    Parameters
    ----------
    influence
        Totals of the result.
    p_value_known
        Genes that have an error other than zero, ``(n_treatments, n_strata, n_genes)``; others are not counted.
    alpha
        One minus the joint level.
    n_draws, seed
        Of the bootstrap.

    """
    shape = influence.n_clusters.shape
    level, method = np.full(shape, np.nan), np.full(shape, None, dtype=object)
    for row in np.ndindex(*shape):
        known = p_value_known[row]
        if not known.any():
            continue
        if not influence.can_be_drawn(row):
            level[row], method[row] = alpha / known.sum(), "bonferroni"
            continue
        totals = influence.of_row(*row)
        totals = totals if known.all() else totals[:, known]
        multipliers = signs(len(totals), n_draws, seed)
        level[row], method[row] = joint_level(totals, alpha, multipliers), "multiplier_bootstrap"
    return JointLevels(level, method)


def romano_wolf_p_values(
    influence: InfluenceTotals, p_value: FloatArray, n_draws: int = N_DRAWS, seed: int = SEED
) -> FloatArray:
    """Romano-Wolf p-values over the genes of each treatment and stratum; Holm's without 12 of like size.

    Parameters
    ----------
    influence
        Totals of the result.
    p_value
        ``(n_treatments, n_strata, n_genes)``; NaN marks a test that was not done.
    n_draws, seed
        Of the bootstrap.
    """
    adjusted = adjust_p_values(p_value, "holm")
    for row in np.ndindex(*influence.n_clusters.shape):
        if influence.can_be_drawn(row) and np.isfinite(p_value[row]).any():
            totals = influence.of_row(*row)
            adjusted[row] = romano_wolf(p_value[row], totals, signs(len(totals), n_draws, seed))
    return adjusted
