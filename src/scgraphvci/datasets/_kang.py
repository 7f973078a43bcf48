"""Blood cells with and without interferon beta."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd
from anndata import AnnData

from scgraphvci.datasets._download import PublicFile
from scgraphvci.datasets._preparation import PERTURBATION, Preparation, load

LEVELS = {"ctrl": "control", "stim": "IFNb"}
CELL_TYPES = {
    "B cells": "B",
    "CD4 T cells": "CD4T",
    "CD8 T cells": "CD8T",
    "CD14+ Monocytes": "CD14+Mono",
    "Dendritic cells": "Dendritic",
    "FCGR3A+ Monocytes": "FCGR3A+Mono",
    "NK cells": "NK",
}


def name_columns(obs: pd.DataFrame) -> pd.DataFrame:
    """Name columns and levels as other data sets, and scGen's copy of this one, do."""
    obs = obs.rename(columns={"label": PERTURBATION, "replicate": "donor"})
    for key, names in ((PERTURBATION, LEVELS), ("cell_type", CELL_TYPES)):
        if key in obs:
            obs = obs.assign(**{key: obs[key].astype(str).replace(names).astype("category")})
    return obs


KANG = Preparation(
    name="kang",
    files=(
        PublicFile(
            "kang_2018.h5ad",
            home="https://ndownloader.figshare.com/files/34464122",
            urls=(
                "https://api.figshare.com/v2/file/download/34464122",
                "https://exampledata.scverse.org/pertpy/kang_2018.h5ad",
                "https://ndownloader.figshare.com/files/34464122",
            ),
            sha256="e6a5adac64dcdeb36eaba27db49b63e0c64bb0ed4a64c6705971506b41c39830",
        ),
    ),
    name_columns=name_columns,
    control="control",
    covariates=("cell_type",),
    held_out={"cell_type": "CD14+Mono"},
    target_sum=1e3,
)


def kang(
    path: str | Path | None = None,
    *,
    processed: bool = True,
    category: str = KANG.held_out["cell_type"],
    n_top_genes: int = 1500,
    keep_genes: Collection[str] = (),
    seed: int = 0,
) -> AnnData:
    """Blood cells of eight lupus patients with and without interferon beta for six hours (Kang 2018, GSE96583).

    Not a data set of the paper, but small and its response strong. The recipe is ours: counts normalised to 1,000 per
    cell, log1p, 1,500 highly variable genes chosen on all cells; interferon held out of one cell type, the other cells
    4 : 1 at random. Names of treatments and cell types become those of scGen's copy.

    Parameters
    ----------
    path
        The file ``kang_2018.h5ad``, a folder that holds it, or a file with the counts and the columns `perturbation`
        and `cell_type`. By default it is downloaded once (38 MB), as the notes of
        :func:`scgraphvci.datasets.sciplex` say, from figshare, file 34464122, or from its mirror at scverse, and
        checked against its SHA-256, which public repositories that use the file agree on.
    processed
        Follow the recipe. If False, return the file as it is published, 24,673 x 15,706 counts.
    category
        The cell type to hold interferon out of.
    n_top_genes
        Number of highly variable genes.
    keep_genes
        Names of genes to keep besides, where the data have them. Do name those you want to look at: in a part of these
        data, IFIT1 and IFIT3 were not among the 1,500.
    seed
        Of the split.

    Returns
    -------
    Cells x genes, with

    * `X`: log-normalised expression; `layers["counts"]`: counts
    * `obs`: `perturbation` (control, IFNb), `cell_type` (B, CD4T, CD8T, CD14+Mono, Dendritic, FCGR3A+Mono, NK,
      Megakaryocytes), `donor`, `split`, quality (`n_counts`, `n_genes`, `mt_frac`), and what is published
    * `var`: what is published, `n_cells`, and scanpy's `highly_variable` and its statistics
    * `uns`: `split` as :func:`scgraphvci.pp.split_ood` writes it; `log1p` and `hvg` of scanpy

    Raises
    ------
    OSError
        If the file could not be downloaded; it says what to fetch by hand, from where, and where to put it.
    FileNotFoundError
        If there is none at `path`.
    KeyError
        If the file lacks a column.
    ValueError
        If the file is not the one expected, holds no counts, or there is no such cell type.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.kang()  # doctest: +SKIP
    >>> sgv.GraphVCI.setup_anndata(  # doctest: +SKIP
    ...     adata, "perturbation", control="control", split_key="split", categorical_covariate_keys=["cell_type"]
    ... )
    """
    preparation = replace(KANG, held_out={"cell_type": category})
    return load(
        preparation,
        path,
        processed=processed,
        n_top_genes=n_top_genes,
        keep_genes=keep_genes,
        n_hardest=1,
        seed=seed,
    )
