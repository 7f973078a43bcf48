"""Networks of CellOracle: base networks from motifs, and links fitted to expression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scgraphvci.grn._frame import Table, check_columns, check_genes, numbers, read_edges, read_table

_TARGET, _PEAK = "gene_short_name", "peak_id"


def read_celloracle(
    net: Table | Mapping[str, pd.DataFrame] | Any,
    *,
    cluster: str | None = None,
    p: float | None = 0.001,
    top: int | None = 10_000,
) -> pd.DataFrame:
    """Read a base network or the links of CellOracle.

    A **base network** is a frame with `gene_short_name` (the target), `peak_id` and one column of 0 and 1 for each
    transcription factor: **targets are rows**. A gene has a row for each of its peaks; any of them makes an edge, of
    weight 1. **Links** are one frame per cluster with `source`, `target`, `coef_mean`, `coef_abs` and `p`.

    Parameters
    ----------
    net
        A base network (frame, or path of a .parquet, .csv or .tsv file), a CellOracle `Links` object, its `links_dict`,
        or the links of one cluster (frame or path).
    cluster
        Cluster whose links to read; not needed if there is only one.
    p
        Keep links with at most this p-value, CellOracle's own default; a link without one is left out. None keeps all.
    top
        Keep this many links, those with the largest `coef_abs`. None keeps all.

    Returns
    -------
    Columns `source`, `target` and `weight` (float64): 1 in a base network, the signed `coef_mean` of links, which are
    sorted by `coef_abs`.

    Raises
    ------
    KeyError
        If a column or the cluster is missing.
    ValueError
        If no link passes, values of a base network are not 0 and 1, or rows and columns look mixed up.

    Examples
    --------
    >>> import pandas as pd
    >>> from scgraphvci.grn import read_celloracle
    >>> base = pd.DataFrame(
    ...     {
    ...         "peak_id": ["chr1_100_600", "chr1_900_999"],
    ...         "gene_short_name": ["GBP1", "IRF1"],
    ...         "STAT1": [1.0, 1.0],
    ...         "IRF1": [1.0, 0.0],
    ...     }
    ... )
    >>> read_celloracle(base).values.tolist()
    [['STAT1', 'GBP1', 1.0], ['IRF1', 'GBP1', 1.0], ['STAT1', 'IRF1', 1.0]]
    """
    links = getattr(net, "links_dict", net)
    if isinstance(links, Mapping):
        return _links(_one_cluster(links, cluster), p, top)
    table = read_table(links, "net")
    if "coef_mean" in table:
        return _links(table, p, top)
    return _base(table)


def _base(table: pd.DataFrame) -> pd.DataFrame:
    advice = (
        "A base network has targets in rows, named in gene_short_name, and one column per regulator; links have "
        "source, target, coef_mean, coef_abs and p."
    )
    check_columns(table, [_TARGET], "net", advice)
    regulators = [column for column in table.columns if column not in (_TARGET, _PEAK)]
    check_columns(table, regulators, "net", advice)
    check_genes(regulators, "columns", "net")
    check_genes(table[_TARGET], "targets", "net")
    text = [column for column in regulators if not pd.api.types.is_numeric_dtype(table[column])]
    if text or not regulators:
        found = f"Columns {text[:5]} are not numeric." if text else "There is no column of a regulator."
        msg = f"{found} Besides gene_short_name and peak_id, `net` must hold one column of 0 and 1 per regulator."
        raise ValueError(msg)
    values = table[regulators].to_numpy()
    if values.dtype == object:  # columns of pandas' own types, with gaps
        values = table[regulators].to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isin(values, (0, 1)).all():
        row, column = np.argwhere(~np.isin(values, (0, 1)))[0]
        msg = (
            f"`net` holds {values[row, column]} for regulator {regulators[column]}, target {table[_TARGET].iloc[row]}; "
            "a base network holds 0 and 1. Choose a threshold for scores first, and fill gaps with 0."
        )
        raise ValueError(msg)
    row, column = np.nonzero(values)
    edges = pd.DataFrame(
        {"source": np.asarray(regulators, dtype=object)[column], "target": table[_TARGET].to_numpy()[row]}
    )
    return read_edges(edges.drop_duplicates(ignore_index=True), "net")


def _one_cluster(links: Mapping[str, pd.DataFrame], cluster: str | None) -> pd.DataFrame:
    if cluster is None and len(links) == 1:
        return next(iter(links.values()))
    if cluster is None:
        msg = f"`net` holds a network for each of the clusters {list(links)}. Choose one by `cluster`."
        raise ValueError(msg)
    if cluster not in links:
        msg = f"cluster={cluster!r} is not in `net`. Clusters: {list(links)}."
        raise KeyError(msg)
    return links[cluster]


def _links(table: pd.DataFrame, p: float | None, top: int | None) -> pd.DataFrame:
    needed = ["source", "target", "coef_mean", "coef_abs", *([] if p is None else ["p"])]
    check_columns(table, needed, "net", "These are the columns of CellOracle links.")
    if top is not None and top < 1:
        msg = f"top={top} must be at least 1; None keeps all links."
        raise ValueError(msg)
    values = {column: numbers(table, column, "net") for column in needed[2:]}
    links = table[["source", "target"]].assign(**values)
    kept = links if p is None else links[links["p"] <= p]
    if kept.empty and len(links):
        msg = f"None of {len(links)} links has p <= {p} (smallest {links['p'].min()}). Raise `p`, or None for all."
        raise ValueError(msg)
    kept = kept.sort_values("coef_abs", ascending=False, kind="stable").head(len(kept) if top is None else top)
    return read_edges(kept[["source", "target"]].assign(weight=kept["coef_mean"]), "net")
