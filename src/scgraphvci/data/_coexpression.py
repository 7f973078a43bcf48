"""Coexpression within the levels of a covariate: how a response travels from gene to gene there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.extmath import randomized_svd

from scgraphvci.data._gene_regression import GeneRegression, RegulatorRegression, Regulators
from scgraphvci.data._moments import dense_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scgraphvci.data._gene_regression import Regression, Route
    from scgraphvci.data._moments import StratumMoments

MAX_CELLS = 50_000  # more would not change the covariance of genes
N_AXES = 200
AXES_VALUES = 20_000_000  # size of the matrix that the axes are found in
MIN_SCALE = 1e-3


@dataclass(frozen=True)
class Residuals:
    """Deviations of training cells from the mean of their stratum and treatment, along leading axes.

    Attributes
    ----------
    axes
        Orthonormal axes, shape ``(n_genes, n_axes)``.
    score
        Coordinates of cells, genes in standard deviations within strata, shape ``(n_cells, n_axes)``.
    stratum, condition
        Codes of the cells, shape ``(n_cells,)``.
    """

    axes: np.ndarray
    score: np.ndarray
    stratum: np.ndarray
    condition: np.ndarray


def cell_residuals(
    matrix: Any,
    stratum: np.ndarray,
    condition: np.ndarray,
    moments: StratumMoments,
    cells: np.ndarray,
    library: np.ndarray | None = None,
    n_axes: int = N_AXES,
) -> Residuals:
    """Compute residuals of at most 50,000 cells: one pass over some of them finds the axes, a second one the scores.

    Parameters
    ----------
    matrix, stratum, condition, cells, library
        As for :func:`stratum_moments`, which gave `moments`.
    moments
        Moments of the cells.
    n_axes
        How many axes to keep.
    """
    rng = np.random.default_rng(0)
    cells = np.asarray(cells)
    if cells.size > MAX_CELLS:
        cells = rng.choice(cells, MAX_CELLS, replace=False)
    row = moments.row[stratum[cells], condition[cells]]
    cells = np.sort(cells[moments.n_cells[row] > 1])  # a lone cell has no deviation from its mean
    row = moments.row[stratum[cells], condition[cells]]
    n_genes = matrix.shape[1]
    n_shown = min(cells.size, max(AXES_VALUES // n_genes, 4 * n_axes))
    shown = np.sort(rng.choice(cells.size, n_shown, replace=False))
    block = _Standardised(matrix, moments, library)
    n_axes = min(n_axes, n_genes, max(n_shown - 1, 1))
    parts = [values for _, values in block.residuals(cells[shown], row[shown])]
    some = np.concatenate(parts) if parts else np.zeros((1, n_genes))
    axes = randomized_svd(some, n_axes, n_iter=4, random_state=0)[2].T
    score = np.zeros((cells.size, axes.shape[1]), dtype=np.float32)
    for part, values in block.residuals(cells, row):
        score[part] = values @ axes
    return Residuals(axes, score, stratum[cells], condition[cells])


class _Standardised:
    """Residuals of cells in standard deviations within strata."""

    def __init__(self, matrix: Any, moments: StratumMoments, library: np.ndarray | None) -> None:
        self.matrix, self.moments, self.library = matrix, moments, library
        self.scale = np.sqrt(moments.within_variance) + MIN_SCALE
        self.inflation = np.sqrt(moments.n_cells / np.maximum(moments.n_cells - 1, 1))

    def residuals(self, cells: np.ndarray, row: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield positions and residuals of sorted cells, in blocks; `row` is that of their moments."""
        for part, values in dense_blocks(self.matrix, cells, self.library, self.moments.library_size):
            yield part, (values - self.moments.mean[row[part]]) * self.inflation[row[part], None] / self.scale


class Coexpression:
    """Regressions of genes on one another within the levels of a covariate.

    Parameters
    ----------
    residuals
        Residuals of cells.
    level
        Level of each stratum, shape ``(n_strata,)``.
    routes
        What each gene is regressed on, one regression for each: its regulators in a network, or None: all other genes.
    """

    def __init__(self, residuals: Residuals, level: np.ndarray, routes: Sequence[Route] = (None,)) -> None:
        self.axes = residuals.axes
        self._routes = [route and Regulators(route, residuals.axes.shape[0]) for route in routes]
        of_cell = level[residuals.stratum]
        order = np.lexsort([residuals.condition, of_cell])
        self._score = residuals.score[order].astype(np.float64)
        self._level, self._condition = of_cell[order], residuals.condition[order]
        self._gram: dict[int, np.ndarray] = {}

    def regressions(self, level: int, without: int | None = None) -> list[Regression]:
        """Regressions over the cells of a level, those of one condition left out, one for each route.

        A training pair must be as ignorant of itself as a held-out one: its cells carry the treatment's effect. The
        penalty stays that of the whole level, in which a held-out pair has no cells.
        """
        first, last = np.searchsorted(self._level, [level, level + 1])
        if level not in self._gram:
            self._gram[level] = self._score[first:last].T @ self._score[first:last]
        gram, n_cells = self._gram[level], last - first
        if without is not None:
            begin, end = first + np.searchsorted(self._condition[first:last], [without, without + 1])
            gram = gram - self._score[begin:end].T @ self._score[begin:end]
        return [
            GeneRegression(self.axes, gram, int(n_cells))
            if regulators is None
            else RegulatorRegression(self.axes, gram, int(n_cells), regulators)
            for regulators in self._routes
        ]
