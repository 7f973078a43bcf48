"""CRISPR activation in primary human T cells."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd
from anndata import AnnData

from scgraphvci.datasets._download import PublicFile
from scgraphvci.datasets._preparation import PERTURBATION, Preparation, load


def name_columns(obs: pd.DataFrame) -> pd.DataFrame:
    """Name columns as other data sets do, and mend a typing error."""
    obs = obs.rename(columns={"cluser_name": "cluster_name", "celltype": "cell_type"})
    if PERTURBATION not in obs and "target" in obs:
        obs = obs.assign(**{PERTURBATION: obs["target"].astype(str).astype("category")})
    return obs


def keep_cells(obs: pd.DataFrame) -> pd.Series:
    """Cells with an assigned donor and type."""
    return (
        (obs["nCount_RNA"] > 0)
        & obs["donor"].astype(str).isin(["Donor1", "Donor2"])
        & obs["celltype"].astype(str).isin(["CD4", "CD8"])
    )


MARSON = Preparation(
    name="marson",
    files=(PublicFile("marson_formatted_raw.h5ad", home="https://osf.io/5n2mz/", osf_nodes=("5n2mz",)),),
    columns=("nCount_RNA", "celltype", "donor", "stim", "target"),
    name_columns=name_columns,
    control="NTC",
    covariates=("cell_type", "donor", "stim"),
    held_out={"stim": "Re-stimulated", "cell_type": "CD8"},
    gene_column="name",
    keep_cells=keep_cells,
    min_genes=750,
    max_mitochondrial=0.2,
    flavor="cell_ranger",
    targets=PERTURBATION,
    published=39_616,
)


def marson(
    path: str | Path | None = None,
    *,
    processed: bool = True,
    n_top_genes: int = 2000,
    keep_genes: Collection[str] = (),
    n_hardest: int = 20,
    seed: int = 0,
) -> AnnData:
    """CRISPR activation of 73 genes in T cells of two donors (Schmidt 2022), prepared as in the paper.

    Columns, cells, control and split follow the authors' notebook `MarsonPrep.ipynb` in
    https://github.com/yulun-rayn/graphVCI, thresholds the paper's description, normalisation their other notebooks:

    1. cells with counts, donor Donor1 or Donor2 and type CD4 or CD8 (the others are "Unassigned" or empty), more than
       750 genes, less than 20 % of counts of genes whose name contains "MT-". The authors were left with 39,616 of
       56,081 cells; a warning says if a download gives another number;
    2. counts normalised to their median per cell, log1p, highly variable genes (flavor "cell_ranger") and the targets:
       2,013 genes. Genes without counts in these cells are left out first;
    3. perturbation: the target, control "NTC";
    4. split: the 20 perturbations farthest from the rest held out of re-stimulated CD8 cells, the other cells 4 : 1 at
       random. The authors drew other cells for the test.

    There are two donors: intervals clustered by donor (`cluster_key="donor"`) rest on one degree of freedom.

    Parameters
    ----------
    path
        The file ``marson_formatted_raw.h5ad``, or a folder that holds it. By default it is downloaded once, as the
        notes of :func:`scgraphvci.datasets.sciplex` say, from the Open Science Framework, project 5n2mz: checked
        against the SHA-256 in its listing, which is recorded, so that a file that differs later is refused.
    processed
        Follow the recipe. If False, return the file as it is published.
    n_top_genes
        Number of highly variable genes, to which targets are added.
    keep_genes
        Names of genes to keep besides, where the data have them, such as regulators of a network to compare with.
    n_hardest
        Number of perturbations to hold out.
    seed
        Of the split.

    Returns
    -------
    Cells x genes, with

    * `X`: log-normalised expression; `layers["counts"]`: counts
    * `obs`: `perturbation` (control "NTC"), `cell_type` (CD4, CD8), `donor` (Donor1, Donor2), `stim` (Resting,
      Re-stimulated), `split`, quality (`n_counts`, `n_genes`, `mt_frac`), and what is published: `barcode`, `sgRNA`,
      `target`, `cluster_name`, `stim_celltype` and others
    * `var`: `ENSGNM`, `name`, `is_sgRNA` as published, `n_cells`, and scanpy's `highly_variable` and its statistics
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
        If the file is not the one expected, holds no counts or no good cells, or too few perturbations can be held out.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.marson()  # doctest: +SKIP
    >>> sgv.GraphVCI.setup_anndata(  # doctest: +SKIP
    ...     adata,
    ...     "perturbation",
    ...     control="NTC",
    ...     split_key="split",
    ...     categorical_covariate_keys=["cell_type", "donor", "stim"],
    ... )
    """
    return load(
        MARSON,
        path,
        processed=processed,
        n_top_genes=n_top_genes,
        keep_genes=keep_genes,
        n_hardest=n_hardest,
        seed=seed,
    )
