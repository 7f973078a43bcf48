"""Where genes start: coordinates from a GTF file or a frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from scgraphvci._untrusted import open_text
from scgraphvci.grn._frame import UNREADABLE

_N_FIELDS = 9  # of a line of GTF
STRANDS = {"+": True, "1": True, "-": False, "-1": False}


def read_gtf(path: str | PathLike[str], *, feature: str = "gene", attribute: str = "gene_name") -> pd.DataFrame:
    r"""Read where genes start from a GTF file, as Ensembl, GENCODE, RefSeq and 10x Genomics distribute them.

    Parameters
    ----------
    path
        The file, plain or compressed (`.gz`). It is read line by line.
    feature
        Kind of line to take the coordinates from. "transcript" gives a gene all its start sites.
    attribute
        Attribute that names genes as the data do, such as "gene_id" for Ensembl identifiers. Genes without it go by
        their `gene_id`.

    Returns
    -------
    One row per line of that kind: `gene`, `chrom` and `tss` (start site, 0-based: first base on the forward strand,
    last base on the reverse strand), for :func:`from_atac`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line is not GTF, or none is of that kind.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from scgraphvci.grn import read_gtf
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "genes.gtf"
    >>> fields = ["chr21", "ENSEMBL", "gene", "33229901", "33259982", ".", "+", ".", 'gene_name "IFNAR1";']
    >>> _ = path.write_text("\t".join(fields))
    >>> read_gtf(path).values.tolist()
    [['IFNAR1', 'chr21', 33229900]]
    """
    name, identifier = (re.compile(rf'(?:^|;)\s*{re.escape(key)}[ =]"?([^";]+)') for key in (attribute, "gene_id"))
    rows: list[tuple[str, str, int]] = []
    others: set[str] = set()
    for number, line in _lines(path):
        fields = line.split("\t")
        if len(fields) != _N_FIELDS:
            msg = f"Line {number} of {path} has {len(fields)} fields between tabs; a line of GTF has {_N_FIELDS}."
            raise ValueError(msg)
        if fields[2] != feature:
            others.add(fields[2])
            continue
        found = name.search(fields[8]) or identifier.search(fields[8])
        if found is None or fields[6] not in STRANDS or not all(map(_is_position, fields[3:5])):
            msg = (
                f"Line {number} of {path} has no {attribute!r} or 'gene_id', no strand, or no whole numbers from 1 as "
                f"start and end: {line[:120]!r}. GFF3 must be converted, for example with gffread."
            )
            raise ValueError(msg)
        rows.append((found[1], fields[0], int(fields[3] if STRANDS[fields[6]] else fields[4]) - 1))
    if not rows:
        msg = f"{path} has no lines of feature {feature!r}. Features there: {sorted(others)[:10]}."
        raise ValueError(msg)
    return pd.DataFrame(rows, columns=["gene", "chrom", "tss"])


def _lines(path: str | PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield the numbers and texts of lines that say something."""
    with open_text(path) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip() and not line.startswith("#"):
                    yield number, line.rstrip("\n")
        except UNREADABLE as error:
            msg = f"{path} cannot be read as text ({error}). It is damaged, or no GTF file."
            raise ValueError(msg) from error


def _is_position(text: str) -> bool:
    return text.isdecimal() and int(text) > 0


def gene_starts(genes: pd.DataFrame | str | PathLike[str]) -> pd.DataFrame:
    """Return the start sites of genes, columns `gene`, `chrom` and `tss`, from a frame or a GTF file.

    Raises
    ------
    TypeError
        If `genes` is neither.
    KeyError
        If the frame lacks a column.
    ValueError
        If a gene, chromosome, position or strand is missing or no such thing.
    """
    if isinstance(genes, str | PathLike):
        return read_gtf(genes)
    if not isinstance(genes, pd.DataFrame):
        msg = f"`genes` must be the path of a GTF file or a data frame, got {type(genes).__name__}."
        raise TypeError(msg)
    needed = ["gene", "chrom", "tss"] if "tss" in genes else ["gene", "chrom", "start", "end", "strand"]
    missing = [name for name in needed if name not in genes]
    if missing:
        msg = (
            f"`genes` has no column {missing}. Columns: {list(genes.columns)}. Give gene, chrom and tss, or gene, "
            "chrom, start, end and strand."
        )
        raise KeyError(msg)
    n_missing = int(genes[needed].isna().any(axis=1).sum())
    if n_missing:
        msg = f"{n_missing} rows of `genes` miss one of {needed}. Drop them with `genes.dropna(subset={needed})`."
        raise ValueError(msg)
    tss = whole_numbers(genes["tss"], "`genes`") if "tss" in genes else _starts(genes)
    return pd.DataFrame(
        {"gene": genes["gene"].astype(str).to_numpy(), "chrom": genes["chrom"].astype(str).to_numpy(), "tss": tss}
    )


def whole_numbers(column: pd.Series, what: str) -> np.ndarray:
    """Return a column of positions as int64.

    Raises
    ------
    ValueError
        If a value is not a whole number.
    """
    values: Any = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(values == np.round(values))
    if wrong.any():
        first = column.iloc[int(np.argmax(wrong))]
        msg = f"Column {column.name!r} of {what} must hold whole numbers, not {first}. Remove or repair those rows."
        raise ValueError(msg)
    return values.astype(np.int64)


def _starts(genes: pd.DataFrame) -> np.ndarray:
    strand = genes["strand"].astype(str)
    unknown = sorted(set(strand) - set(STRANDS))
    if unknown:
        msg = f"Column strand of `genes` holds {unknown[:5]}. Allowed are {list(STRANDS)}."
        raise ValueError(msg)
    start, end = (whole_numbers(genes[name], "`genes`") for name in ("start", "end"))
    return np.where(strand.map(STRANDS), start, end - 1)
