"""A network from paired expression and open chromatin."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from scgraphvci._constants import SPLITS
from scgraphvci.grn._genes import gene_starts
from scgraphvci.grn._motifs import Binding, regulator_binding
from scgraphvci.grn._peaks import (
    Links,
    correlation_of_links,
    link_by_distance,
    peak_intervals,
    require_same_chromosomes,
)

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


def from_atac(
    mdata: MuData,
    genes: pd.DataFrame | str | PathLike[str],
    *,
    rna: str = "rna",
    atac: str = "atac",
    motif_key: str = "motif_match",
    motif_names: Sequence[str] | None = None,
    regulators: Mapping[str, str | Sequence[str]] | None = None,
    max_distance: int = 100_000,
    promoter: int = 2_000,
    half_distance: int = 10_000,
    min_correlation: float | None = None,
    layer: str | None = None,
    split_key: str | None = None,
) -> pd.DataFrame:
    r"""Build a network from paired RNA and ATAC: regulators bind motifs in peaks, peaks act on genes near them.

    The weight of the edge from regulator r to gene g sums over the peaks p that are linked to g,

    .. math:: w_{rg} = \sum_p m_{rp} \, 2^{-\max(0, \, d_{pg} - d_0) / h}

    with :math:`m_{rp}` the largest match of r's motifs in p (1 or 0 for a matrix of matches), :math:`d_{pg}` the number
    of bases from g's start site to the nearest base of p, :math:`d_0` = `promoter` and :math:`h` = `half_distance`. It
    is computed as one product of sparse matrices, regulators x peaks by peaks x genes.

    Parameters
    ----------
    mdata
        Two modalities: cells x genes, and cells x peaks. Peaks lie where columns `chrom`, `start` and `end` of `var`
        say (0-based, end excluded, as in BED) or else their names, such as "chr1:100-200" or "chr1-100-200".
    genes
        Where genes start: the path of a GTF file (see :func:`read_gtf`), or a frame with columns `gene`, `chrom` and
        `tss` (0-based), or `gene`, `chrom`, `start`, `end` (as in BED) and `strand` ("+" or "-"). Of several rows for a
        gene, the site nearest to a peak counts. Genes are matched with `var_names` of the RNA modality.
    rna, atac
        Names of the modalities.
    motif_key
        Key in `varm` of the peaks: a matrix peaks x motifs, sparse or dense, of matches (0 and 1) or scores (0 for no
        match), as an array or a frame whose columns are motifs. pychromVAR's ``match_motif`` writes "motif_match".
    motif_names
        Names of the motifs; the columns of the frame if None, or else `uns["motif_name"]` of the peaks.
    regulators
        Which gene or genes each motif belongs to. Motifs that are no key are left out and counted. None: a motif is
        named after its regulators; a matrix id of JASPAR before the name is removed and heterodimers count for both, so
        that "MA0137.3.STAT1" is STAT1 and "MA0099.3.FOS::JUN" is FOS and JUN.
    max_distance
        A peak is linked to the genes whose start site is at most that many bases away.
    promoter
        Up to this distance a peak belongs to the promoter: it counts fully, whatever its correlation.
    half_distance
        Bases beyond the promoter over which a peak's share falls to one half.
    min_correlation
        Smallest Pearson correlation, over cells, of a peak with a gene for a link beyond the promoter. None: all links
        count. Expression should be log-normalised. A correlation over few cells is mostly noise; aggregates of cells
        (metacells) in both modalities make it mean more.
    layer
        Layer of the RNA modality with expression; None for `X`. Read for `min_correlation` only, as is `split_key`.
    split_key
        Column of `obs` of the RNA modality with "train", "test" and "ood": correlations see "train" cells only. None:
        all cells.

    Returns
    -------
    One row per edge, ordered by source and target: `source` (regulator), `target`, `weight` (above 0), for
    :func:`add_grn`. `attrs["report"]` is a dict with what was used and what was not: numbers of `cells`, `genes`,
    `peaks`, `peaks_linked`, `links`, `links_uncorrelated` (removed by `min_correlation`), `motifs` and `regulators`,
    and lists of `genes_without_coordinates` and `motifs_without_regulator`.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData, or `genes` or `regulators` are of another kind.
    KeyError
        If a modality, `motif_key`, layer or column is missing.
    ValueError
        If names of peaks hold no coordinates, names of chromosomes differ (chr1 and 1), no gene has coordinates, motifs
        have no names, values are NaN or negative, modalities share no cells, or no edge is left.

    Notes
    -----
    The network says which regulations are possible, not which happen: motifs are many and most matches are not bound.
    Refine it with :func:`scgraphvci.tl.refine_grn`. Motifs in promoters and in linked distal peaks make the base
    network of CellOracle [1]_, whose distal links come from Cicero's co-accessibility [2]_; a search space around genes
    and correlation of region and gene are SCENIC+'s [3]_; the decay with distance is that of MAESTRO's regulatory
    potentials [4]_.

    References
    ----------
    .. [1] Kamimoto et al., Dissecting cell identity via network inference and in silico gene perturbation, Nature 2023.
    .. [2] Pliner et al., Cicero predicts cis-regulatory DNA interactions from single-cell chromatin accessibility data,
       Molecular Cell 2018.
    .. [3] Bravo González-Blas et al., SCENIC+: single-cell multiomic inference of enhancers and gene regulatory
       networks, Nature Methods 2023.
    .. [4] Wang et al., Integrative analyses of single-cell transcriptome and regulome using MAESTRO, Genome Biology
       2020.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> from mudata import MuData
    >>> from scgraphvci.grn import from_atac
    >>> rna = ad.AnnData(np.ones((2, 2)), var=pd.DataFrame(index=["STAT1", "IRF1"]))
    >>> atac = ad.AnnData(np.ones((2, 2)), var=pd.DataFrame(index=["chr5:100-600", "chr5:12000-12500"]))
    >>> atac.varm["motif_match"] = pd.DataFrame({"MA0137.3.STAT1": [1, 1]}, index=atac.var_names)
    >>> genes = pd.DataFrame({"gene": ["IRF1", "STAT1"], "chrom": ["chr5", "chr2"], "tss": [0, 0]})
    >>> from_atac(MuData({"rna": rna, "atac": atac}), genes)
      source target  weight
    0  STAT1   IRF1     1.5
    """
    _check_numbers(max_distance, promoter, half_distance, min_correlation)
    expression, accessibility = _modality(mdata, rna), _modality(mdata, atac)
    binding = regulator_binding(accessibility, motif_key, motif_names, regulators)
    peaks = peak_intervals(accessibility)
    starts, without = _starts_of(expression.var_names.astype(str), gene_starts(genes))
    require_same_chromosomes(peaks, starts)
    links = link_by_distance(peaks, starts, max_distance)
    cells = _paired_cells(expression, accessibility, split_key)
    correlated = np.ones(links.peak.size, dtype=bool)
    if min_correlation is not None:
        r = correlation_of_links(links, accessibility.X, _matrix(expression, layer), cells)
        correlated = (links.distance <= promoter) | (r >= min_correlation)
    net = _edges(binding, links.where(correlated), expression.var_names, promoter, half_distance)
    report = {
        "cells": cells.shape[1],
        "genes": expression.n_vars,
        "genes_without_coordinates": without,
        "peaks": accessibility.n_vars,
        "peaks_linked": int(np.unique(links.peak[correlated]).size),
        "links": int(correlated.sum()),
        "links_uncorrelated": int((~correlated).sum()),
        "motifs": binding.n_motifs,
        "motifs_without_regulator": binding.motifs_left_out,
        "regulators": len(binding.regulators),
    }
    _tell(report, empty=net.empty)
    net.attrs["report"] = report
    return net


def _tell(report: dict[str, Any], *, empty: bool) -> None:
    """Warn of what was left out, and raise if nothing remains."""
    if empty:
        shown = {name: len(value) if isinstance(value, list) else value for name, value in report.items()}
        msg = f"No edge is left: {shown}. Raise `max_distance`, lower `min_correlation`, or check the motif matrix."
        raise ValueError(msg)
    genes, motifs = report["genes_without_coordinates"], report["motifs_without_regulator"]
    if genes:
        logger.warning(
            "%d of %d genes have no coordinates in `genes`, such as %s: nothing regulates them in this network.",
            len(genes), report["genes"], ", ".join(genes[:3]),
        )  # fmt: skip
    if motifs:
        logger.warning("%d of %d motifs have no regulator.", len(motifs), report["motifs"])


def _edges(binding: Binding, links: Links, names: pd.Index, promoter: int, half_distance: int) -> pd.DataFrame:
    """Combine matches of regulators in peaks with links of peaks to genes."""
    share = np.exp2(-np.maximum(links.distance - promoter, 0) / half_distance)
    shape = (binding.matrix.shape[1], len(names))
    action = sparse.csr_array((share, (links.peak, links.gene)), shape=shape)
    product = binding.matrix @ action
    product.eliminate_zeros()
    product.sort_indices()
    product = product.tocoo()
    source, target = product.coords
    return pd.DataFrame(
        {
            "source": binding.regulators[source],
            "target": names.astype(str).to_numpy(dtype=object)[target],
            "weight": product.data,
        }
    )


def _check_numbers(max_distance: int, promoter: int, half_distance: int, min_correlation: float | None) -> None:
    if not 0 <= promoter <= max_distance:
        msg = (
            f"promoter={promoter!r}, max_distance={max_distance!r}: needed is 0 <= promoter <= max_distance, in bases."
        )
        raise ValueError(msg)
    if not half_distance > 0:
        msg = f"half_distance={half_distance!r} must be above 0, in bases."
        raise ValueError(msg)
    if min_correlation is not None and not -1 <= min_correlation <= 1:
        msg = f"min_correlation={min_correlation!r} must lie between -1 and 1, or be None."
        raise ValueError(msg)


def _modality(mdata: Any, name: str) -> AnnData:
    if not isinstance(mdata, MuData):
        msg = f"Expected a MuData with RNA and ATAC, got {type(mdata).__name__}. Build it: `MuData({{'rna': ...}})`."
        raise TypeError(msg)
    if name not in mdata.mod:
        msg = f"Modality {name!r} not found. Modalities: {list(mdata.mod)}. Name them with `rna=` and `atac=`."
        raise KeyError(msg)
    adata = mdata.mod[name]
    for names in (adata.obs_names, adata.var_names):
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()[:5].tolist()
            msg = f"Names in modality {name!r} are not unique, such as {repeated}. Make them so, with scanpy or mudata."
            raise ValueError(msg)
    return adata


def _starts_of(names: pd.Index, starts: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Start sites of the genes at hand, `gene` being their position, and the genes that have none."""
    position = names.get_indexer(pd.Index(starts["gene"]))
    known = starts.assign(gene=position)[position >= 0].reset_index(drop=True)
    if known.empty:
        msg = (
            f"No gene of the data, such as {names[:3].tolist()}, is among those of `genes`, such as "
            f"{starts['gene'][:3].tolist()}. Use one kind of name in both: `grn.read_gtf(path, attribute='gene_id')` "
            "reads Ensembl identifiers."
        )
        raise ValueError(msg)
    return known, names[np.setdiff1d(np.arange(len(names)), known["gene"])].tolist()


def _paired_cells(rna: AnnData, atac: AnnData, split_key: str | None) -> np.ndarray:
    """Rows of peaks and of expression that are one cell, training cells only where there is a split."""
    row = atac.obs_names.get_indexer(rna.obs_names)
    keep = row >= 0
    if not keep.any():
        msg = (
            f"The modalities share no cells: RNA has {rna.obs_names[:2].tolist()}, ATAC {atac.obs_names[:2].tolist()}. "
            "Give both the same obs_names."
        )
        raise ValueError(msg)
    if split_key is not None:
        if split_key not in rna.obs:
            msg = f"`split_key`: column {split_key!r} not found in obs. Columns: {list(rna.obs.columns)}."
            raise KeyError(msg)
        keep &= (rna.obs[split_key].astype(str) == SPLITS.TRAIN).to_numpy()
        if not keep.any():
            msg = f"obs[{split_key!r}] marks no cell of both modalities as {SPLITS.TRAIN!r}."
            raise ValueError(msg)
    return np.stack([row[keep], np.flatnonzero(keep)])


def _matrix(rna: AnnData, layer: str | None) -> Any:
    if layer is not None and layer not in rna.layers:
        layers = [key for key in rna.layers if key is not None]  # anndata from 0.13 lists X under None
        msg = f"Layer {layer!r} not found. Layers: {layers}; `layer=None` uses X."
        raise KeyError(msg)
    return rna.X if layer is None else rna.layers[layer]
