"""Networks between long frames and `adata.varp`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgraphvci.grn._frame import tidy
from scgraphvci.grn._naming import naming_hint

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
    sign_conflicts
        Edges written whose merged rows disagreed in the sign of the weight.
    zero_weights
        Merged edges of weight 0, which a sparse matrix cannot hold: not written.
    self_loops
        Edges written from a gene to itself.
    genes_missing
        Genes of the network that the AnnData lacks, sorted. Their edges are not written.
    edges_missing
        Rows that name such a gene.
    isolated_genes
        Number of genes of the AnnData without any edge to or from another gene.
    """

    edges_in: int
    edges_kept: int
    duplicates_merged: int
    sign_conflicts: int
    zero_weights: int
    self_loops: int
    genes_missing: tuple[str, ...]
    edges_missing: int
    isolated_genes: int

    def __repr__(self) -> str:
        missing = f"{len(self.genes_missing)}"
        if self.genes_missing:
            shown = ", ".join(self.genes_missing[:5]) + (", ..." if len(self.genes_missing) > 5 else "")
            missing += f" ({shown})"
        return (
            f"GRNReport: {self.edges_kept} of {self.edges_in} edges kept\n"
            f"  duplicates merged (largest |weight| stays): {self.duplicates_merged}, "
            f"in conflict of sign: {self.sign_conflicts}\n"
            f"  dropped for weight 0: {self.zero_weights}\n"
            f"  self-loops: {self.self_loops}\n"
            f"  genes missing from the data: {missing}, with {self.edges_missing} edges\n"
            f"  genes of the data without an edge: {self.isolated_genes}"
        )


def add_grn(adata: AnnData, net: pd.DataFrame, key_added: str = "grn", *, copy: bool = False) -> GRNReport | AnnData:
    """Align a network with the genes of an AnnData and write it to `adata.varp`.

    Parameters
    ----------
    adata
        Cells x genes, with unique `var_names`.
    net
        Columns `source` (regulator), `target` and optionally `weight` (finite; 1 if absent) and `sign` (1 or -1).
        Other columns are ignored. What is written is signed: a negative weight, or the sign -1, is a repressing edge.
        Rows with the same source and target are merged: the weight with the largest magnitude stays.
    key_added
        Key to write under.
    copy
        Write to a copy and return that.

    Returns
    -------
    The alignment report, or the copy. No gene is left out silently: genes that the data lack are in the report, and a
    warning counts them. Genes of the data without an edge stay, as isolated nodes. Writes

    * `varp[key_added]`: CSR float32, shape ``(n_genes, n_genes)``, **row = regulator, column = target**
    * `uns[key_added]`: dict with `params` (how it was made) and `report` (the report)

    Signs matter where messages pass along edges: the graph encoder of :class:`scgraphvci.GraphVCI` multiplies what a
    regulator sends by the signed weight, after scaling magnitudes to a mean of 1. :class:`scgraphvci.GRNRefiner` starts
    from which edges there are and estimates signs from the data.

    Raises
    ------
    TypeError
        If `adata` is not an AnnData or `net` is not a data frame.
    KeyError
        If a column is missing.
    ValueError
        If names are missing or not unique, a weight is NaN or infinite, a sign is unknown or contradicts its weight, or
        no edge joins two genes of `adata`.

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
    edges = tidy(net, signs=True)
    if "sign" in edges:
        edges["weight"] = edges["weight"].abs() * edges["sign"]
    genes = pd.Index(adata.var_names.astype(str))
    source, target = genes.get_indexer(edges["source"]), genes.get_indexer(edges["target"])
    known = (source >= 0) & (target >= 0)
    if not np.any(known & (source != target)):
        raise ValueError(_no_overlap(edges, genes, only_loops=bool(known.any())))
    matrix, n_pairs = _to_matrix(source[known], target[known], edges["weight"].to_numpy()[known], len(genes))
    rows, columns = matrix.nonzero()
    repeated = edges.loc[known & (edges["weight"] != 0)]
    signs = (repeated["weight"] > 0).groupby([repeated["source"], repeated["target"]]).nunique()
    named = pd.Index(pd.unique(edges[["source", "target"]].to_numpy().ravel()))
    report = GRNReport(
        edges_in=len(edges),
        edges_kept=int(matrix.nnz),
        duplicates_merged=int(known.sum()) - n_pairs,
        sign_conflicts=int((signs > 1).sum()),
        zero_weights=n_pairs - int(matrix.nnz),
        self_loops=int((rows == columns).sum()),
        genes_missing=tuple(sorted(named.difference(genes))),
        edges_missing=int((~known).sum()),
        isolated_genes=len(genes) - len(np.unique(np.concatenate([rows[rows != columns], columns[rows != columns]]))),
    )
    if report.genes_missing:
        logger.warning(
            "%d of %d edges not written: %d genes of the network are not in the data, such as %s.%s",
            report.edges_missing,
            report.edges_in,
            len(report.genes_missing),
            ", ".join(report.genes_missing[:5]),
            naming_hint(named, genes),
        )
    adata = adata.copy() if copy else adata
    adata.varp[key_added] = matrix
    adata.uns[key_added] = {
        "params": {"orientation": "row = regulator, column = target", "duplicates": "largest |weight|"},
        "report": {**vars(report), "genes_missing": np.asarray(report.genes_missing, dtype=object)},
    }
    return adata if copy else report


def get_grn(adata: AnnData, key: str = "grn", *, dropped: bool = False) -> pd.DataFrame:
    """Return a network of `adata.varp` as a long frame.

    Parameters
    ----------
    adata
        Holds the network in `varp[key]`, rows regulators, columns targets.
    key
        Its key.
    dropped
        Of a refined network, also return the edges of its prior that it left out, with weight 0.

    Returns
    -------
    One row per edge, ordered as the genes are: `source`, `target`, `weight` (float32), and

    * of a network made by :func:`scgraphvci.tl.refine_grn`, where the network it refined is still in `varp`, `in_prior`
      (bool) and `status`: "kept" (in both networks), "added" (in the refined one only) or "dropped" (in the prior only;
      self-loops of the prior, which refinement leaves out of its result, are not counted)
    * `sign` (1 or -1), where it is in ``varp[f"{key}_sign"]``
    * `support` (float32), the share of restarts that found the edge, where it is in ``varp[f"{key}_support"]``

    Raises
    ------
    TypeError
        If `adata` is not an AnnData.
    KeyError
        If there is no such network.
    ValueError
        If dropped edges are asked of a network without a prior in `varp`.
    """
    _check_adata(adata)
    if key not in adata.varp:
        msg = f"{key!r} not found in varp. Keys: {list(adata.varp)}. Add a network with `scgraphvci.grn.add_grn`."
        raise KeyError(msg)
    network = _without_zeros(adata.varp[key])
    prior_key = refined_from(adata, key)
    prior = _without_zeros(adata.varp[prior_key]) if prior_key in adata.varp else None
    if dropped and prior is None:
        msg = f"varp[{key!r}] is not a refined network, or its prior is no longer in varp: use `dropped=False`."
        raise ValueError(msg)
    source, target = network.nonzero()
    if dropped and prior is not None:
        left_out = _without_zeros((prior != 0) > (network != 0)).nonzero()
        off_diagonal = left_out[0] != left_out[1]
        source, target = (
            np.concatenate([ours, theirs[off_diagonal]])
            for ours, theirs in zip((source, target), left_out, strict=True)
        )
        order = np.lexsort((target, source))
        source, target = source[order], target[order]
    genes = adata.var_names.astype(str).to_numpy()
    weight = _values(network, source, target)
    frame = pd.DataFrame({"source": genes[source], "target": genes[target], "weight": weight})
    if prior is not None:
        frame["in_prior"] = _values(prior, source, target) != 0
        frame["status"] = np.select([weight == 0, frame["in_prior"]], ["dropped", "kept"], "added")
    if f"{key}_sign" in adata.varp:
        frame["sign"] = _values(sparse.csr_array(adata.varp[f"{key}_sign"]), source, target).astype(np.int64)
    if f"{key}_support" in adata.varp:
        frame["support"] = _values(sparse.csr_array(adata.varp[f"{key}_support"]), source, target)
    return frame


def _without_zeros(stored: Any) -> sparse.csr_array:
    matrix = sparse.csr_array(stored, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _values(matrix: sparse.csr_array, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the matrix's values at some places, 0 where nothing is stored."""
    if not len(source):
        return np.empty(0, dtype=np.float32)
    return np.asarray(matrix[source, target]).ravel().astype(np.float32)


def refined_from(adata: AnnData, key: str) -> str | None:
    """Return the key of the prior that a network was refined from, None if it was not."""
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


def expression_of(adata: AnnData, layer: str | None) -> Any:
    """Return the expression that scores rest on.

    Raises
    ------
    KeyError
        If there is no such layer.
    """
    if layer is not None and layer not in adata.layers:
        msg = f"Layer {layer!r} not found. Layers: {list(adata.layers)}; `layer=None` uses X."
        raise KeyError(msg)
    return adata.X if layer is None else adata.layers[layer]


def require_columns(adata: AnnData, keys: Iterable[str | None]) -> None:
    """Check that columns are there; None is none.

    Raises
    ------
    KeyError
        If one is not.
    """
    missing = [key for key in keys if key is not None and key not in adata.obs]
    if missing:
        msg = f"Columns {missing} not found in obs. Columns: {list(adata.obs.columns)}."
        raise KeyError(msg)


def joint_levels(obs: pd.DataFrame, keys: list[str]) -> np.ndarray:
    """Code of each cell's joint level of some columns, shape ``(n_cells,)``; all 0 without columns."""
    if not keys:
        return np.zeros(len(obs), dtype=np.int64)
    return obs[keys].astype(str).groupby(keys, sort=False).ngroup().to_numpy()


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
        return "`net` has no edges. Check how it was read, or go without a network (`grn_key=None`)."
    if only_loops:
        return (
            "`net` holds only self-loops among the genes of `adata`; it says nothing about regulation of other genes. "
            "Use another network, or go without one (`grn_key=None`)."
        )
    named = pd.Index(pd.unique(edges[["source", "target"]].to_numpy().ravel()))
    msg = (
        f"No edge of `net` joins two genes of `adata`. `net` names genes such as {named[:3].tolist()}, `adata` such as "
        f"{genes[:3].tolist()}."
    )
    return msg + (naming_hint(named, genes) or " Use the same kind of identifier (symbols or Ensembl) in both.")
