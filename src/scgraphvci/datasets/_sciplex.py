"""sci-Plex 3: three cancer cell lines under 188 drugs at four doses."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd
from anndata import AnnData

from scgraphvci.datasets._download import PublicFile
from scgraphvci.datasets._preparation import PERTURBATION, Preparation, load


def name_columns(obs: pd.DataFrame) -> pd.DataFrame:
    """Name the drug by its first word and express the dose as a share of the largest."""
    if PERTURBATION in obs or not {"product_name", "dose"} <= set(obs):
        return obs
    nanomolar = obs["dose"].astype(float)
    obs = obs.assign(dose_nM=nanomolar, dose=nanomolar / nanomolar.max())
    obs[PERTURBATION] = obs["product_name"].astype(str).str.split(" ").str[0].astype("category")
    return obs


SCIPLEX = Preparation(
    name="sciplex",
    files=tuple(
        PublicFile(
            f"sciplex_raw_chunk_{number}.h5ad",
            home="https://osf.io/5n2mz/",
            osf_nodes=("5n2mz",),
            advice="Its namesake is also in https://dl.fbaipublicfiles.com/dlp/cpa_binaries.tar (folder datasets).",
        )
        for number in range(5)
    ),
    columns=("product_name", "dose", "cell_type", "replicate"),
    name_columns=name_columns,
    control="Vehicle",
    covariates=("cell_type", "replicate"),
    held_out={"cell_type": "MCF7"},
    dose_key="dose",
    min_counts=500,
    min_genes=750,
    max_mitochondrial=0.2,
    share=0.5,
    published=122_278,
)


def sciplex(
    path: str | Path | Sequence[str | Path] | None = None,
    *,
    processed: bool = True,
    n_top_genes: int = 2000,
    keep_genes: Collection[str] = (),
    n_hardest: int = 20,
    seed: int = 0,
) -> AnnData:
    """sci-Plex 3 (Srivatsan 2020): A549, K562 and MCF7 cells under 188 drugs at four doses, prepared as in the paper.

    The recipe is that of the authors' notebook `SciplexPrep.ipynb` in https://github.com/yulun-rayn/graphVCI:

    1. good cells: more than 500 counts, more than 750 genes, less than 20 % of counts of genes whose name contains
       "MT-"; then half of them at random (with seed 0 the draw of scanpy that the authors made). They were left with
       122,278 of 581,777 cells; a warning says if a download gives another number;
    2. counts normalised to their median per cell, log1p, highly variable genes (flavor "seurat");
    3. perturbation: first word of the product's name; dose: divided by the largest of all;
    4. split: the 20 perturbations farthest from the rest held out of MCF7, the other cells 4 : 1 at random. The authors
       ranked full names of products, and drew other cells for the test.

    Parameters
    ----------
    path
        The five files ``sciplex_raw_chunk_0.h5ad`` to ``sciplex_raw_chunk_4.h5ad``: a folder that holds them, or a
        list. By default they are downloaded once, as "Notes" says.
    processed
        Follow the recipe. If False, return what is published, joined; 581,777 x 58,347 counts need some 6 GB.
    n_top_genes
        Number of highly variable genes.
    keep_genes
        Names of genes to keep besides, where the data have them, such as regulators of a network to compare with.
    n_hardest
        Number of perturbations to hold out.
    seed
        Of the half of the cells and of the split.

    Returns
    -------
    Cells x genes, with

    * `X`: log-normalised expression; `layers["counts"]`: counts
    * `obs`: `perturbation` (control "Vehicle"), `dose` (0 to 1), `dose_nM`, `cell_type`, `replicate`, `split`, quality
      (`n_counts`, `n_genes`, `mt_frac`), and what is published: `product_name`, `pathway`, `target` and others
    * `var`: what is published, `n_cells`, and scanpy's `highly_variable` and its statistics
    * `uns`: `split` as :func:`scgraphvci.pp.split_ood` writes it; `log1p` and `hvg` of scanpy

    Raises
    ------
    OSError
        If files could not be downloaded; it says what to fetch by hand, from where, and where to put it.
    FileNotFoundError
        If `path` does not hold the files.
    KeyError
        If the file lacks a column.
    ValueError
        If a file is not the one expected, holds no counts or no good cells, or too few perturbations can be held out.

    Notes
    -----
    Files come from the Open Science Framework, project 5n2mz, which the authors name, and are found there by name.
    They are kept in the folder that the environment variable ``SCGRAPHVCI_DATA_DIR`` names, else in the cache of the
    system; a file that is there already is taken. No checksum is printed with them: the SHA-256 that the
    project's listing tells is checked, the one of the first download is recorded in ``registry.txt`` of the folder, and
    a file that differs later is refused. Broken downloads are resumed. If ``SCGRAPHVCI_DATA_MIRROR`` names an
    address, ``<address>/<file>`` is tried where the home fails.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.sciplex()  # doctest: +SKIP
    >>> sgv.GraphVCI.setup_anndata(  # doctest: +SKIP
    ...     adata,
    ...     "perturbation",
    ...     control="Vehicle",
    ...     dose_key="dose",
    ...     split_key="split",
    ...     categorical_covariate_keys=["cell_type", "replicate"],
    ... )
    """
    return load(
        SCIPLEX,
        path,
        processed=processed,
        n_top_genes=n_top_genes,
        keep_genes=keep_genes,
        n_hardest=n_hardest,
        seed=seed,
    )
