"""Networks of networkx, guidance graphs of GLUE among them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import pandas as pd

from scgraphvci.grn._frame import read_edges, tidy

if TYPE_CHECKING:
    import networkx as nx

logger = logging.getLogger(__name__)


def read_networkx(
    graph: nx.Graph,
    *,
    weight: str = "weight",
    sign: str = "sign",
    genes: Iterable[str] | None = None,
    others: Literal["drop", "project"] = "drop",
) -> pd.DataFrame:
    """Read a graph of networkx.

    An edge u -> v says that u regulates v. **An undirected graph has no regulators: each of its edges becomes two, one
    in each direction.** Parallel edges of a multigraph stay as repeated rows, which :func:`scgraphvci.grn.add_grn`
    merges. Self-loops stay; a guidance graph has one at every node, of which models take no notice.

    Parameters
    ----------
    graph
        A graph or multigraph, directed or not; node names are gene names.
    weight, sign
        Edge attributes with weights and signs (1 or -1). Without weights on any edge, all are 1; without signs on any
        edge, there is no column `sign`.
    genes
        Nodes that are genes, such as `adata.var_names`. Needed where others are not, as in a guidance graph, whose
        nodes are genes and peaks. None: all are.
    others
        With `genes`, what becomes of edges of other nodes. "drop" leaves them out, and a warning counts them. "project"
        does so and joins two genes by an edge where a path leads from one over a single other node to the other. Weight
        and sign are products along the path, of several paths the heaviest. In a guidance graph, whose edges join genes
        and peaks nearby, that is vicinity in the genome, not regulation.

    Returns
    -------
    Columns `source`, `target`, `weight` (float64) and, where there are signs, `sign`, in the order of the graph.

    Raises
    ------
    TypeError
        If `graph` is not a graph of networkx.
    ValueError
        If no edge is left, only some edges have a weight or a sign, a sign is unknown, or nodes look like peaks and
        `genes` is not given.

    Examples
    --------
    >>> import networkx as nx
    >>> from scgraphvci.grn import read_networkx
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("STAT1", "GBP1", weight=0.5, sign=1)
    >>> graph.add_edge("STAT1", "IRF1", weight=0.9, sign=-1)
    >>> read_networkx(graph).values.tolist()
    [['STAT1', 'GBP1', 0.5, 1], ['STAT1', 'IRF1', 0.9, -1]]
    """
    if others not in ("drop", "project"):
        msg = f"others={others!r} must be 'drop' or 'project'."
        raise ValueError(msg)
    edges = _edges(graph, weight, sign)
    if genes is not None:
        edges = _among(edges, set(map(str, genes)), project=others == "project")
    return read_edges(edges, "graph")


def _edges(graph: nx.Graph, weight: str, sign: str) -> pd.DataFrame:
    if not (hasattr(graph, "is_directed") and hasattr(graph, "edges")):
        msg = f"`graph` must be a graph of networkx, got {type(graph).__name__}."
        raise TypeError(msg)
    rows = [(str(u), str(v), data.get(weight), data.get(sign)) for u, v, data in graph.edges(data=True)]
    edges = pd.DataFrame(rows, columns=["source", "target", "weight", "sign"], dtype=object)
    for column, attribute in (("weight", weight), ("sign", sign)):
        n_missing = int(edges[column].isna().sum())
        if n_missing == len(edges):
            edges = edges.drop(columns=column)
        elif n_missing:
            first = edges[edges[column].isna()].iloc[0]
            msg = (
                f"{n_missing} of {len(edges)} edges of `graph` have no {attribute!r}, first {first['source']} -> "
                f"{first['target']}. Give it to all edges or to none."
            )
            raise ValueError(msg)
    edges = tidy(edges, "graph", signs=True)
    if graph.is_directed():
        return edges
    turned = edges[edges["source"] != edges["target"]].rename(columns={"source": "target", "target": "source"})
    return pd.concat([edges, turned[edges.columns]], ignore_index=True)


def _among(edges: pd.DataFrame, genes: set[str], *, project: bool) -> pd.DataFrame:
    """Keep edges between genes and, if asked, add those over another node."""
    from_gene, to_gene = edges["source"].isin(genes), edges["target"].isin(genes)
    kept = edges[from_gene & to_gene]
    if project:
        kept = pd.concat([kept, _over_others(edges[from_gene & ~to_gene], edges[~from_gene & to_gene])])
    n_dropped = int((~(from_gene & to_gene)).sum())
    if n_dropped:
        logger.warning("%d of %d edges left out: they touch nodes that are not in `genes`.", n_dropped, len(edges))
    return kept.reset_index(drop=True)


def _over_others(into: pd.DataFrame, out_of: pd.DataFrame) -> pd.DataFrame:
    """Join edges gene -> other and other -> gene; of several paths between two genes the heaviest counts."""
    paths = into.merge(out_of, left_on="target", right_on="source", suffixes=("", "_next"))
    paths["weight"] = paths["weight"] * paths["weight_next"]
    if "sign" in into:
        paths["sign"] = paths["sign"] * paths["sign_next"]
    paths = paths.assign(target=paths["target_next"], magnitude=paths["weight"].abs())
    paths = paths[paths["source"] != paths["target"]].sort_values("magnitude", ascending=False, kind="stable")
    return paths[into.columns].drop_duplicates(["source", "target"])
