"""Networks that are long tables already, and prior networks that decoupler provides."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from scgraphvci.grn._frame import Table, check_columns, read_edges, read_table

LEVELS = ("A", "B", "C", "D")


def read_net(
    table: Table,
    *,
    source: str = "source",
    target: str = "target",
    weight: str | None = "weight",
    sign: str | None = None,
    top: int | None = None,
) -> pd.DataFrame:
    """Read a network with one row per edge: nets of decoupler, adjacencies of pySCENIC, the GO graph of GEARS.

    Parameters
    ----------
    table
        A data frame, or the path of a .csv, .tsv, .txt (also .gz) or .parquet file.
    source, target
        Columns with regulators and targets; "TF" is the source of pySCENIC and GRNBoost2.
    weight
        Column with weights, "importance" in pySCENIC, GRNBoost2 and GEARS; None gives every edge weight 1.
    sign
        Column that says which edges activate and which repress, as 1 and -1 or "+" and "-". decoupler nets have none:
        their weights are signed.
    top
        Keep for each target the sources of the `top` largest absolute weights. None keeps all.

    Returns
    -------
    Columns `source`, `target`, `weight` (float64) and, where there is one, `sign` (1 or -1), in the order of the table,
    ready for :func:`scgraphvci.grn.add_grn`. Repeated edges stay: `add_grn` merges and reports them.

    Raises
    ------
    KeyError
        If a column is missing.
    TypeError
        If weights are not numbers.
    ValueError
        If there are no edges, a name is missing or a genomic region, a weight is NaN or infinite, a sign is unknown, or
        `top` is not positive.

    Examples
    --------
    >>> import pandas as pd
    >>> from scgraphvci.grn import read_net
    >>> adjacencies = pd.DataFrame({"TF": ["STAT1", "IRF1"], "target": ["IRF1", "GBP1"], "importance": [31.2, 8.5]})
    >>> read_net(adjacencies, source="TF", weight="importance").values.tolist()
    [['STAT1', 'IRF1', 31.2], ['IRF1', 'GBP1', 8.5]]
    """
    if top is not None and top < 1:
        msg = f"top={top} must be at least 1; None keeps all edges."
        raise ValueError(msg)
    frame = read_table(table, "table")
    names = {"source": source, "target": target, "weight": weight, "sign": sign}
    used = {ours: theirs for ours, theirs in names.items() if theirs is not None}
    advice = "Name the columns by the arguments source, target, weight, sign; `weight=None` where there are no weights."
    check_columns(frame, used.values(), "table", advice)
    edges = read_edges(pd.DataFrame({ours: frame[theirs] for ours, theirs in used.items()}), "table")
    if top is None:
        return edges
    rank = edges["weight"].abs().groupby(edges["target"], sort=False).rank(method="first", ascending=False)
    return edges[rank <= top].reset_index(drop=True)


def collectri(organism: str = "human", path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return CollecTRI, signed edges of transcription factors collected from a dozen resources, through decoupler.

    Parameters
    ----------
    organism
        "human", "mouse", "rat" or another that decoupler translates genes to. It applies to the download.
    path
        A .csv or .tsv file with columns `source`, `target`, `weight` to read instead, which needs no connection. Such a
        file is made by ``decoupler.op.collectri("human").to_csv("collectri.csv")``.

    Returns
    -------
    Columns `source`, `target` and `weight`, 1 for activation and -1 for repression. Some sources are complexes (AP1,
    NFKB); :func:`scgraphvci.grn.add_grn` reports them among the genes missing from the data.

    Raises
    ------
    ConnectionError
        If the download fails.

    Examples
    --------
    >>> import pandas as pd, tempfile, pathlib
    >>> from scgraphvci.grn import collectri
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "collectri.csv"
    >>> pd.DataFrame({"source": ["MYC"], "target": ["TERT"], "weight": [1]}).to_csv(path, index=False)
    >>> collectri(path=path).values.tolist()
    [['MYC', 'TERT', 1.0]]
    """
    if path is not None:
        return read_net(path)
    return read_net(_download("collectri", organism))


def dorothea(
    organism: str = "human",
    levels: Sequence[str] = ("A", "B", "C"),
    path: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Return DoRothEA, signed edges of transcription factors with levels of confidence, through decoupler.

    Parameters
    ----------
    organism
        "human", "mouse", "rat" or another that decoupler translates genes to. It applies to the download.
    levels
        Levels of confidence to keep, from "A" (most confident) to "D".
    path
        A .csv or .tsv file with columns `source`, `target`, `weight`, `confidence` to read instead, as made by
        ``decoupler.op.dorothea("human", levels=["A", "B", "C", "D"]).to_csv("dorothea.csv")``.

    Returns
    -------
    Columns `source`, `target` and `weight`: 1, 1/2, 1/3 and 1/4 for levels A to D, negative for repression.

    Raises
    ------
    ConnectionError
        If the download fails.
    ValueError
        If a level is unknown, or no edge has one of the levels.

    Examples
    --------
    >>> import pandas as pd, tempfile, pathlib
    >>> from scgraphvci.grn import dorothea
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "dorothea.csv"
    >>> net = {"source": ["MYC", "MYC"], "target": ["TERT", "ODC1"], "weight": [1, 0.25], "confidence": ["A", "D"]}
    >>> pd.DataFrame(net).to_csv(path, index=False)
    >>> dorothea(levels="A", path=path).values.tolist()
    [['MYC', 'TERT', 1.0]]
    """
    levels = list(levels)
    if not levels or not set(levels) <= set(LEVELS):
        msg = f"levels={levels} must be some of {list(LEVELS)}."
        raise ValueError(msg)
    if path is None:
        return read_net(_download("dorothea", organism, levels=levels))
    table = read_table(path, "path")
    check_columns(table, ["confidence"], "path", "Levels are read from it; use `read_net` for a table without levels.")
    kept = table[np.isin(table["confidence"].astype(str), levels)]
    if kept.empty:
        found = sorted(table["confidence"].astype(str).unique())
        msg = f"No edge of `path` has a level in {levels}. Its levels: {found}."
        raise ValueError(msg)
    return read_net(kept)


def _download(resource: str, organism: str, **options: list[str]) -> pd.DataFrame:
    import decoupler  # slow to import, and only downloads need it

    try:
        net: pd.DataFrame = getattr(decoupler.op, resource)(organism=organism, **options)
    except OSError as error:  # what requests and urllib raise without a connection
        msg = (
            f"{resource} could not be downloaded. Where there is a network connection, run "
            f"`decoupler.op.{resource}({organism!r}).to_csv('{resource}.csv')`, copy the file here and pass "
            f"`path='{resource}.csv'`."
        )
        raise ConnectionError(msg) from error
    return net
