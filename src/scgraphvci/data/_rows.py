"""Rows of expression, whatever holds it: memory, a file, a zarr store or a dask array."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

GAP_ROWS = 16  # a read costs about as much as so many rows: nearer rows are read together, with what lies between
READ_VALUES = 4_000_000  # most values of one read
CHUNK_ROWS = 128  # rows of a file that are shuffled together


class StoredRows:
    """Rows of a matrix that is not in memory, or cannot be read by rows there.

    Indexing with a slice or with row numbers, in any order and repeated at will, reads these rows: as CSR if the matrix
    is sparse, else as a dense array.

    Parameters
    ----------
    matrix
        Backed dense or CSR matrix, zarr array or dask array of dense or CSR chunks.
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix
        self.shape: tuple[int, int] = tuple(matrix.shape)
        self.dtype = matrix.dtype

    @property
    def chunk(self) -> int:
        """Number of neighbouring rows that are best read together."""
        if isinstance(self.matrix, CSRDataset):
            return CHUNK_ROWS
        chunks = self.matrix.chunks  # of a contiguous HDF5 array None, of a dask array the sizes of all chunks
        rows = chunks[0] if chunks else CHUNK_ROWS
        return max(CHUNK_ROWS, max(rows) if isinstance(rows, tuple) else rows)

    def __getitem__(self, key: slice | np.ndarray | list[int]) -> np.ndarray | sparse.csr_matrix:
        """Read rows."""
        wanted = np.arange(self.shape[0])[key]
        rows, position = np.unique(wanted, return_inverse=True)
        if rows.size == 0:
            return np.empty((0, self.shape[1]), dtype=self.dtype)
        if is_dask(self.matrix):
            found = _computed(self.matrix[rows])
        else:
            most = max(GAP_ROWS, READ_VALUES // max(1, self.shape[1]))
            parts = [self._read(part) for part in runs(rows, most=most)]
            found = parts[0]
            if len(parts) > 1:
                found = sparse.vstack(parts, format="csr") if sparse.issparse(found) else np.concatenate(parts)
        if sparse.issparse(found):
            found = _one_index_type(found)
        return found if np.array_equal(rows, wanted) else found[position]

    def _read(self, rows: np.ndarray) -> Any:
        """Read rows that lie close together."""
        start, stop = int(rows[0]), int(rows[-1]) + 1
        block = self.matrix[start:stop]
        return block if len(rows) == stop - start else block[rows - start]


def by_rows(matrix: Any, name: str = "Expression") -> Any:
    """Return a matrix as something of which rows can be read: itself if it is in memory, dense or CSR.

    Parameters
    ----------
    matrix
        Expression, cells x genes. In memory a sparse matrix of another format becomes CSR, in memory too.
    name
        What it is, for messages.

    Raises
    ------
    ValueError
        If it is stored by columns.
    TypeError
        If it is of a kind that cannot be read.
    """
    if isinstance(matrix, np.ndarray | StoredRows):
        return matrix
    if sparse.issparse(matrix):
        return _one_index_type(matrix if matrix.format == "csr" else matrix.tocsr())
    if isinstance(matrix, CSCDataset) or (is_dask(matrix) and getattr(matrix._meta, "format", "csr") != "csr"):
        msg = (
            f"{name} is a backed CSC matrix, which cannot be read by cells. Write it as CSR first (`X.tocsr()`), or "
            "load it with `adata = adata.to_memory()`."
        )
        raise ValueError(msg)
    if isinstance(matrix, CSRDataset | h5py.Dataset) or is_dask(matrix) or _is_zarr(matrix):
        return StoredRows(matrix)
    msg = (
        f"{name} is a {type(matrix).__module__}.{type(matrix).__name__}, which cannot be read by cells. Use a dense or "
        "sparse matrix, a backed file, zarr or dask, or load it with `adata = adata.to_memory()`."
    )
    raise TypeError(msg)


def in_memory(matrix: Any) -> Any:
    """Return a small array, computed if it is lazy."""
    return _computed(matrix) if is_dask(matrix) else matrix


def is_dask(matrix: Any) -> bool:
    """Whether this is a dask array; dask is not imported to find out."""
    dask = sys.modules.get("dask.array")
    return dask is not None and isinstance(matrix, dask.Array)


def _is_zarr(matrix: Any) -> bool:
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(matrix, zarr.Array)


def _one_index_type(matrix: Any) -> Any:
    """Return a CSR matrix whose `indptr` is of the type of its `indices`; values are shared.

    Files often hold them in two types, and then scipy converts all indices whenever it takes some rows.
    """
    if matrix.indices.dtype == matrix.indptr.dtype or matrix.nnz > np.iinfo(np.int32).max:
        return matrix
    indices, indptr = (part.astype(np.int32, copy=False) for part in (matrix.indices, matrix.indptr))
    return type(matrix)((matrix.data, indices, indptr), shape=matrix.shape)


def _computed(array: Any) -> Any:
    """Compute a dask array; chunks that are sparse are put together as CSR."""
    found = array.compute()
    return sparse.csr_matrix(found) if sparse.issparse(found) and found.format != "csr" else found


def runs(rows: np.ndarray, gap: int = GAP_ROWS, most: int | None = None) -> Iterator[np.ndarray]:
    """Split ascending rows where the next is more than `gap` further, into runs of a span of at most `most` rows."""
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > gap) + 1):
        first = 0
        while first < len(run):
            last = len(run) if most is None else int(np.searchsorted(run, run[first] + most))
            yield run[first:last]
            first = last
