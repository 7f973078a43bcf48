"""The long frame in which networks travel: one row per edge with `source`, `target`, `weight` and optionally `sign`."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scgraphvci._untrusted import check_size, open_gzip

logger = logging.getLogger(__name__)

Table = pd.DataFrame | str | os.PathLike[str]
"""A data frame, or the path of a .csv, .tsv, .txt (also .gz) or .parquet file."""

UNREADABLE = (ValueError, EOFError, BadGzipFile, zlib.error)
"""What pandas and gzip raise on files that are damaged or of another kind; errors of decoding are ValueErrors too."""

_PEAK = r"(?:chr[\w.]+|\d{1,2}|[XYM])[:_-]\d{2,}[-_]\d{2,}"
_SIGNS = {"+": 1, "-": -1, "1": 1, "+1": 1, "-1": -1, "1.0": 1, "-1.0": -1}


def tidy(net: Any, name: str = "net", *, signs: bool = False) -> pd.DataFrame:
    """Check a network and return `source` and `target` as strings and a finite float `weight`, 1 if absent.

    Parameters
    ----------
    net
        Columns `source`, `target` and optionally `weight` and `sign`; others are left out.
    name
        What messages call it.
    signs
        Also return `sign` (1 or -1), if there is one.

    Raises
    ------
    TypeError
        If `net` is not a data frame or weights are not numbers.
    KeyError
        If a column is missing.
    ValueError
        If a name is missing, a weight is NaN or infinite, a sign is neither + nor -, or contradicts its weight.
    """
    if not isinstance(net, pd.DataFrame):
        msg = (
            f"`{name}` must be a data frame with columns source, target[, weight], got {type(net).__name__}. "
            "`read_net`, `read_networkx` and other readers of `scgraphvci.grn` make one, `to_frame` from an AnnData."
        )
        raise TypeError(msg)
    optional = [column for column in ("weight", *(["sign"] if signs else [])) if column in net]
    check_columns(net, ["source", "target", *optional], name, "Rename them to source and target.")
    n_missing = int(net[["source", "target"]].isna().any(axis=1).sum())
    if n_missing:
        msg = f"{n_missing} rows of `{name}` have no source or target. Drop them with `{name}.dropna()`."
        raise ValueError(msg)
    columns = {
        "source": names_of(net["source"]),
        "target": names_of(net["target"]),
        "weight": _weights(net, name),
    }
    if signs and "sign" in net:
        columns["sign"] = _signs(net, columns["weight"], name)
    return pd.DataFrame(columns)


def read_edges(net: pd.DataFrame, name: str) -> pd.DataFrame:
    """Check what a reader found: as :func:`tidy` does, and that there are edges, none of them between peaks.

    A warning says where there are more regulators than targets, as in a network read the wrong way round.
    """
    edges = tidy(net, name, signs=True)
    if edges.empty:
        msg = f"`{name}` has no edges. Check that it is the table, or the file, that was meant."
        raise ValueError(msg)
    check_genes(edges["source"], "sources", name)
    check_genes(edges["target"], "targets", name)
    n_sources, n_targets = edges["source"].nunique(), edges["target"].nunique()
    if n_sources > n_targets:
        logger.warning("%d regulators of %d targets: make sure that they are not swapped.", n_sources, n_targets)
    return edges


def read_table(table: Table, name: str, *, index: bool = False) -> pd.DataFrame:
    """Return a frame as it is, or read it from a file; `index` takes row names from the first column."""
    if isinstance(table, pd.DataFrame):
        return table
    if not isinstance(table, str | os.PathLike):
        msg = f"`{name}` must be a data frame or the path of one, got {type(table).__name__}."
        raise TypeError(msg)
    path = Path(table)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    separators = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
    if suffix not in (*separators, ".parquet"):
        msg = f"`{name}`: {path.name!r} must end in .csv, .tsv, .txt (these also with .gz) or .parquet."
        raise ValueError(msg)
    try:
        if suffix == ".parquet":
            return _read_parquet(path)
        separator, names = separators[suffix], 0 if index else None
        if path.suffix != ".gz":
            return pd.read_csv(path, sep=separator, index_col=names)
        with open_gzip(path) as stream:
            return pd.read_csv(stream, sep=separator, index_col=names)
    except UNREADABLE as error:
        msg = f"`{name}`: {path.name!r} cannot be read as {suffix} ({error}). It is damaged, or of another kind."
        raise ValueError(msg) from error


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet file, in which a few bytes can stand for any number of equal values."""
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(path).metadata
    check_size(path, 8 * table.num_rows * table.num_columns)
    return pd.read_parquet(path)


def check_columns(table: pd.DataFrame, columns: Iterable[str], name: str, advice: str) -> None:
    """Raise a KeyError that names missing columns, those there are, and what to do; a ValueError if one repeats."""
    columns = list(columns)
    missing = [column for column in columns if column not in table]
    if missing:
        shown = [str(column) for column in table.columns[:12]]
        rest = ", ..." if table.shape[1] > len(shown) else ""
        msg = f"`{name}` has no column {missing}. Columns: {shown}{rest}. {advice}"
        raise KeyError(msg)
    repeated = sorted({str(name) for name in table.columns[table.columns.duplicated()] if name in columns})
    if repeated:
        msg = f"`{name}` has several columns {repeated[:5]}. Keep one of each, or rename the others."
        raise ValueError(msg)


def names_of(values: Iterable[Any]) -> np.ndarray:
    """Return names as text, object dtype; pandas would refuse categories or an index of mixed values."""
    return np.array([str(value) for value in values], dtype=object)


def check_genes(names: Iterable[Any], role: str, name: str) -> None:
    """Raise a ValueError if names are genomic regions, such as chr1:100-200: then rows and columns were mixed up."""
    given = pd.Series(list(names), dtype=object).dropna()
    unique = pd.Series(pd.unique(given.astype(str)), dtype=object)
    peaks = unique[unique.str.fullmatch(_PEAK)]
    if len(peaks):
        msg = (
            f"{len(peaks)} {role} of `{name}` look like genomic regions, such as {peaks.iloc[0]!r}. Edges join genes: "
            "take the column of gene names, turn the table round, or keep genes only."
        )
        raise ValueError(msg)


def numbers(table: pd.DataFrame, column: str, name: str) -> np.ndarray:
    """Return a column as float64, NaN where values are missing.

    Raises
    ------
    TypeError
        If a value is not a number.
    """
    dtype = table[column].dtype
    msg = f"Column {column} of `{name}` is not numeric (dtype {dtype}). Convert it, or leave it out."
    if getattr(dtype, "kind", "O") in "cmM":  # complex numbers and times would become real numbers silently
        raise TypeError(msg)
    try:
        return table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(msg) from error


def _weights(net: pd.DataFrame, name: str) -> np.ndarray:
    if "weight" not in net:
        return np.ones(len(net))
    weight = numbers(net, "weight", name)
    finite = np.isfinite(weight)
    if not finite.all():
        msg = (
            f"{int((~finite).sum())} weights of `{name}` are NaN or infinite, first that of {_first(net, ~finite)}. "
            "Remove those edges or give them a weight."
        )
        raise ValueError(msg)
    return weight


def _signs(net: pd.DataFrame, weight: np.ndarray, name: str) -> np.ndarray:
    sign = pd.Series(names_of(net["sign"])).map(_SIGNS)
    unknown = sign.isna().to_numpy()
    if unknown.any():
        value = str(net["sign"].iloc[int(np.argmax(unknown))])
        msg = (
            f"{int(unknown.sum())} signs of `{name}` are unknown, first {value!r} of {_first(net, unknown)}. Allowed: "
            "1, -1, '+', '-'. Remove those edges, or leave the column sign out."
        )
        raise ValueError(msg)
    values = sign.to_numpy(dtype=np.int64)
    contradicted = (weight < 0) & (values > 0)
    if contradicted.any():
        msg = (
            f"{int(contradicted.sum())} weights of `{name}` are negative where the sign is +, first that of "
            f"{_first(net, contradicted)}. Give magnitudes as weights, or leave the column sign out."
        )
        raise ValueError(msg)
    return values


def _first(net: pd.DataFrame, where: np.ndarray) -> str:
    row = net.iloc[int(np.argmax(where))]
    return f"{row['source']} -> {row['target']}"
