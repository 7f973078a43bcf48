"""Which cells a prediction starts from, and how predictions are handed back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from scgraphvci._constants import KEYS, SLOTS
from scgraphvci.data._treatments import did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData

    from scgraphvci.data._treatments import TreatmentTable


def checked_cells(indices: Sequence[int] | None, n_obs: int) -> np.ndarray:
    """Return cells as positions; all if None.

    Raises
    ------
    ValueError
        If there are none, or some do not exist.
    TypeError
        If they are neither whole numbers nor one boolean per cell.
    """
    if indices is None:
        return np.arange(n_obs)
    cells = np.asarray(indices)
    if cells.dtype == bool and cells.shape == (n_obs,):
        cells = np.flatnonzero(cells)
    if cells.size == 0 or cells.ndim != 1:
        msg = f"`indices` must name at least one cell; got an array of shape {cells.shape}."
        raise ValueError(msg)
    if not np.issubdtype(cells.dtype, np.integer):
        msg = f"`indices` must be whole numbers or one boolean for each of {n_obs} cells, not {cells.dtype}."
        raise TypeError(msg)
    if cells.min() < 0 or cells.max() >= n_obs:
        msg = f"`indices` run from {cells.min()} to {cells.max()}, but there are {n_obs} cells."
        raise ValueError(msg)
    return cells.astype(np.int64)


def source_cells(
    table: TreatmentTable, codes: np.ndarray, source: str | None, indices: Sequence[int] | None
) -> np.ndarray:
    """Resolve `source` ("control" if None, "all", or a treatment) or `indices` to cells.

    Parameters
    ----------
    table
        Treatments of the data.
    codes
        Row of its design for every cell, shape ``(n_cells,)``.
    source, indices
        What the user asked for.

    Raises
    ------
    ValueError
        If both are given, or no cell is meant.
    TypeError
        If `source` is not text.
    """
    if indices is not None:
        if source is not None:
            msg = f"Give either `source` ({source!r}) or `indices`, not both."
            raise ValueError(msg)
        return checked_cells(indices, codes.size)
    if source is not None and not isinstance(source, str):
        msg = f"`source` must be 'control', 'all' or a treatment, not {type(source).__name__}. Data go in `adata=`."
        raise TypeError(msg)
    if source == "all":
        return np.arange(codes.size)
    wanted = table.control if source in (None, "control") else str(source)
    members = set(table.members(wanted))
    rows = [k for k, name in enumerate(table.names) if set(table.members(name)) == members] if members else [0]
    cells = np.flatnonzero(np.isin(codes, rows))
    if cells.size == 0:
        here = sorted(set(table.names))
        meant = did_you_mean([wanted], here)
        msg = f"No cell received the source treatment {wanted!r}.{meant} Treatments here: {here[:20]}."
        raise ValueError(msg)
    return cells


def as_counterfactual(
    adata: AnnData, cells: np.ndarray, values: np.ndarray | None, treatment: str, dose: str | None, scale: str
) -> AnnData:
    """Return predictions as an AnnData that chains with scanpy.

    Parameters
    ----------
    adata
        Data of the source cells.
    cells
        The source cells.
    values
        Their predictions, shape ``(n_cells, n_genes)``; None if they are kept elsewhere.
    treatment
        The counterfactual treatment.
    dose
        Its dose as text, or None for a screen without doses.
    scale
        "outcome" or "counts", kept in `uns`.
    """
    obs = adata.obs.iloc[cells].drop(columns=[f"_{KEYS.TREATMENT}", f"_{KEYS.STRATUM}"], errors="ignore").copy()
    obs["source_cell"] = obs.index.to_numpy()
    obs[SLOTS.COUNTERFACTUAL_TREATMENT] = pd.Categorical([treatment] * len(obs))
    if dose is not None:
        obs["counterfactual_dose"] = dose
    if not obs.index.is_unique:
        obs.index = pd.Index([f"{name}-{k}" for k, name in enumerate(obs.index)])
    return ad.AnnData(values, obs=obs, var=adata.var.copy(), uns={"scgraphvci": {"scale": scale}})
