"""Networks out of AnnData, in the formats of other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import pandas as pd
from anndata import AnnData

from scgraphvci.grn._adata import get_grn
from scgraphvci.grn._frame import tidy

if TYPE_CHECKING:
    import networkx as nx


def to_frame(adata: AnnData, key: str = "grn") -> pd.DataFrame:
    """Return everything known about a network's edges, the strongest first.

    Parameters
    ----------
    adata
        Holds the network in `varp[key]`.
    key
        Its key.

    Returns
    -------
    As :func:`scgraphvci.grn.get_grn`, with dropped edges if the network was refined, sorted by absolute weight, and
    with `rank` (int), 1 for the largest. Read back by `add_grn`, dropped edges are left out: their weight is 0.

    Raises
    ------
    KeyError
        If there is no such network.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> from scgraphvci.grn import add_grn, to_frame
    >>> adata = ad.AnnData(np.ones((2, 3)), var=pd.DataFrame(index=["STAT1", "IRF1", "GBP1"]))
    >>> net = pd.DataFrame({"source": ["STAT1", "IRF1"], "target": ["IRF1", "GBP1"], "weight": [0.5, -2.0]})
    >>> report = add_grn(adata, net)
    >>> to_frame(adata).values.tolist()
    [['IRF1', 'GBP1', -2.0, 1], ['STAT1', 'IRF1', 0.5, 2]]
    """
    frame = get_grn(adata, key)
    if "status" in frame:
        frame = get_grn(adata, key, dropped=True)
    order = frame["weight"].abs().sort_values(ascending=False, kind="stable").index
    frame = frame.loc[order].reset_index(drop=True)
    return frame.assign(rank=frame.index + 1)


def to_networkx(net: AnnData | pd.DataFrame, key: str = "grn") -> nx.DiGraph:
    """Return a network as a directed graph of networkx.

    Parameters
    ----------
    net
        An AnnData with the network in `varp[key]`, or a frame with columns `source`, `target` and optionally more.
    key
        Its key in an AnnData.

    Returns
    -------
    A graph with an edge from each regulator to each of its targets; columns of the frame, `weight` among them, are edge
    attributes. Nodes have `is_regulator` (bool); all genes of an AnnData are nodes.

    Raises
    ------
    ImportError
        If networkx is not installed.
    KeyError
        If there is no such network, or a column is missing.
    ValueError
        If an edge occurs twice: a graph would keep one of them.

    Examples
    --------
    >>> import pandas as pd
    >>> from scgraphvci.grn import to_networkx
    >>> graph = to_networkx(pd.DataFrame({"source": ["STAT1"], "target": ["IRF1"], "weight": [0.5]}))
    >>> list(graph.edges(data=True))
    [('STAT1', 'IRF1', {'weight': 0.5})]
    """
    try:
        import networkx as nx
    except ImportError as error:
        msg = "Graphs need networkx: `pip install networkx`."
        raise ImportError(msg) from error
    edges = _edges(net, key)
    if isinstance(net, pd.DataFrame):
        edges = net.reset_index(drop=True).assign(**edges)
    graph = nx.DiGraph()
    if isinstance(net, AnnData):
        graph.add_nodes_from(net.var_names.astype(str))
    attributes = edges.drop(columns=["source", "target"]).to_dict("records")
    graph.add_edges_from(zip(edges["source"], edges["target"], attributes, strict=True))
    regulators = set(edges["source"])
    nx.set_node_attributes(graph, {node: node in regulators for node in graph}, "is_regulator")
    return graph


def to_decoupler(net: AnnData | pd.DataFrame, key: str = "grn") -> pd.DataFrame:
    """Return a network as decoupler takes it, for instance in ``decoupler.mt.ulm``.

    Parameters
    ----------
    net
        An AnnData with the network in `varp[key]`, or a frame with columns `source`, `target` and optionally `weight`,
        `sign` and `status`.
    key
        Its key in an AnnData.

    Returns
    -------
    Columns `source`, `target` and `weight`, signed, each edge once. Edges of weight 0, dropped ones among them, are
    left out.

    Raises
    ------
    KeyError
        If there is no such network, or a column is missing.
    ValueError
        If an edge occurs twice.

    Examples
    --------
    >>> import pandas as pd
    >>> from scgraphvci.grn import to_decoupler
    >>> net = pd.DataFrame({"source": ["STAT1"], "target": ["IRF1"], "weight": [0.5], "sign": [-1]})
    >>> to_decoupler(net).values.tolist()
    [['STAT1', 'IRF1', -0.5]]
    """
    edges = _written(net, key)
    weight = edges["weight"].abs() * edges["sign"] if "sign" in edges else edges["weight"]
    return edges[["source", "target"]].assign(weight=weight)


@overload
def to_celloracle(
    net: AnnData | pd.DataFrame, key: str = ..., *, form: Literal["dict"] = ...
) -> dict[str, list[str]]: ...


@overload
def to_celloracle(net: AnnData | pd.DataFrame, key: str = ..., *, form: Literal["base"]) -> pd.DataFrame: ...


def to_celloracle(
    net: AnnData | pd.DataFrame, key: str = "grn", *, form: Literal["dict", "base"] = "dict"
) -> dict[str, list[str]] | pd.DataFrame:
    """Return a network as CellOracle takes it, in ``Oracle.import_TF_data``: which edges there are, without weights.

    Parameters
    ----------
    net
        An AnnData with the network in `varp[key]`, or a frame with columns `source` and `target`.
    key
        Its key in an AnnData.
    form
        "dict" for the argument `TFdict`, "base" for the argument `TF_info_matrix`.

    Returns
    -------
    With "dict", the regulators of each target, both in alphabetical order. With "base", a frame with one row per
    target: `peak_id` (the target's name, since edges have no peaks here), `gene_short_name` and one column of 0 and 1
    (float32) per regulator; dense, targets x regulators.

    Raises
    ------
    KeyError
        If there is no such network, or a column is missing.
    ValueError
        If an edge occurs twice, or `form` is unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> from scgraphvci.grn import to_celloracle
    >>> to_celloracle(pd.DataFrame({"source": ["STAT1", "IRF1"], "target": ["GBP1", "GBP1"]}))
    {'GBP1': ['IRF1', 'STAT1']}
    """
    if form not in ("dict", "base"):
        msg = f"form={form!r} must be 'dict' or 'base'."
        raise ValueError(msg)
    edges = _written(net, key)
    if form == "dict":
        return {str(target): sorted(group) for target, group in edges.groupby("target")["source"]}
    base = pd.crosstab(edges["target"], edges["source"]).astype("float32")
    base = base.rename_axis(columns=None).rename_axis("gene_short_name").reset_index()
    base.insert(0, "peak_id", base["gene_short_name"])
    return base


def _edges(net: AnnData | pd.DataFrame, key: str) -> pd.DataFrame:
    """Return the edges of an AnnData, or those of a frame after checks."""
    if isinstance(net, AnnData):
        return get_grn(net, key)
    edges = tidy(net, signs=True)
    repeated = edges.duplicated(["source", "target"])
    if repeated.any():
        first = edges[repeated].iloc[0]
        msg = (
            f"{int(repeated.sum())} edges of `net` occur more than once, first {first['source']} -> {first['target']}. "
            "Merge them, as `add_grn` does."
        )
        raise ValueError(msg)
    return edges


def _written(net: AnnData | pd.DataFrame, key: str) -> pd.DataFrame:
    """Return edges without those that are no part of the network: dropped ones and those of weight 0."""
    edges = _edges(net, key)
    keep = edges["weight"] != 0
    if isinstance(net, pd.DataFrame) and "status" in net:
        keep &= (net["status"] != "dropped").to_numpy()
    return edges[keep].reset_index(drop=True)
