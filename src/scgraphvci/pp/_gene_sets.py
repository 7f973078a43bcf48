"""Features of genes from the sets they are in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from scgraphvci._constants import SLOTS
from scgraphvci._untrusted import open_text
from scgraphvci.data._read import require_unique_names
from scgraphvci.pp._gene_features import fixed_signs, require_overlap, write_features

if TYPE_CHECKING:
    from anndata import AnnData


def gene_set_features(
    adata: AnnData,
    sets: Mapping[str, Iterable[str]] | pd.DataFrame | str | PathLike[str],
    n_features: int = 32,
    *,
    seed: int = 0,
    key_added: str = SLOTS.GENE_FEATURES,
    copy: bool = False,
) -> AnnData | None:
    r"""Embed genes by the sets they are in, such as GO terms or hallmark sets, without any expression.

    The features are :math:`U S` of a truncated singular value decomposition of the genes x sets membership matrix,
    whose columns have unit length so that large sets do not decide (:class:`sklearn.decomposition.TruncatedSVD`).

    Parameters
    ----------
    adata
        Cells x genes, with unique `var_names`. Expression is not looked at.
    sets
        Genes of each set: a mapping, a frame with columns `source` (set) and `target` (gene) such as decoupler's
        ``dc.op.hallmark()``, or the path of a GMT file, as MSigDB and Enrichr offer them, plain or compressed (`.gz`).
    n_features
        Number of components.
    seed
        Of the randomised decomposition.
    key_added
        Key to write under, for `gene_features_key` of ``setup_anndata``.
    copy
        Write to a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    * `varm[key_added]`: float32, shape ``(n_genes, n_features)``, the strongest component first, the sign of each such
      that its largest entry is positive; **zeros for genes in no set**, with a warning
    * `uns[key_added]`: dict with `params` (`source`, `n_sets`, `n_sets_used`: those with a gene of `adata`, `seed`) and
      `report` (`n_genes`, `n_genes_missing` and `genes_missing`, the genes of `adata` that got zeros)

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If `sets` is of another kind, or a set is a string.
    KeyError
        If the frame lacks a column.
    ValueError
        If a line is not GMT, names are missing, no gene of `adata` is in a set, or there are too few genes or sets for
        so many components. Nothing is written.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=200, n_genes=40, n_perturbations=3, seed=0)
    >>> genes = adata.var_names
    >>> sets = {"one": genes[:20], "two": genes[10:30], "three": genes[25:]}
    >>> sgv.pp.gene_set_features(adata, sets, n_features=2)
    >>> adata.varm["gene_features"].shape
    (40, 2)
    """
    require_unique_names(adata)
    members = _members(sets)
    genes = adata.var_names.astype(str)
    row = genes.get_indexer(pd.Index(members["gene"]))
    require_overlap(adata, row >= 0, pd.Index(members["gene"].unique()), "a set")
    known = members[row >= 0].assign(row=row[row >= 0]).drop_duplicates(["set", "row"])
    column, names = pd.factorize(known["set"], sort=True)
    weight = 1 / np.sqrt(np.bincount(column))[column]
    matrix = sparse.csr_array((weight, (known["row"].to_numpy(), column)), shape=(len(genes), len(names)))
    if not 1 <= n_features <= min(matrix.shape):
        msg = f"n_features={n_features} must lie between 1 and {min(matrix.shape)}, given {len(genes)} genes and "
        msg = f"{msg}{len(names)} sets with genes of the data."
        raise ValueError(msg)
    values = TruncatedSVD(n_features, random_state=seed).fit_transform(matrix)
    params = {"source": "gene sets", "n_sets": members["set"].nunique(), "n_sets_used": len(names), "seed": seed}
    missing = ~np.isin(np.arange(len(genes)), known["row"])
    return write_features(adata, fixed_signs(values), missing, key_added, params, copy=copy)


def _members(sets: Mapping[str, Iterable[str]] | pd.DataFrame | str | PathLike[str]) -> pd.DataFrame:
    """Members of sets, columns `set` and `gene`."""
    if isinstance(sets, str | PathLike):
        sets = _read_gmt(sets)
    if isinstance(sets, pd.DataFrame):
        missing = [name for name in ("source", "target") if name not in sets]
        if missing:
            msg = f"`sets` has no column {missing}. Columns: {list(sets.columns)}. Rename them to source and target."
            raise KeyError(msg)
        n_missing = int(sets[["source", "target"]].isna().any(axis=1).sum())
        if n_missing:
            msg = f"{n_missing} rows of `sets` have no source or target. Drop them with `sets.dropna()`."
            raise ValueError(msg)
        return pd.DataFrame({"set": sets["source"].astype(str), "gene": sets["target"].astype(str)})
    if not isinstance(sets, Mapping):
        msg = f"`sets` must be a mapping from set to genes, a data frame or the path of a GMT file, not {type(sets)}."
        raise TypeError(msg)
    text = [name for name, genes in sets.items() if isinstance(genes, str)]
    if text:
        msg = f"Set {text[0]!r} is the string {sets[text[0]]!r}. Give a list of genes."
        raise TypeError(msg)
    pairs = [(str(name), str(gene)) for name, genes in sets.items() for gene in genes]
    return pd.DataFrame(pairs, columns=["set", "gene"])


def _read_gmt(path: str | PathLike[str]) -> dict[str, list[str]]:
    """Read a GMT file: by line and between tabs the name of a set, a description, and its genes."""
    sets: dict[str, list[str]] = {}
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\r\n").split("\t")
            if fields == [""]:
                continue
            if len(fields) < 3:
                msg = (
                    f"Line {number} of {path} is not GMT: name, description and genes between tabs, not {line[:80]!r}."
                )
                raise ValueError(msg)
            sets.setdefault(fields[0], []).extend(gene for gene in fields[2:] if gene)
    return sets
