"""The recipe of the paper: good cells of published counts, log-normalised, variable genes, a split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from anndata import AnnData
from anndata.abc import CSCDataset
from scipy import sparse

from scgraphvci._untrusted import read_h5ad
from scgraphvci.datasets._download import PublicFile, fetch
from scgraphvci.pp import split_ood

logger = logging.getLogger(__name__)

ROWS = 20_000  # cells looked at in one piece
PERTURBATION = "perturbation"


@dataclass(frozen=True)
class Preparation:
    """How a public screen is prepared.

    Attributes
    ----------
    name
        Of the function that loads it.
    files
        What is published.
    columns
        Of `obs` that must be published.
    name_columns
        Makes the columns that users meet of the `obs` that is published; leaves those that are there.
    control
        Level of ``obs["perturbation"]``.
    covariates
        Columns of `obs`.
    held_out
        Category, {column: level}, that the hardest treatments are held out of.
    dose_key
        Column of `obs`.
    gene_column
        Column of `var` with gene names, where `var_names` are something else.
    keep_cells
        Tells from `obs` which cells to keep besides good ones, boolean.
    min_counts, min_genes, max_mitochondrial
        A good cell has more counts, more genes, and a smaller mitochondrial share.
    share
        Of the good cells to draw.
    target_sum
        Counts per cell to normalise to; their median if None.
    flavor
        Of ``scanpy.pp.highly_variable_genes``.
    targets
        Column of `obs` whose values are genes to keep in any case.
    published
        Number of cells the authors were left with.
    """

    name: str
    files: tuple[PublicFile, ...]
    name_columns: Callable[[pd.DataFrame], pd.DataFrame]
    control: str
    covariates: tuple[str, ...]
    held_out: Mapping[str, str]
    columns: tuple[str, ...] = ()
    dose_key: str | None = None
    gene_column: str | None = None
    keep_cells: Callable[[pd.DataFrame], pd.Series] | None = None
    min_counts: int = 0
    min_genes: int = 0
    max_mitochondrial: float = np.inf
    share: float = 1.0
    target_sum: float | None = None
    flavor: str = "seurat"
    targets: str | None = None
    published: int | None = None


def load(
    preparation: Preparation,
    path: str | Path | Sequence[str | Path] | None,
    *,
    processed: bool,
    n_top_genes: int,
    keep_genes: Collection[str],
    n_hardest: int,
    seed: int,
) -> AnnData:
    """Read a public screen from `path`, or download it, and prepare it if `processed`.

    Raises
    ------
    FileNotFoundError
        If `path` does not hold the files.
    OSError
        If files could not be downloaded.
    KeyError
        If columns are missing.
    ValueError
        If values are no counts, no good cell is left, or as in :func:`scgraphvci.pp.split_ood`.
    """
    paths = [fetch(file) for file in preparation.files] if path is None else local_files(path, preparation.files)
    if not processed:
        return _join([read_h5ad(each) for each in paths])
    adata = _join([_read_good_cells(each, preparation) for each in paths])
    adata.obs = preparation.name_columns(adata.obs)
    if preparation.share < 1:
        adata = _draw(adata, preparation.share, seed)
    sc.pp.filter_genes(adata, min_cells=1)
    adata.layers["counts"] = adata.X.copy()
    targets = () if preparation.targets is None else adata.obs[preparation.targets].astype(str).unique()
    adata = log_normalise(adata, {*targets, *keep_genes}, n_top_genes, preparation.flavor, preparation.target_sum)
    if path is None and preparation.published not in (None, adata.n_obs):
        message = "%s: %d cells pass, but the authors were left with %d."
        logger.warning(message, preparation.name, adata.n_obs, preparation.published)
    columns, levels = list(preparation.held_out), list(preparation.held_out.values())
    split_ood(adata, PERTURBATION, preparation.control, columns, levels, n_hardest, seed=seed)
    return adata


def log_normalise(
    adata: AnnData,
    keep: Collection[str] = (),
    n_top_genes: int | None = None,
    flavor: str = "seurat",
    target_sum: float | None = 1e3,
) -> AnnData:
    """Normalise counts per cell, take log1p, and keep highly variable genes and those named.

    Parameters
    ----------
    adata
        Counts, overwritten.
    keep
        Names of genes to keep in any case.
    n_top_genes
        Number of highly variable genes; all genes if None.
    flavor
        Of ``scanpy.pp.highly_variable_genes``.
    target_sum
        Counts per cell; their median if None.
    """
    threads = torch.get_num_threads()
    sc.pp.normalize_total(adata, target_sum=target_sum)
    sc.pp.log1p(adata)
    if n_top_genes is not None:
        sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes, flavor=flavor)
        adata = adata[:, adata.var["highly_variable"] | adata.var_names.isin(list(keep))].copy()
    torch.set_num_threads(threads)  # numba, which scanpy calls, raises torch's number too
    return adata


def local_files(path: str | Path | Sequence[str | Path], files: Sequence[PublicFile]) -> list[Path]:
    """Return the files a user means: one, several, or a folder with the public ones.

    Raises
    ------
    FileNotFoundError
        If one is missing.
    """
    if isinstance(path, str | Path):
        folder = Path(path).expanduser()
        paths = [folder / file.name for file in files] if folder.is_dir() else [folder]
    else:
        paths = [Path(each).expanduser() for each in path]
    missing = [str(each) for each in paths if not each.is_file()]
    if missing:
        names, homes = ", ".join(file.name for file in files), " or ".join(sorted({file.home for file in files}))
        msg = f"No file {', '.join(missing)}. `path` takes a file, several, or a folder with {names} from {homes}."
        raise FileNotFoundError(msg)
    return paths


def _read_good_cells(path: Path, preparation: Preparation) -> AnnData:
    """Read the cells that pass, looking at the others in blocks only."""
    adata = read_h5ad(path, backed="r")
    missing = [column for column in preparation.columns if column not in adata.obs]
    if missing:
        msg = (
            f"obs of {path.name} lacks {missing}; it has {list(adata.obs.columns)}. Is it the file "
            f"{preparation.files[0].name}? One that is prepared already is read with `processed=False`."
        )
        raise KeyError(msg)
    if isinstance(adata.X, CSCDataset):  # stored by gene, which blocks of cells cannot be read from
        adata.file.close()
        adata = read_h5ad(path)
        adata.X = adata.X.tocsr()
    column = preparation.gene_column
    genes = pd.Index(adata.var[column].astype(str) if column in adata.var else adata.var_names)
    quality = _quality(adata.X, genes.str.contains("MT-", regex=False), path.name).set_axis(adata.obs_names)
    good = (
        (quality["n_counts"] > preparation.min_counts)
        & (quality["n_genes"] > preparation.min_genes)
        & (quality["mt_frac"] < preparation.max_mitochondrial)
    )
    if preparation.keep_cells is not None:
        good &= preparation.keep_cells(adata.obs)
    if not good.any():
        msg = (
            f"No cell of {path.name} passes: more than {preparation.min_counts} counts, more than "
            f"{preparation.min_genes} genes, mitochondrial share below {preparation.max_mitochondrial}. The medians "
            f"are {quality.median().round(3).to_dict()}. Is it the file {preparation.files[0].name}?"
        )
        raise ValueError(msg)
    kept = adata[good.to_numpy()]
    kept = kept.to_memory() if adata.isbacked else kept.copy()
    if adata.isbacked:
        adata.file.close()
    kept.X = sparse.csr_matrix(kept.X, dtype=np.float32)
    kept.var_names = genes
    kept.var_names_make_unique()
    kept.obs[quality.columns] = quality[good]
    return kept


def _quality(counts: Any, mitochondrial: np.ndarray, name: str) -> pd.DataFrame:
    """Counts, genes and mitochondrial share of each cell.

    Raises
    ------
    ValueError
        If values are no counts.
    """
    blocks = []
    for start in range(0, counts.shape[0], ROWS):
        block = sparse.csr_matrix(counts[start : start + ROWS])
        strange = block.data[(block.data < 0) | (block.data % 1 != 0)]
        if strange.size:
            msg = (
                f"{name} holds values that are no counts, such as {strange[0]:g}. The recipe starts from raw counts; "
                "a file that is prepared already is read with `processed=False`."
            )
            raise ValueError(msg)
        n_counts, n_genes = np.ravel(block.sum(axis=1)), np.ravel((block > 0).sum(axis=1))
        share = np.ravel(block[:, mitochondrial].sum(axis=1)) / np.maximum(n_counts, 1)
        blocks.append(pd.DataFrame({"n_counts": n_counts, "n_genes": n_genes, "mt_frac": share}))
    return pd.concat(blocks, ignore_index=True)


def _join(parts: list[AnnData]) -> AnnData:
    """Put the cells of several files into one, their number appended to names of cells."""
    if len(parts) == 1:
        return parts[0]
    return ad.concat(parts, keys=[str(number) for number in range(len(parts))], index_unique="-", merge="same")


def _draw(adata: AnnData, share: float, seed: int) -> AnnData:
    """Draw a share of the cells: those that scanpy's ``subsample(fraction=share, random_state=seed)`` drew."""
    rng = np.random.RandomState(seed)
    cells = rng.choice(adata.n_obs, size=int(share * adata.n_obs), replace=False)
    return adata[np.sort(cells)].copy()
