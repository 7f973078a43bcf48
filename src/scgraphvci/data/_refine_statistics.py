"""What refinement needs to know of the training cells before it starts, gathered in one pass over blocks of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from scgraphvci.data._edge_evidence import OTHER, Arms, edge_evidence

BLOCK_CELLS = 1024
RIDGE = 0.5  # on the scale of correlations: enough for regulators that nearly copy each other


@dataclass(frozen=True)
class RefineStatistics:
    """Statistics of expression after removing stratum means, over training cells.

    Attributes
    ----------
    mean
        Mean by stratum, ``(n_strata, n_genes)``; the mean of all training cells where a stratum has none.
    scale
        Standard deviation within strata, ``(n_genes,)``; 1 for constant genes.
    precision
        Inverse of the ridged correlation of the regulators, ``(n_regulators, n_regulators)``.
    own_scale
        Standard deviation of what is regulators' own, ``precision @ z``, ``(n_regulators,)``.
    covariance
        Of each source's message, in units of its standard deviation, with the target, ``(n_genes, n_sources)``.
    features
        Loadings of the leading components of co-expression with the sources, standardised, ``(n_genes, n_features)``.
    n_cells
        Number of cells.
    evidence
        For an edge from each source to each gene, ``(n_genes, n_sources)``; None if not asked for.
    perturbed
        Which sources a treatment perturbs, ``(n_sources,)``: their evidence has a part that others' lacks.
    """

    mean: np.ndarray
    scale: np.ndarray
    precision: np.ndarray
    own_scale: np.ndarray
    covariance: np.ndarray
    features: np.ndarray
    n_cells: int
    evidence: np.ndarray | None = None
    perturbed: np.ndarray | None = None


def refine_statistics(
    matrix: Any,
    *,
    stratum: np.ndarray,
    cells: np.ndarray,
    n_strata: int,
    sources: np.ndarray,
    regulators: np.ndarray,
    n_features: int,
    evidence: bool = False,
    intervention: np.ndarray | None = None,
) -> RefineStatistics:
    """Compute the statistics of some cells.

    Parameters
    ----------
    matrix
        Expression, cells x genes, dense or sparse, in memory or backed.
    stratum
        Code of each row of `matrix`.
    cells
        Rows to use: training cells.
    n_strata
        Number of codes.
    sources
        Genes that may be sources of an edge, sorted.
    regulators
        Those of them that are adjusted for one another; may be empty.
    n_features
        Number of features; 0 for none.
    evidence
        Whether to compute the evidence for edges.
    intervention
        Of each row of `matrix`: position of the perturbed gene, or a code of :mod:`scgraphvci.data._edge_evidence` for
        control and other treatments. None: nothing is known of treatments.
    """
    cells = np.sort(cells)
    mean = _stratum_means(matrix, stratum, cells, n_strata)
    square = np.zeros(mean.shape[1])
    covariance = np.zeros((len(sources), mean.shape[1]), dtype=np.float32)
    if intervention is None:
        intervention = np.full(len(stratum), OTHER)
    arms = Arms(intervention, stratum, cells, sources, mean.shape[1]) if evidence else None
    for block, rows in _blocks(matrix, cells):
        residual = (block - mean[stratum[rows]]).astype(np.float32)
        square += np.einsum("ij,ij->j", residual, residual, dtype=np.float64)
        covariance += residual[:, sources].T @ residual
        if arms is not None:
            arms.add(residual, rows)
    scale = np.sqrt(square / len(cells))
    scale[scale < 1e-6] = 1.0  # a constant gene has residuals of rounding error only
    covariance /= len(cells) * scale[sources][:, None] * scale[None, :]
    if arms is not None:
        arms.standardise(scale)
    precision, own_scale, adjusted = _adjust(covariance, np.searchsorted(sources, regulators), regulators)
    return RefineStatistics(
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        precision=precision,
        own_scale=own_scale,
        covariance=adjusted.T,
        features=_features(covariance, n_features),
        n_cells=len(cells),
        evidence=None if arms is None else edge_evidence(covariance, sources, arms).T,
        perturbed=None if arms is None else np.isin(sources, arms.genes),
    )


def _adjust(
    covariance: np.ndarray, rows: np.ndarray, regulators: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision and scale of the regulators, and the covariance of messages with targets, source by target.

    With Theta the precision, u = Theta z holds what is each regulator's own. For a target i that is itself a regulator,
    Theta of the others alone is Theta - Theta_.i Theta_i. / Theta_ii, so that the message of j is
    u_j - u_i Theta_ji / Theta_ii, which does not contain z_i.
    """
    if len(regulators) == 0:
        return np.empty((0, 0), dtype=np.float32), np.empty(0, dtype=np.float32), covariance
    among = covariance[np.ix_(rows, regulators)].astype(np.float64)
    precision = np.linalg.inv(among + RIDGE * np.eye(len(rows)))
    own_scale = np.sqrt(np.maximum(np.einsum("ij,jk,ki->i", precision, among, precision), 1e-12))
    own = (precision @ covariance[rows]).astype(np.float32)
    own[:, regulators] -= precision / np.diag(precision) * np.diag(own[:, regulators])
    own /= own_scale[:, None]
    adjusted = covariance.copy()
    adjusted[rows] = own
    return precision.astype(np.float32), own_scale.astype(np.float32), adjusted


def _features(covariance: np.ndarray, n_features: int) -> np.ndarray:
    n_features = min(n_features, min(covariance.shape) - 1)
    if n_features < 1:
        return np.empty((covariance.shape[1], 0), dtype=np.float32)
    _, _, loadings = svds(covariance.astype(np.float64), k=n_features, v0=np.ones(min(covariance.shape)))
    loadings = loadings[::-1].T
    loadings = loadings * np.where(loadings.sum(axis=0) < 0, -1.0, 1.0)  # the sign of a component is arbitrary
    sd = loadings.std(axis=0)
    return ((loadings - loadings.mean(axis=0)) / np.where(sd > 0, sd, 1.0)).astype(np.float32)


def _stratum_means(matrix: Any, stratum: np.ndarray, cells: np.ndarray, n_strata: int) -> np.ndarray:
    total = np.zeros((n_strata, matrix.shape[1]))
    for block, rows in _blocks(matrix, cells):
        member = sparse.csr_array(
            (np.ones(len(rows)), (stratum[rows], np.arange(len(rows)))), shape=(n_strata, len(rows))
        )
        total += member @ block
    count = np.bincount(stratum[cells], minlength=n_strata)[:, None]
    return np.where(count > 0, total / np.maximum(count, 1), total.sum(axis=0) / len(cells))


def _blocks(matrix: Any, cells: np.ndarray) -> Any:
    for start in range(0, len(cells), BLOCK_CELLS):
        rows = cells[start : start + BLOCK_CELLS]
        block = matrix[rows]
        yield (block.toarray() if sparse.issparse(block) else np.asarray(block)).astype(np.float64), rows
