"""Knock-outs along the interferon pathway in CD4 T cells."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd
from anndata import AnnData

from scgraphvci.datasets._download import PublicFile
from scgraphvci.datasets._preparation import PERTURBATION, Preparation, load


def name_columns(obs: pd.DataFrame) -> pd.DataFrame:
    """Take donor, Cas9 and treatment of the cells out of conditions such as "2, Donor#2 Cas9+ IFNg+"."""
    if "condition" in obs:
        words = obs["condition"].astype(str).str.split(" ", expand=True)
        obs = obs.assign(donor=words[1], crispr=words[2], cell_type=words[3])
        obs = obs.astype(dict.fromkeys(["donor", "crispr", "cell_type"], "category"))
    if PERTURBATION not in obs and {"target_gene", "crispr"} <= set(obs):
        target = obs["target_gene"].astype(str).mask(obs["crispr"] == "Cas9-", "ctrl")
        obs = obs.assign(**{PERTURBATION: target.astype("category")})
    return obs


def keep_cells(obs: pd.DataFrame) -> pd.Series:
    """Cells whose target is known."""
    return obs["target_gene"].notna() & (obs["target_gene"].astype(str) != "NA")


L008 = Preparation(
    name="l008",
    files=(PublicFile("L008_rna_counts.h5ad", home="https://osf.io/a87cu/", osf_nodes=("a87cu", "5n2mz")),),
    columns=("condition", "target_gene"),
    name_columns=name_columns,
    control="ctrl",
    covariates=("cell_type", "donor"),
    held_out={"cell_type": "restim"},
    keep_cells=keep_cells,
    min_counts=500,
    min_genes=750,
    max_mitochondrial=0.2,
    flavor="cell_ranger",
    targets="target_gene",
    published=139_564,
)


def l008(
    path: str | Path | None = None,
    *,
    processed: bool = True,
    n_top_genes: int = 2000,
    keep_genes: Collection[str] = (),
    n_hardest: int = 20,
    seed: int = 0,
) -> AnnData:
    """Knock-outs along the interferon pathway in CD4 T cells (L008, released with the paper), prepared as in it.

    The recipe is that of the authors' notebook `L008Prep.ipynb` in https://github.com/yulun-rayn/graphVCI:

    1. cells whose target is known, with more than 500 counts, more than 750 genes, less than 20 % of counts of genes
       whose name contains "MT-". The authors were left with 139,564 of 316,138 cells; a warning says if a download
       gives another number;
    2. counts normalised to their median per cell, log1p, genes with counts, of these the highly variable ones (flavor
       "cell_ranger") and the targets: 2,048 genes;
    3. donor, Cas9 and treatment of the cells parsed from the condition, such as "2, Donor#2 Cas9+ IFNg+";
       perturbation: the target, "ctrl" where there is no Cas9. Guides without a target ("NTC") in cells with Cas9 are a
       perturbation of their own;
    4. split: the 20 perturbations farthest from the rest held out of `cell_type` restim, the other cells 4 : 1 at
       random. The authors ranked targets before cells without Cas9 became controls, and drew other cells for the test.

    Parameters
    ----------
    path
        The file ``L008_rna_counts.h5ad``, or a folder that holds it. By default it is downloaded once, as the notes of
        :func:`scgraphvci.datasets.sciplex` say, from the Open Science Framework, projects a87cu or 5n2mz: checked
        against the SHA-256 in the listing, which is recorded, so that a file that differs later is refused.
    processed
        Follow the recipe, which reads cells in blocks. If False, return the file as it is published; 316,138 x 36,604
        counts, 1.2 billion of them not zero, need some 10 GB.
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
    * `obs`: `perturbation` (control "ctrl"), `cell_type` (treatment of the cells, such as IFNg+ and restim), `donor`,
      `crispr` (Cas9+, Cas9-), `target_gene` (of the guide, also without Cas9), `condition`, `split`, quality
      (`n_counts`, `n_genes`, `mt_frac`)
    * `var`: `n_cells`, and scanpy's `highly_variable` and its statistics
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
    >>> adata = sgv.datasets.l008()  # doctest: +SKIP
    >>> sgv.GraphVCI.setup_anndata(  # doctest: +SKIP
    ...     adata,
    ...     "perturbation",
    ...     control="ctrl",
    ...     split_key="split",
    ...     categorical_covariate_keys=["cell_type", "donor"],
    ... )
    """
    return load(
        L008,
        path,
        processed=processed,
        n_top_genes=n_top_genes,
        keep_genes=keep_genes,
        n_hardest=n_hardest,
        seed=seed,
    )
