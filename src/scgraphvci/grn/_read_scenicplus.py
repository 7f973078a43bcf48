"""Networks of SCENIC+."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from scgraphvci._untrusted import read_h5mu
from scgraphvci.grn._frame import check_columns, names_of, read_edges, read_table

_SIGN_IN_NAME = r"_([+-])[/_][+-](?:_\(\d+[gr]\))?$"


def read_scenicplus(
    data: Any, *, kind: Literal["direct", "extended"] = "direct", weight: str = "importance_TF2G"
) -> pd.DataFrame:
    """Read the eRegulons of SCENIC+.

    Each row of their table is a triplet of transcription factor, region and gene; triplets that differ in the region
    only become one edge.

    Parameters
    ----------
    data
        The MuData that SCENIC+ writes (`scplusmdata.h5mu`) or its path, or the table of eRegulons (frame, or path of
        `eRegulon_direct.tsv`).
    kind
        Which eRegulons of a MuData: "direct" (motifs annotated to the factor itself) or "extended" (to an ortholog or
        by similarity). A table is read as it is.
    weight
        Column with weights. The largest over the regions of an edge is kept.

    Returns
    -------
    Columns `source`, `target`, `weight` (float64) and `sign`: 1 where the eRegulon's name has a + for factor to gene
    (as in `STAT1_direct_+/+`), -1 where it has a -. The second sign, of region to gene, does not matter here.

    Raises
    ------
    KeyError
        If the MuData has no such eRegulons, or a column is missing.
    ValueError
        If a name holds no sign, an edge has both signs, a weight is NaN, or `kind` is unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> from scgraphvci.grn import read_scenicplus
    >>> triplets = pd.DataFrame(
    ...     {
    ...         "TF": ["STAT1", "STAT1"],
    ...         "Region": ["chr1:100-600", "chr1:900-1400"],
    ...         "Gene": ["GBP1", "GBP1"],
    ...         "eRegulon_name": ["STAT1_direct_+/+", "STAT1_direct_+/+"],
    ...         "importance_TF2G": [2.5, 2.5],
    ...     }
    ... )
    >>> read_scenicplus(triplets).values.tolist()
    [['STAT1', 'GBP1', 2.5, 1]]
    """
    table = _triplets(data, kind)
    advice = "Expected uns['direct_e_regulon_metadata'] or eRegulon_direct.tsv; `weight` names the column of weights."
    check_columns(table, ["TF", "Gene", "eRegulon_name", weight], "data", advice)
    sign = pd.Series(names_of(table["eRegulon_name"])).str.extract(_SIGN_IN_NAME)[0].set_axis(table.index)
    if sign.isna().any():
        name = table.loc[sign.isna().to_numpy(), "eRegulon_name"].iloc[0]
        msg = f"eRegulon {name!r} has no sign in its name, as STAT1_direct_+/+ has. Use the names SCENIC+ gives."
        raise ValueError(msg)
    triplets = pd.DataFrame({"source": table["TF"], "target": table["Gene"], "weight": table[weight], "sign": sign})
    edges = read_edges(triplets, "data")
    both = edges.groupby(["source", "target"], sort=False)["sign"].nunique()
    if (both > 1).any():
        source, target = both.index[both > 1][0]
        msg = (
            f"{int((both > 1).sum())} edges have both signs, first {source} -> {target}. SCENIC+ gives each factor and "
            "gene one: read direct and extended eRegulons by themselves, or remove those triplets."
        )
        raise ValueError(msg)
    return edges.groupby(["source", "target"], sort=False, as_index=False).agg({"weight": "max", "sign": "first"})


def _triplets(data: Any, kind: str) -> pd.DataFrame:
    if kind not in ("direct", "extended"):
        msg = f"kind={kind!r} must be 'direct' or 'extended'."
        raise ValueError(msg)
    if isinstance(data, str | os.PathLike) and Path(data).suffix == ".h5mu":
        data = read_h5mu(data)
    if not hasattr(data, "uns"):
        return read_table(data, "data")
    key = f"{kind}_e_regulon_metadata"
    if key not in data.uns:
        msg = f"{key!r} not found in uns. Keys: {list(data.uns)}. Pass scplusmdata.h5mu, or the table of eRegulons."
        raise KeyError(msg)
    return read_table(data.uns[key], f"uns[{key!r}]")
