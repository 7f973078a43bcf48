"""Networks between long frames and `adata.varp`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GRNReport:
    """What became of a network when it was aligned with the genes of an AnnData.

    Attributes
    ----------
    edges_in
        Rows of the frame.
    edges_kept
        Edges written, after merging.
    duplicates_merged
        Rows merged into another row with the same source and target; the weight with the largest magnitude stays.
    zero_weights
        Merged edges of weight 0, which a sparse matrix cannot hold: not written.
    self_loops
        Edges written from a gene to itself.
    genes_missing
        Genes of the network that the AnnData lacks, sorted. Their edges are not written.
    isolated_genes
        Number of genes of the AnnData without any edge to or from another gene.
    """

    edges_in: int
    edges_kept: int
    duplicates_merged: int
    zero_weights: int
    self_loops: int
    genes_missing: tuple[str, ...]
    isolated_genes: int

    def __repr__(self) -> str:
        missing = f"{len(self.genes_missing)}"
        if self.genes_missing:
            shown = ", ".join(self.genes_missing[:5]) + (", ..." if len(self.genes_missing) > 5 else "")
            missing += f" ({shown})"
        return (
            f"GRNReport: {self.edges_kept} of {self.edges_in} edges kept\n"
            f"  duplicates merged (largest |weight| stays): {self.duplicates_merged}\n"
            f"  dropped for weight 0: {self.zero_weights}\n"
            f"  self-loops: {self.self_loops}\n"
            f"  genes missing from the data: {missing}\n"
            f"  genes of the data without an edge: {self.isolated_genes}"
        )


def add_grn(adata: AnnData, net: pd.DataFrame, key_added: str = "grn", *, copy: bool = False) -> GRNReport | AnnData:
    """Align a network with the genes of an AnnData and write it to `adata.varp`.

    Parameters
    ----------
    adata
        Cells x genes, with unique `var_names`.
    net
        Columns `source` (regulator), `target` and optionally `weight` (finite; 1 if absent). Other columns are ignored.
        Rows with the same source and target are merged: the weight with the largest magnitude stays.
    key_added
        Key to write under.
    copy
        Write to a copy and return that.

    Returns
    -------
    The alignment report, or the copy. Writes

    * `varp[key_added]`: CSR float32, shape ``(n_genes, n_genes)``, **row = regulator, column = target**
    * `uns[key_added]`: dict with `params` (how it was made) and `report` (the report)

    Raises
    ------
    TypeError
        If `adata` is not an AnnData or `net` is not a data frame.
    KeyError
        If a column is missing.
    ValueError
        If names are missing or not unique, a weight is NaN or infinite, or no edge joins two genes of `adata`.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> from scgraphvci.grn import add_grn, get_grn
    >>> adata = ad.AnnData(np.ones((2, 3)), var=pd.DataFrame(index=["STAT1", "IRF1", "GBP1"]))
    >>> net = pd.DataFrame({"source": ["STAT1", "IRF1", "IRF9"], "target": ["IRF1", "GBP1", "GBP1"]})
    >>> add_grn(adata, net).genes_missing
    ('IRF9',)
    >>> get_grn(adata, "grn")[["source", "target"]].values.tolist()
    [['STAT1', 'IRF1'], ['IRF1', 'GBP1']]
    """
    _check_adata(adata)
    edges = _tidy(net)
    genes = pd.Index(adata.var_names.astype(str))
    source, target = genes.get_indexer(edges["source"]), genes.get_indexer(edges["target"])
    known = (source >= 0) & (target >= 0)
    if not np.any(known & (source != target)):
        raise ValueError(_no_overlap(edges, genes, only_loops=bool(known.any())))
    matrix, n_pairs = _to_matrix(source[known], target[known], edges["weight"].to_numpy()[known], len(genes))
    rows, columns = matrix.nonzero()
    named = pd.Index(pd.unique(edges[["source", "target"]].to_numpy().ravel()))
    report = GRNReport(
        edges_in=len(edges),
        edges_kept=int(matrix.nnz),
        duplicates_merged=int(known.sum()) - n_pairs,
        zero_weights=n_pairs - int(matrix.nnz),
        self_loops=int((rows == columns).sum()),
        genes_missing=tuple(sorted(named.difference(genes))),
        isolated_genes=len(genes) - len(np.unique(np.concatenate([rows[rows != columns], columns[rows != columns]]))),
    )
    if report.genes_missing:
        logger.info("%d genes of the network are not in the data.", len(report.genes_missing))
    adata = adata.copy() if copy else adata
    adata.varp[key_added] = matrix
    adata.uns[key_added] = {
        "params": {"orientation": "row = regulator, column = target", "duplicates": "largest |weight|"},
        "report": {**vars(report), "genes_missing": np.asarray(report.genes_missing, dtype=object)},
    }
    return adata if copy else report


def get_grn(adata: AnnData, key: str = "grn") -> pd.DataFrame:
    """Return a network of `adata.varp` as a long frame.

    Parameters
    ----------
    adata
        Holds the network in `varp[key]`, rows regulators, columns targets.
    key
        Its key.

    Returns
    -------
    One row per edge, ordered as the genes are: `source`, `target`, `weight` (float32), and for a network made by
    :func:`scgraphvci.tl.refine_grn`, where the network refined is still in `varp`, `in_prior` (bool).

    Raises
    ------
    TypeError
        If `adata` is not an AnnData.
    KeyError
        If there is no such network.
    """
    _check_adata(adata)
    if key not in adata.varp:
        msg = f"{key!r} not found in varp. Keys: {list(adata.varp)}. Add a network with `scgraphvci.grn.add_grn`."
        raise KeyError(msg)
    matrix = sparse.csr_array(adata.varp[key])
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    edges = matrix.tocoo()
    source, target = edges.coords
    genes = adata.var_names.astype(str).to_numpy()
    frame = pd.DataFrame({"source": genes[source], "target": genes[target], "weight": edges.data.astype(np.float32)})
    prior = _refined_from(adata, key)
    if prior in adata.varp:
        network = sparse.csr_array(adata.varp[prior])
        frame["in_prior"] = np.asarray(network[source, target]).ravel() != 0 if len(frame) else np.empty(0, dtype=bool)
    return frame


def _refined_from(adata: AnnData, key: str) -> str | None:
    params = adata.uns.get(key, {})
    params = params.get("params", {}) if isinstance(params, dict) else {}
    return params.get("grn_key")


def _check_adata(adata: Any) -> None:
    if not isinstance(adata, AnnData):
        msg = f"Expected an AnnData, got {type(adata).__name__}. From a MuData pass one modality, as in `mdata['rna']`."
        raise TypeError(msg)
    if not adata.var_names.is_unique:
        repeated = adata.var_names[adata.var_names.duplicated()].unique()[:5].tolist()
        msg = f"var_names are not unique, such as {repeated}. Call `adata.var_names_make_unique()`."
        raise ValueError(msg)


def _tidy(net: Any) -> pd.DataFrame:
    """Return `source` and `target` as strings and a finite float `weight`."""
    if not isinstance(net, pd.DataFrame):
        msg = f"`net` must be a data frame with columns source, target[, weight], got {type(net).__name__}."
        raise TypeError(msg)
    missing = [name for name in ("source", "target") if name not in net]
    if missing:
        msg = f"`net` has no column {missing}. Columns: {list(net.columns)}. Rename them to source and target."
        raise KeyError(msg)
    n_missing = int(net[["source", "target"]].isna().any(axis=1).sum())
    if n_missing:
        msg = f"{n_missing} rows of `net` have no source or target. Drop them with `net.dropna()`."
        raise ValueError(msg)
    weight = np.ones(len(net))
    if "weight" in net:
        try:
            weight = net["weight"].to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            msg = f"Column weight of `net` is not numeric (dtype {net['weight'].dtype}). Convert it, or leave it out."
            raise TypeError(msg) from error
    if not np.all(np.isfinite(weight)):
        first = net.iloc[int(np.argmin(np.isfinite(weight)))]
        msg = (
            f"{int((~np.isfinite(weight)).sum())} weights of `net` are NaN or infinite, first that of "
            f"{first['source']} -> {first['target']}. Remove those edges or give them a weight."
        )
        raise ValueError(msg)
    return pd.DataFrame(
        {
            "source": net["source"].astype(str).to_numpy(),
            "target": net["target"].astype(str).to_numpy(),
            "weight": weight,
        }
    )


def _to_matrix(source: np.ndarray, target: np.ndarray, weight: np.ndarray, n: int) -> tuple[sparse.csr_matrix, int]:
    """Return the adjacency, for each pair the weight of largest magnitude, and the number of different pairs."""
    order = np.lexsort((-np.abs(weight), target, source))
    source, target, weight = source[order], target[order], weight[order].astype(np.float32)
    first = np.ones(len(source), dtype=bool)
    first[1:] = (source[1:] != source[:-1]) | (target[1:] != target[:-1])
    matrix = sparse.csr_matrix((weight[first], (source[first], target[first])), shape=(n, n), dtype=np.float32)
    matrix.eliminate_zeros()
    return matrix, int(first.sum())


def _no_overlap(edges: pd.DataFrame, genes: pd.Index, *, only_loops: bool) -> str:
    """Say why no edge could be kept."""
    if not len(edges):
        return "`net` has no edges."
    if only_loops:
        return (
            "`net` holds only self-loops among the genes of `adata`; it says nothing about regulation of other genes."
        )
    named = pd.Index(pd.unique(edges[["source", "target"]].to_numpy().ravel()))
    msg = (
        f"No edge of `net` joins two genes of `adata`. `net` names genes such as {named[:3].tolist()}, `adata` such as "
        f"{genes[:3].tolist()}."
    )
    n_same = int(named.str.upper().isin(genes.str.upper()).sum())
    if n_same:
        return (
            f"{msg} {n_same} names agree when case is ignored: one may be mouse (Stat1) and the other human (STAT1). "
            "Map orthologs, or change the case of one."
        )
    return f"{msg} Use the same kind of identifier (symbols or Ensembl) in both."
