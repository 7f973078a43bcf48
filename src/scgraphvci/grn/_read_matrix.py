"""Networks that are matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from scgraphvci.grn._frame import Table, names_of, read_edges, read_table


def read_matrix(
    matrix: Table | np.ndarray | Any,
    orientation: Literal["source_rows", "target_rows"],
    *,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read a matrix of weights, such as the tables that Dictys exports ("source_rows").

    Parameters
    ----------
    matrix
        A data frame with names in index and columns, the path of such a .csv, .tsv or .txt file (also .gz, names in the
        first row and column) or .parquet file, or an array or sparse matrix. It need not be square. 0 is no edge.
    orientation
        "source_rows" if regulators are rows, "target_rows" if targets are. Nothing in a matrix tells, so there is no
        default.
    row_names, column_names
        Names of the rows and columns of an array or sparse matrix.

    Returns
    -------
    Columns `source`, `target` and `weight` (float64), one row per value that is not 0, by rows of the matrix.

    Raises
    ------
    TypeError
        If values are not numbers, or names are missing or given twice.
    ValueError
        If the orientation is unknown or contradicted by the names, names repeat or do not fit, or a value is NaN.

    Examples
    --------
    >>> import pandas as pd
    >>> from scgraphvci.grn import read_matrix
    >>> weights = pd.DataFrame([[0.0, 0.7], [-0.2, 0.0]], index=["STAT1", "IRF1"], columns=["IRF1", "GBP1"])
    >>> read_matrix(weights, "source_rows").values.tolist()
    [['STAT1', 'GBP1', 0.7], ['IRF1', 'IRF1', -0.2]]
    """
    if orientation not in ("source_rows", "target_rows"):
        msg = f"orientation={orientation!r} must be 'source_rows' (regulators are rows) or 'target_rows'."
        raise ValueError(msg)
    values, rows, columns = _named(matrix, row_names, column_names)
    sources, targets = (rows, columns) if orientation == "source_rows" else (columns, rows)
    if len(sources) > len(targets) and targets.isin(sources).all():
        other = "target_rows" if orientation == "source_rows" else "source_rows"
        msg = (
            f"With orientation={orientation!r} there are {len(sources)} regulators of {len(targets)} targets, and "
            f"every target is a regulator. The other way round is likely: orientation={other!r}."
        )
        raise ValueError(msg)
    edges = values.tocoo()
    edges.eliminate_zeros()
    row, column = edges.coords
    named = {"row": rows.to_numpy()[row], "column": columns.to_numpy()[column]}
    source, target = ("row", "column") if orientation == "source_rows" else ("column", "row")
    return read_edges(pd.DataFrame({"source": named[source], "target": named[target], "weight": edges.data}), "matrix")


def _named(matrix: Any, row_names: Any, column_names: Any) -> tuple[sparse.csr_array, pd.Index, pd.Index]:
    """Return the values as a sparse array, and its names."""
    given = row_names is not None or column_names is not None
    if sparse.issparse(matrix) or isinstance(matrix, np.ndarray):
        if row_names is None or column_names is None:
            msg = "An array has no names: give those of its rows and columns by `row_names` and `column_names`."
            raise TypeError(msg)
        rows, columns, values = row_names, column_names, matrix
    else:
        if given:
            msg = "`row_names` and `column_names` are for arrays; the names of a table are its index and columns."
            raise TypeError(msg)
        table = read_table(matrix, "matrix", index=True)
        rows, columns, values = table.index, table.columns, table.to_numpy()
    row_index, column_index = (pd.Index(names_of(names)) for names in (rows, columns))
    if values.shape != (len(row_index), len(column_index)):
        msg = f"`matrix` has shape {values.shape}, its names {(len(row_index), len(column_index))}."
        raise ValueError(msg)
    for names, what in ((row_index, "Row"), (column_index, "Column")):
        if not names.is_unique:
            msg = f"{what} names of `matrix` repeat, such as {names[names.duplicated()][0]!r}. Merge them first."
            raise ValueError(msg)
    try:
        weights = sparse.csr_array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:  # the last: an integer beyond float64
        msg = f"`matrix` holds values that are not numbers (dtype {values.dtype}). Take names into index and columns."
        raise TypeError(msg) from error
    return weights, row_index, column_index
