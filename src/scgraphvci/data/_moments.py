"""Moments of expression per stratum and treatment: the model fit phat(y' | x, t') of the distribution loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgraphvci.data._read import BLOCK_VALUES
from scgraphvci.data._rows import by_rows

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class StratumMoments:
    """Per-gene moments of the training cells, for every observed pair of stratum and treatment.

    Attributes
    ----------
    row
        Row of `mean` and `variance` for each stratum and treatment vector, -1 where never observed, shape
        ``(n_strata, n_conditions)``.
    n_cells
        Cells behind each row, shape ``(n_rows,)``.
    mean, variance
        Moments on the outcome scale (counts per `library_size` for counts), shape ``(n_rows, n_genes)``, float32. The
        variance has denominator n.
    input_mean
        Mean over all training cells on the scale the encoder reads (log1p for counts), shape ``(n_genes,)``.
    library_size
        Median library size of the training cells; 1 where expression is not counts.
    """

    row: np.ndarray
    n_cells: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    input_mean: np.ndarray
    library_size: float

    @property
    def condition_frequency(self) -> np.ndarray:
        """Training cells per treatment vector, shape ``(n_conditions,)``."""
        counts = np.where(self.row >= 0, self.n_cells[self.row], 0)
        return counts.sum(axis=0).astype(np.float64)

    @property
    def gene_mean(self) -> np.ndarray:
        """Mean over all training cells, shape ``(n_genes,)``."""
        return np.average(self.mean, axis=0, weights=self.n_cells)

    @property
    def within_variance(self) -> np.ndarray:
        """Variance within strata and treatments, pooled over pairs, shape ``(n_genes,)``."""
        return np.average(self.variance, axis=0, weights=self.n_cells)

    @property
    def log_mean(self) -> np.ndarray:
        """Log means of counts, as if one more count had been seen at the gene's mean; shape ``(n_rows, n_genes)``.

        That keeps logs finite and, unlike a number added to all means, does not pull up rare genes where cells are few.
        """
        n = self.n_cells[:, None]
        return np.log((n * self.mean.astype(np.float64) + 1) / (n + 1 / self._seen_mean))

    @property
    def log_within_variance(self) -> np.ndarray:
        """Variance of one cell on the scale of `log_mean` (delta method), at least Poisson, shape ``(n_genes,)``."""
        mean = self._seen_mean
        return np.maximum(self.within_variance, mean) / mean**2

    @property
    def _seen_mean(self) -> np.ndarray:
        """Mean over all training cells, of at least one count in all of them."""
        return np.maximum(self.gene_mean, 1 / self.n_cells.sum())

    def shrunken_variance(self, conditions: np.ndarray, prior_cells: float = 20.0) -> np.ndarray:
        """Variance of each row, shrunk toward the pooled variance of its treatment as if that were `prior_cells` cells.

        Means are not shrunk: strata differ in level, so that a pooled mean would pull cells out of their stratum.

        Parameters
        ----------
        conditions
            Treatment vector of each row, shape ``(n_rows,)``.
        prior_cells
            Weight of the pooled variance.

        Returns
        -------
        Shape ``(n_rows, n_genes)``, float32.
        """
        shrunken = np.empty_like(self.variance)
        for condition in np.unique(conditions):
            rows = np.flatnonzero(conditions == condition)
            n = self.n_cells[rows][:, None]
            pooled = (self.variance[rows] * n).sum(axis=0) / n.sum()
            shrunken[rows] = (n * self.variance[rows] + prior_cells * pooled) / (n + prior_cells)
        return shrunken


def stratum_moments(
    matrix: Any,
    stratum: np.ndarray,
    condition: np.ndarray,
    n_strata: int,
    n_conditions: int,
    cells: np.ndarray,
    library: np.ndarray | None = None,
    library_size: float | None = None,
) -> StratumMoments:
    """Compute the moments in one pass over the cells.

    Parameters
    ----------
    matrix
        Expression, shape ``(all_cells, n_genes)``: dense, sparse or backed.
    stratum, condition
        Codes of every cell, shape ``(all_cells,)``.
    n_strata, n_conditions
        Numbers of codes.
    cells
        Cells that count, as indices; no other cell is looked at.
    library
        Library size of every cell for counts, shape ``(all_cells,)``; None where expression is not counts.
    library_size
        Library to scale to; the median of `library` over `cells` if None.
    """
    cells = np.sort(np.asarray(cells))
    pair = stratum[cells].astype(np.int64) * n_conditions + condition[cells]
    observed, row_of_cell = np.unique(pair, return_inverse=True)
    row = np.full(n_strata * n_conditions, -1, dtype=np.int64)
    row[observed] = np.arange(observed.size)
    n_cells = np.bincount(row_of_cell, minlength=observed.size)
    if library is not None and library_size is None:
        library_size = float(np.median(library[cells]))

    n_genes = matrix.shape[1]
    total = np.zeros((observed.size, n_genes))
    squares = np.zeros((observed.size, n_genes))
    input_total = np.zeros(n_genes)
    for start, block in row_blocks(matrix, cells):
        values = block.astype(np.float64)
        if library is not None and library_size is not None:
            scale = library_size / library[cells[start : start + values.shape[0]]]
            values = sparse.diags_array(scale) @ values if sparse.issparse(values) else values * scale[:, None]
            inputs = values.log1p() if sparse.issparse(values) else np.log1p(values)
        else:
            inputs = values
        input_total += np.asarray(inputs.sum(axis=0)).ravel()
        rows = row_of_cell[start : start + values.shape[0]]
        members = sparse.csr_array((np.ones(rows.size), (rows, np.arange(rows.size))), shape=(observed.size, rows.size))
        total += _dense(members @ values)
        squares += _dense(members @ (values.power(2) if sparse.issparse(values) else values**2))
    mean = total / n_cells[:, None]
    return StratumMoments(
        row=row.reshape(n_strata, n_conditions),
        n_cells=n_cells,
        mean=mean.astype(np.float32),
        variance=np.maximum(squares / n_cells[:, None] - mean**2, 0).astype(np.float32),
        input_mean=(input_total / max(1, cells.size)).astype(np.float32),
        library_size=1.0 if library_size is None else library_size,
    )


def row_blocks(matrix: Any, cells: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Yield ``(position of the first cell, rows)`` for sorted cells, in blocks that fit in memory."""
    n_rows = max(1, BLOCK_VALUES // max(1, matrix.shape[1]))
    matrix = by_rows(matrix)
    for start in range(0, cells.size, n_rows):
        block = matrix[cells[start : start + n_rows]]
        yield start, sparse.csr_array(block) if sparse.issparse(block) else np.asarray(block)


def dense_blocks(
    matrix: Any, cells: np.ndarray, library: np.ndarray | None, library_size: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield positions and expression of sorted cells in float32, in blocks; counts at a standard library.

    Parameters
    ----------
    matrix
        Expression, shape ``(all_cells, n_genes)``: dense, sparse or backed.
    cells
        Indices of the cells, sorted.
    library
        Library size of every cell for counts, shape ``(all_cells,)``; None where expression is not counts.
    library_size
        The standard library.
    """
    for start, block in row_blocks(matrix, cells):
        part = slice(start, start + block.shape[0])
        values = np.asarray(_dense(block), dtype=np.float32)
        if library is not None:
            values = values * (library_size / library[cells[part]])[:, None].astype(np.float32)
        yield part, values


def library_sizes(matrix: Any) -> np.ndarray:
    """Return the row sums of a dense, sparse or backed matrix, shape ``(n_cells,)``; empty cells count as 1."""
    sums = np.empty(matrix.shape[0])
    for start, block in row_blocks(matrix, np.arange(matrix.shape[0])):
        sums[start : start + block.shape[0]] = np.asarray(block.sum(axis=1)).ravel()
    return np.maximum(sums, 1.0)


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
