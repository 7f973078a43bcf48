"""The cells an effect is estimated from: their codes, as groups of single cells, and as text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scgraphvci._constants import KEYS
from scgraphvci.data import TreatmentTable
from scgraphvci.data._fields import stratum_levels
from scgraphvci.data._read import require_column
from scgraphvci.estimate import Groups, coarsen_strata
from scgraphvci.estimate._leak_tests import N_DRAWS
from scgraphvci.train._splitter import not_held_out

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgraphvci.model._graphvci import GraphVCI

MAX_CELL_INFLUENCE_BYTES = 4_000_000_000
"""Most that the estimation may take with influence values of single cells."""


class EffectCells(NamedTuple):
    """Codes of the cells an effect is estimated from."""

    cell: np.ndarray
    condition: np.ndarray
    groups: Groups
    group: np.ndarray
    cluster: np.ndarray | None
    strata: pd.DataFrame
    table: TreatmentTable


def effect_cells(
    model: GraphVCI, adata: AnnData | MuData, pool: Sequence[str] | str | None, cluster_key: str | None
) -> EffectCells:
    """Codes of the cells that are not held out; strata are pooled over all keys but `pool` if that is given."""
    manager = model.get_anndata_manager(adata, required=True)
    index = not_held_out(manager)
    state = manager.get_state_registry(KEYS.STRATUM)
    codes = np.asarray(state["strata"])
    columns = {
        key: np.asarray(levels, dtype=object)[codes[:, j]]
        for j, (key, levels) in enumerate(stratum_levels(state).items())
    }
    frame = pd.DataFrame(columns, index=pd.RangeIndex(len(codes)))
    stratum = np.asarray(manager.get_from_registry(KEYS.STRATUM)).ravel().astype(np.int64)[index]
    if pool is not None:
        frame, coarse = coarsen_strata(frame, [pool] if isinstance(pool, str) else pool)
        stratum = coarse[stratum]
    present, stratum = np.unique(stratum, return_inverse=True)
    cluster = None
    if cluster_key is not None:
        column = require_column(model._table(adata), cluster_key, "cluster_key")
        cluster = pd.factorize(column.astype(str))[0][index]
    groups, group = Groups.from_codes(stratum, cluster, n_strata=len(present))
    condition = np.asarray(manager.get_from_registry(KEYS.TREATMENT)).ravel().astype(np.int64)[index]
    table = TreatmentTable.from_state(manager.get_state_registry(KEYS.TREATMENT))
    return EffectCells(index, condition, groups, group, cluster, frame.iloc[present].reset_index(drop=True), table)


def by_cell(
    cells: EffectCells, reported: np.ndarray, n_treatments: int, n_genes: int, cluster_key: str | None
) -> EffectCells:
    """The same cells, each a group of its own."""
    if cluster_key is not None:
        msg = (
            f"keep_influence='cells' is for errors of independent cells, and `cluster_key` is {cluster_key!r}. "
            "Leave it out, or keep the totals of its clusters with True."
        )
        raise ValueError(msg)
    stratum = cells.groups.stratum[cells.group]
    largest, n_strata = int(np.bincount(reported[stratum]).max()), int(reported.max()) + 1
    needed = _bytes_of_cells(len(stratum), largest, n_strata, n_treatments, n_genes)
    if needed > MAX_CELL_INFLUENCE_BYTES:
        msg = (
            f"Influence values of cells need {needed:,} bytes for {n_treatments} treatments x {n_strata} strata x "
            f"{largest} cells (of the largest stratum) x {n_genes} genes, allowed are "
            f"{MAX_CELL_INFLUENCE_BYTES:,}. Choose fewer `treatments`, give an `adata` of fewer cells or strata, "
            "or keep the totals of blocks with keep_influence=True."
        )
        raise ValueError(msg)
    groups, group = Groups.of_cells(stratum, reported)
    return cells._replace(groups=groups, group=group)


def _bytes_of_cells(n_cells: int, largest: int, n_strata: int, n_treatments: int, n_genes: int) -> int:
    """Return what influence values of cells take, `largest` being the cells of the largest reported stratum."""
    # Float32 in the result; float64 twice for one treatment at a time, beside the sums of three variables.
    by_gene = n_strata * largest * (4 * n_treatments + 16) + 24 * n_cells
    # In the leak test, products of all pairs of cells and signs of cells in every draw: as many as `_draws` and `signs`
    # hold for strata of different size, and two copies at work.
    drawn = N_DRAWS * largest * (8 * min(4, n_strata) + 4 * min(8, n_strata) + 16)
    return by_gene * n_genes + 8 * largest**2 + drawn


def fingerprint(names: pd.Index) -> str:
    """Tell whether two results are of the same cells in the same order."""
    hashed = pd.util.hash_pandas_object(names, index=False).to_numpy()
    return f"{len(names)} cells, {hashlib.sha256(hashed.tobytes()).hexdigest()[:16]}"
