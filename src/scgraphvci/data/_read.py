"""Reading AnnData and MuData without assuming a format: modalities, obs columns, blocks of expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgraphvci.data._rows import by_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mudata import MuData

BLOCK_VALUES = 20_000_000  # expression values looked at in one piece: bounds memory at any number of genes
MAX_FEW_LEVELS, MIN_LEVEL_CELLS = 20, 10  # a numeric column with more values, and fewer cells for each, was measured


def modality(adata: AnnData | MuData, mod_key: str | None) -> AnnData:
    """Return the AnnData that holds expression.

    Raises
    ------
    KeyError
        If a MuData has no such modality.
    TypeError
        If a MuData was given to a set-up made for an AnnData, or the reverse, or obs or var were read lazily.
    """
    if mod_key is None:
        if not isinstance(adata, AnnData):
            msg = f"Expected an AnnData, got {type(adata).__name__}. For MuData use `setup_mudata`."
            raise TypeError(msg)
        return _with_annotations(adata)
    if isinstance(adata, AnnData):
        msg = f"Expected a MuData with modality {mod_key!r}, got an AnnData. For AnnData use `setup_anndata`."
        raise TypeError(msg)
    if mod_key not in adata.mod:
        msg = f"Modality {mod_key!r} not found. Modalities: {list(adata.mod)}."
        raise KeyError(msg)
    return _with_annotations(adata.mod[mod_key])


def _with_annotations(adata: AnnData) -> AnnData:
    """Return data, if all but expression is in memory: set-up writes to obs.

    Raises
    ------
    TypeError
        If obs or var were read lazily.
    """
    lazy = [name for name in ("obs", "var") if not isinstance(getattr(adata, name), pd.DataFrame)]
    if lazy:
        load = "; ".join(f"`adata.{name} = adata.{name}.to_memory()`" for name in lazy)
        msg = f"{' and '.join(lazy)} of these data were read lazily. Load them with {load}; expression stays on disk."
        raise TypeError(msg)
    return adata


def require_column(adata: AnnData, key: str, argument: str, *, allow_missing: bool = False) -> pd.Series:
    """Return an obs column.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If values are missing, unless `allow_missing`.
    """
    if key not in adata.obs:
        msg = f"`{argument}`: column {key!r} not found in obs. Columns: {list(adata.obs.columns)}."
        raise KeyError(msg)
    column = adata.obs[key]
    n_missing = int(column.isna().sum())
    if n_missing and not allow_missing:
        msg = f"`{argument}`: obs[{key!r}] has {n_missing} missing values. Remove those cells or fill them in."
        raise ValueError(msg)
    return column


def require_text(adata: AnnData, key: str, argument: str) -> pd.Series:
    """Return an obs column as text; errors are those of `require_column`."""
    column = require_column(adata, key, argument)
    if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.categories.dtype == object:
        column = column.astype(object)  # pandas makes no text of categories that are tuples
    return column.astype(str)


def check_levels(column: pd.Series, key: str) -> None:
    """Check that a categorical covariate is none that was measured.

    Raises
    ------
    ValueError
        If it is numeric, has more than 20 values, and fewer than 10 cells for each on average.
    """
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return
    n_levels = column.nunique()
    if n_levels > MAX_FEW_LEVELS and len(column) < MIN_LEVEL_CELLS * n_levels:
        msg = (
            f"`categorical_covariate_keys`: obs[{key!r}] holds {n_levels:,} different numbers in {len(column):,} "
            "cells, and each of them would be a stratum with hardly any cell. Name it in `continuous_covariate_keys`, "
            f"or cut it into bins with `pd.cut`; if its numbers are names, give `adata.obs[{key!r}].astype(str)`."
        )
        raise ValueError(msg)


def require_number(column: pd.Series, key: str) -> np.ndarray:
    """Return a column as float64.

    Raises
    ------
    TypeError
        If it is not numeric.
    ValueError
        If it holds infinite values.
    """
    try:
        values = column.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"obs[{key!r}] is not numeric (dtype {column.dtype}). Give numbers, or register it as categorical."
        raise TypeError(msg) from error
    if not np.all(np.isfinite(values)):
        msg = f"obs[{key!r}] holds {int((~np.isfinite(values)).sum())} infinite values. Remove or replace those cells."
        raise ValueError(msg)
    return values


def require_unique_names(adata: AnnData) -> None:
    """Check that there are cells and genes, and that their names are unique.

    Raises
    ------
    ValueError
        If not.
    """
    if adata.n_obs == 0 or adata.n_vars == 0:
        msg = f"The AnnData is empty ({adata.n_obs} cells x {adata.n_vars} genes)."
        raise ValueError(msg)
    for name in ("obs", "var"):
        names = getattr(adata, f"{name}_names")
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()[:5].tolist()
            msg = f"{name}_names are not unique, such as {repeated}. Call `adata.{name}_names_make_unique()`."
            raise ValueError(msg)


def finite_blocks(matrix: Any, name: str) -> Iterator[np.ndarray]:
    """Yield the stored values of a matrix in blocks of rows (zeros of sparse matrices count as one zero).

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or the matrix is stored by columns in a file.
    TypeError
        If it is of a kind that cannot be read, or holds no real numbers.
    """
    by_column = sparse.issparse(matrix) and matrix.format != "csr"
    rows = matrix if by_column else by_rows(matrix, name)
    n_rows = matrix.shape[0] if by_column else max(1, BLOCK_VALUES // max(1, matrix.shape[1]))
    for start in range(0, matrix.shape[0], n_rows):
        block = matrix if by_column else rows[start : start + n_rows]
        values = np.append(block.data, 0) if sparse.issparse(block) else np.asarray(block)
        if values.dtype.kind not in "biuf":
            msg = f"{name} has dtype {values.dtype}, not one of real numbers. Convert it with `.astype('float32')`."
            raise TypeError(msg)
        if not np.all(np.isfinite(values)):
            cell, gene = _first_not_finite(block)
            msg = (
                f"{name} holds NaN or infinite values, first in cell {start + cell}, gene {gene} (counting from 0). "
                "Leave out those cells or genes (`adata[keep]`), or look at the step that made them."
            )
            raise ValueError(msg)
        yield values


def _first_not_finite(block: Any) -> tuple[int, int]:
    """Return row and column of the first value that is not finite."""
    if sparse.issparse(block):
        stored = block.tocoo()
        row, column = (index[~np.isfinite(stored.data)] for index in stored.coords)
    else:
        row, column = np.nonzero(~np.isfinite(np.asarray(block)))
    first = np.lexsort([column, row])[0]
    return int(row[first]), int(column[first])
