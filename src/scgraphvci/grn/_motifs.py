"""Which regulator may bind which peak, from a matrix of motif matches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

JASPAR = re.compile(r"^[A-Z]{2}\d+\.\d+[._ -]+")  # the matrix id that pychromVAR writes before a motif's name
VARIANT = re.compile(r"\(var\.\d+\)$")


class Binding(NamedTuple):
    """Matches of regulators in peaks.

    Attributes
    ----------
    regulators
        Their names, sorted.
    matrix
        Regulators x peaks: the largest match of a regulator's motifs.
    n_motifs
        Number of motifs.
    motifs_left_out
        Motifs without a regulator.
    """

    regulators: np.ndarray
    matrix: sparse.csr_array
    n_motifs: int
    motifs_left_out: list[str]


def regulator_binding(
    atac: AnnData,
    motif_key: str,
    motif_names: Sequence[str] | None,
    regulators: Mapping[str, str | Sequence[str]] | None,
) -> Binding:
    """Return the matches of each regulator, over its motifs.

    Raises
    ------
    KeyError
        If there is no such matrix.
    TypeError
        If `regulators` is no mapping.
    ValueError
        If motifs have no names, matches are negative or not finite, or no motif has a regulator.
    """
    if motif_key not in atac.varm:
        msg = (
            f"`motif_key`: {motif_key!r} not found in varm of the peaks. Keys: {list(atac.varm)}. Write a matrix "
            "peaks x motifs there, for example with pychromvar.match_motif."
        )
        raise KeyError(msg)
    if regulators is not None and not isinstance(regulators, Mapping):
        msg = f"`regulators` must map motifs to regulators, as a dict does, not {type(regulators).__name__}."
        raise TypeError(msg)
    matches, names = _matches(atac, motif_key, motif_names)
    of_motif = [regulators_of(name) if regulators is None else _as_list(regulators.get(name, [])) for name in names]
    found = sorted({regulator for several in of_motif for regulator in several})
    if not found:
        msg = f"None of {len(names)} motifs, such as {names[:3]}, is a key of `regulators`."
        raise ValueError(msg)
    position = {regulator: i for i, regulator in enumerate(found)}
    motif = np.repeat(np.arange(len(names)), [len(several) for several in of_motif])
    row = np.array([position[regulator] for several in of_motif for regulator in several])
    return Binding(
        regulators=np.asarray(found, dtype=object),
        matrix=_largest_by_regulator(matches, motif, row, len(found)),
        n_motifs=len(names),
        motifs_left_out=[name for name, several in zip(names, of_motif, strict=True) if not several],
    )


def regulators_of(motif: str) -> list[str]:
    """Regulators that a motif is named after: "MA0137.3.STAT1" gives STAT1, "FOS::JUN" gives FOS and JUN."""
    name = JASPAR.sub("", motif)
    return [part for part in (VARIANT.sub("", part).strip() for part in name.split("::")) if part]


def _as_list(regulators: str | Sequence[str]) -> list[str]:
    return [regulators] if isinstance(regulators, str) else sorted(set(regulators))


def _matches(atac: AnnData, key: str, names: Sequence[str] | None) -> tuple[sparse.csc_array, list[str]]:
    """Return matches, peaks x motifs, and the names of motifs."""
    stored: Any = atac.varm[key]
    if isinstance(stored, pd.DataFrame):
        names = list(stored.columns) if names is None else names
        stored = stored.to_numpy()
    elif names is None:
        names = atac.uns.get("motif_name")
    matches = sparse.csc_array(stored)
    if names is None or len(names) != matches.shape[1]:
        found = "none" if names is None else f"{len(names)} names"
        msg = (
            f"varm[{key!r}] holds {matches.shape[1]} motifs, but {found} of them. Name each with `motif_names`, with "
            "the columns of a data frame, or in `uns['motif_name']` of the peaks."
        )
        raise ValueError(msg)
    if not np.all(np.isfinite(matches.data)) or (matches.data < 0).any():
        msg = f"varm[{key!r}] must hold 1 for a match and 0 for none, or scores above 0; it holds NaN or negative ones."
        raise ValueError(msg)
    return matches, [str(name) for name in names]


def _largest_by_regulator(
    matches: sparse.csc_array, motif: np.ndarray, row: np.ndarray, n_rows: int
) -> sparse.csr_array:
    """Largest match of several motifs; `row` is the regulator of each `motif`, which may occur more than once."""
    hits = matches[:, motif].astype(np.float64).tocoo()
    peak, regulator = hits.coords[0], row[hits.coords[1]]
    order = np.lexsort([-hits.data, peak, regulator])
    peak, regulator, value = peak[order], regulator[order], hits.data[order]
    first = (np.diff(regulator, prepend=-1) != 0) | (np.diff(peak, prepend=-1) != 0)
    shape = (n_rows, matches.shape[0])
    matrix = sparse.csr_array((value[first], (regulator[first], peak[first])), shape=shape)
    matrix.eliminate_zeros()
    return matrix
