"""Long frames and AnnData of arrays whose axes are treatments, strata and genes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scgraphvci.estimate._accumulate import BoolArray, IntArray
from scgraphvci.estimate._status import STATUS

if TYPE_CHECKING:
    from anndata import AnnData

    from scgraphvci.estimate._result import MarginalEffects

#: Levels of stratum keys, or the level or levels alone where there is one key; None: all strata.
Strata = Mapping[str, Any] | Sequence[Any] | Hashable | None


def long_frame(
    effects: MarginalEffects,
    by_row: Mapping[str, NDArray[Any]],
    by_gene: Mapping[str, NDArray[Any]] | None = None,
    genes: IntArray | None = None,
) -> pd.DataFrame:
    """Frame with one row per treatment and stratum, or per treatment, stratum and gene.

    Parameters
    ----------
    effects
        Names the rows.
    by_row
        Last columns, each ``(n_treatments, n_strata)``.
    by_gene
        Columns ``(n_treatments, n_strata, n_genes)``; without them there is one row per treatment and stratum.
    genes
        Positions of the genes to keep.
    """
    n_treatments, n_strata = len(effects.treatments), len(effects.strata)
    repeat = 1 if by_gene is None or genes is None else len(genes)
    stratum = np.tile(np.repeat(np.arange(n_strata), repeat), n_treatments)
    frame = pd.DataFrame({"treatment": np.repeat(effects.treatments.to_numpy(), n_strata * repeat)})
    for key in effects.strata.columns:
        frame[key] = effects.strata[key].array.take(stratum)
    if by_gene is not None and genes is not None:
        frame["gene"] = np.tile(effects.genes[genes].to_numpy(), n_treatments * n_strata)
        for name, value in by_gene.items():
            frame[name] = value[:, :, genes].reshape(-1)
    for name, value in by_row.items():
        frame[name] = np.repeat(value.reshape(-1), repeat)
    return frame


def to_adata(effects: MarginalEffects, columns: Sequence[str]) -> AnnData:
    """See `MarginalEffects.to_adata`: `columns[0]` goes to ``X``, the others to ``layers``."""
    from anndata import AnnData

    n_treatments, n_strata = len(effects.treatments), len(effects.strata)
    n_rows = n_treatments * n_strata
    obs = pd.DataFrame({"treatment": pd.Categorical(np.repeat(effects.treatments, n_strata), effects.treatments)})
    stratum = np.tile(np.arange(n_strata), n_treatments)
    for key in effects.strata.columns:
        obs[key] = pd.Categorical(effects.strata[key]).take(stratum)
    for name in ("n_treated", "n_reference", "n_stratum", "n_clusters", "share"):
        obs[name] = getattr(effects, name).reshape(-1)
    obs["status"] = pd.Categorical(effects.status.reshape(-1), STATUS)
    obs.index = pd.Index([" | ".join(map(str, row)) for row in obs[["treatment", *effects.strata.columns]].to_numpy()])
    values = {name: getattr(effects, name).reshape(n_rows, -1) for name in columns}
    adata = AnnData(values[columns[0]].copy(), obs=obs, var=pd.DataFrame(index=effects.genes))
    for name in columns[1:]:
        adata.layers[name] = values[name].copy()
    params = {key: value for key, value in effects.params.items() if value is not None}
    if params.get("doses"):  # two lists: a file takes '/' in the name of a treatment for a path
        params["doses"] = {"treatment": list(params["doses"]), "dose": list(params["doses"].values())}
    adata.uns["marginal_effects"] = params
    return adata


def coarsen_strata(strata: pd.DataFrame, groupby: Sequence[str] | None) -> tuple[pd.DataFrame, IntArray]:
    """Joint levels of some stratum keys, and the one each stratum belongs to.

    Parameters
    ----------
    strata
        One row per stratum, one column per key.
    groupby
        Keys to keep, in this order; none of them (an empty list) gives one stratum of all cells, `None` changes
        nothing.

    Returns
    -------
    The coarser strata in order of first appearance, and for each row of `strata` its row there, ``(n_strata,)``.

    Raises
    ------
    ValueError
        If a key is not a column of `strata`.

    Examples
    --------
    >>> import pandas as pd
    >>> strata = pd.DataFrame({"cell_type": ["B", "B", "T"], "donor": ["1", "2", "1"]})
    >>> coarse, reported = coarsen_strata(strata, ["cell_type"])
    >>> coarse["cell_type"].tolist(), reported.tolist()
    (['B', 'T'], [0, 0, 1])
    """
    if groupby is None:
        return strata.reset_index(drop=True), np.arange(len(strata))
    keys = list(groupby)
    unknown = [key for key in keys if key not in strata]
    if unknown:
        msg = f"`groupby` has {unknown}, which are no registered covariates. Choose from {list(strata.columns)}."
        raise ValueError(msg)
    if not keys:
        return pd.DataFrame(index=pd.RangeIndex(1)), np.zeros(len(strata), dtype=np.int64)
    reported = strata.groupby(keys, sort=False, observed=True).ngroup().to_numpy().astype(np.int64)
    return strata[keys].drop_duplicates().reset_index(drop=True), reported


def stratum_mask(frame: pd.DataFrame, strata: Strata) -> BoolArray:
    """Rows of a frame of strata that have the levels asked for; of a single key, the levels may come without it.

    Raises
    ------
    TypeError
        If there is not one key and it is no mapping from keys to levels.
    KeyError
        If a key or level is not there.
    """
    if strata is None:
        return np.ones(len(frame), dtype=bool)
    if not isinstance(strata, Mapping) and len(frame.columns) == 1:
        strata = {frame.columns[0]: strata}
    if not isinstance(strata, Mapping):
        example = {key: frame[key].iloc[0] for key in frame.columns[:1]}
        msg = f"A stratum is named by its keys and levels, such as {example}, got {strata!r}."
        raise TypeError(msg)
    mask = np.ones(len(frame), dtype=bool)
    for key, wanted in strata.items():
        if key not in frame:
            msg = f"{key!r} is not a stratum key of this result. Choose from {list(frame.columns)}."
            raise KeyError(msg)
        levels = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Sequence) else list(wanted)
        missing = [level for level in levels if level not in set(frame[key])]
        if missing:
            msg = f"{missing} are not levels of {key!r}. Choose from {sorted(set(frame[key]), key=str)}."
            raise KeyError(msg)
        mask &= frame[key].isin(levels).to_numpy()
    return mask


def positions(index: pd.Index, wanted: str | Sequence[str] | None, what: str) -> IntArray:
    """Positions of names in an index, all of them for `None`.

    Raises
    ------
    KeyError
        If a name is not there.
    """
    if wanted is None:
        return np.arange(len(index))
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    found = index.get_indexer(pd.Index(names, dtype=object))
    missing = [name for name, position in zip(names, found, strict=True) if position < 0]
    if missing:
        shown = ", ".join(map(str, index[:10])) + (", ..." if len(index) > 10 else "")
        msg = f"Unknown {what} {missing}. This result has {len(index)}: {shown}."
        raise KeyError(msg)
    return found.astype(np.int64)
