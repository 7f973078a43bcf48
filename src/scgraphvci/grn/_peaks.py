"""Peaks of open chromatin: where they lie, which genes they are near, and which they correlate with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from scgraphvci.grn._genes import whole_numbers

if TYPE_CHECKING:
    from anndata import AnnData

COLUMNS = ("chrom", "start", "end")
NAME = r"^(?P<chrom>.+)[:_-](?P<start>\d+)[-_](?P<end>\d+)$"
BLOCK_CELLS = 2_048
BLOCK_LINKS = 8_192  # cells x links of a block are looked at in one piece


class Links(NamedTuple):
    """Pairs of a peak and a gene, as arrays of equal length.

    Attributes
    ----------
    peak, gene
        Positions.
    distance
        From the gene's start site to the nearest base of the peak, in bases.
    """

    peak: np.ndarray
    gene: np.ndarray
    distance: np.ndarray

    def where(self, keep: np.ndarray) -> Links:
        """Return some of the pairs."""
        return Links(self.peak[keep], self.gene[keep], self.distance[keep])


def peak_intervals(atac: AnnData) -> pd.DataFrame:
    """Return `chrom`, `start` and `end` (0-based, end excluded, as in BED) of every peak.

    They are columns of `var`, or parts of names such as "chr1:100-200" or "chr1-100-200".

    Raises
    ------
    ValueError
        If a name cannot be parsed, a position is missing, or a peak ends before it starts.
    """
    if all(name in atac.var for name in COLUMNS):
        peaks, where = atac.var[list(COLUMNS)], "the peaks' `var`"
    else:
        peaks, where = atac.var_names.to_series().astype(str).str.extract(NAME), "the peaks' names"
        unknown = atac.var_names[peaks["chrom"].isna()]
        if len(unknown):
            msg = (
                f"{len(unknown)} of {len(peaks)} peaks have names without coordinates, such as "
                f"{unknown[:3].tolist()}. Name them as chr1:100-200 or chr1-100-200, or give columns {list(COLUMNS)} "
                "of `var`."
            )
            raise ValueError(msg)
    if peaks["chrom"].isna().any():
        msg = f"{int(peaks['chrom'].isna().sum())} peaks have no chromosome in `var`. Remove those peaks."
        raise ValueError(msg)
    start, end = (whole_numbers(peaks[name], where) for name in ("start", "end"))
    if (start >= end).any():
        first = int(np.argmax(start >= end))
        msg = f"{int((start >= end).sum())} peaks end before they start, first {atac.var_names[first]!r}. Remove them."
        raise ValueError(msg)
    return pd.DataFrame({"chrom": peaks["chrom"].astype(str).to_numpy(), "start": start, "end": end})


def require_same_chromosomes(peaks: pd.DataFrame, starts: pd.DataFrame) -> None:
    """Check that peaks and genes share the name of a chromosome.

    Raises
    ------
    ValueError
        If not.
    """
    of_peaks, of_genes = set(peaks["chrom"]), set(starts["chrom"])
    if of_peaks & of_genes:
        return
    msg = (
        f"No chromosome has the same name in peaks ({sorted(of_peaks)[:3]}) and `genes` ({sorted(of_genes)[:3]}). "
        "Rename those of one."
    )
    if {name.removeprefix("chr") for name in of_peaks} & {name.removeprefix("chr") for name in of_genes}:
        what = "'chr' + genes['chrom']" if next(iter(of_peaks)).startswith("chr") else "genes['chrom'].str[3:]"
        msg = f"{msg} `genes['chrom'] = {what}` does, in the frame that `grn.read_gtf` makes of a file."
    raise ValueError(msg)


def link_by_distance(peaks: pd.DataFrame, starts: pd.DataFrame, max_distance: int) -> Links:
    """Pair peaks and genes at most `max_distance` bases apart; of several start sites, the nearest counts.

    Parameters
    ----------
    peaks
        Columns `chrom`, `start`, `end`.
    starts
        Columns `gene` (position), `chrom`, `tss`.
    max_distance
        In bases.

    Returns
    -------
    The pairs, ordered by peak, then gene.
    """
    found = [np.empty((3, 0), dtype=np.int64)]
    sites = {chrom: group[["gene", "tss"]].to_numpy() for chrom, group in starts.groupby("chrom")}
    for chrom, group in peaks.groupby("chrom"):
        if chrom not in sites:
            continue
        start, end, peak = group["start"].to_numpy(), group["end"].to_numpy(), group.index.to_numpy()
        order = np.argsort(start, kind="stable")
        start, end, peak = start[order], end[order], peak[order]
        gene, tss = sites[chrom].T
        # Peaks that reach into the window start at most the longest peak's length before it.
        first = np.searchsorted(start, tss - max_distance - (end - start).max(), side="left")
        length = np.searchsorted(start, tss + max_distance, side="right") - first
        site = np.repeat(np.arange(tss.size), length)
        row = np.arange(site.size) - np.repeat(np.cumsum(length) - length - first, length)
        distance = np.maximum(np.maximum(start[row] - tss[site], tss[site] - end[row] + 1), 0)
        pairs = np.stack([peak[row], gene[site], distance])
        found.append(pairs[:, distance <= max_distance])
    peak, gene, distance = np.concatenate(found, axis=1)
    order = np.lexsort([distance, gene, peak])
    links = Links(peak[order], gene[order], distance[order])
    return links.where((np.diff(links.peak, prepend=-1) != 0) | (np.diff(links.gene, prepend=-1) != 0))


def correlation_of_links(links: Links, accessibility: Any, expression: Any, cells: np.ndarray) -> np.ndarray:
    """Pearson correlation over cells of each link's peak and gene; 0 where either is constant.

    Cells pass once, in blocks, and only linked pairs are multiplied: neither matrix is made dense.

    Parameters
    ----------
    links
        The pairs.
    accessibility
        Cells x peaks, dense, sparse or backed.
    expression
        Cells x genes.
    cells
        Rows of both that are the same cell, shape ``(2, n_cells)``.

    Raises
    ------
    ValueError
        If a value is NaN or infinite.
    """
    peaks, peak = np.unique(links.peak, return_inverse=True)
    genes, gene = np.unique(links.gene, return_inverse=True)
    cross = np.zeros(peak.size)
    sums = np.zeros((2, peaks.size)), np.zeros((2, genes.size))
    for start in range(0, cells.shape[1], BLOCK_CELLS):
        rows = cells[:, start : start + BLOCK_CELLS]
        blocks = (
            _columns(accessibility[rows[0]], peaks, "Accessibility"),
            _columns(expression[rows[1]], genes, "Expression"),
        )
        for total, block in zip(sums, blocks, strict=True):
            total += [block.sum(axis=0), block.power(2).sum(axis=0)]
        for first in range(0, peak.size, BLOCK_LINKS):
            some = slice(first, first + BLOCK_LINKS)
            cross[some] += blocks[0][:, peak[some]].multiply(blocks[1][:, gene[some]]).sum(axis=0)
    n_cells = cells.shape[1]
    (mean_x, var_x), (mean_y, var_y) = (_mean_variance(total, n_cells) for total in sums)
    scale = np.sqrt(var_x[peak] * var_y[gene])
    covariance = cross / n_cells - mean_x[peak] * mean_y[gene]
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)


def _columns(block: Any, columns: np.ndarray, what: str) -> sparse.csc_array:
    chosen = sparse.csc_array(block, dtype=np.float64)[:, columns]
    finite = np.isfinite(chosen.data)
    if not finite.all():
        first = columns[np.searchsorted(chosen.indptr, np.argmin(finite), side="right") - 1]
        msg = (
            f"{what} holds NaN or infinite values, first in column {first} (counting from 0). They are not zeros: look "
            "at the step that made them, such as a logarithm or a division by 0, or leave out those cells or columns."
        )
        raise ValueError(msg)
    return chosen


def _mean_variance(total: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    mean, square = total / n_cells
    variance = square - mean**2
    return mean, np.where(variance > 1e-12 * square, variance, 0.0)  # what remains below is rounding
