"""Cells behind a plot of counterfactuals: observed ones of a stratum, and draws of what its controls would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scgraphvci._constants import SPLITS
from scgraphvci._evaluation._predictors import set_up_of
from scgraphvci._evaluation._screen import CODER_KEYS, dense_rows, library, outcome
from scgraphvci.baselines._base import ScreenCoder
from scgraphvci.data._treatments import Dose, did_you_mean

CONTROL, OBSERVED, COUNTERFACTUAL = "control", "observed", "counterfactual"


@dataclass(frozen=True)
class CounterfactualCells:
    """Expression of some genes in a stratum.

    Attributes
    ----------
    control
        Observed control cells, from which counterfactuals start; one column per gene.
    observed
        Observed cells by treatment; no rows where nobody measured it.
    counterfactual
        Draws by treatment, one for each control cell.
    held_out
        By treatment: whether no cell of it in the stratum is in the training split. None without a column of splits.
    label
        What the values are.
    """

    control: pd.DataFrame
    observed: Mapping[str, pd.DataFrame]
    counterfactual: Mapping[str, pd.DataFrame]
    held_out: Mapping[str, bool | None]
    label: str

    def to_frame(self) -> pd.DataFrame:
        """Return one row per cell and kind: `treatment`, `kind`, and one column per gene."""
        parts = [self.control.assign(treatment=CONTROL, kind=CONTROL)]
        for kind, groups in ((OBSERVED, self.observed), (COUNTERFACTUAL, self.counterfactual)):
            parts += [cells.assign(treatment=name, kind=kind) for name, cells in groups.items()]
        frame = pd.concat(parts, ignore_index=True)
        return frame[["treatment", "kind", *self.control.columns]]


def counterfactual_cells(
    model: Any,
    genes: Sequence[str],
    treatments: Sequence[str],
    stratum: Mapping[str, Any] | None,
    dose: Dose,
    seed: int,
) -> CounterfactualCells:
    """Gather observed cells and draw counterfactual ones, on the scale the model reads; counts log-normalised.

    Parameters
    ----------
    model
        A trained model of this package with its data.
    genes, treatments
        Which.
    stratum
        Levels of columns of ``obs``; all cells if None.
    dose
        Of the treatments, as in :meth:`scgraphvci.GraphVCI.predict`.
    seed
        Of the draws.

    Raises
    ------
    TypeError
        If the model is none of this package, or was set up on a MuData.
    KeyError
        If a gene or a column of `stratum` is not in the data.
    ValueError
        If a treatment is unknown, or the stratum has no control cells that are not held out.
    """
    setting, adata = _setting(model)
    _check_genes(genes, adata)
    codes = ScreenCoder(**{key: setting[key] for key in CODER_KEYS}).code(adata)
    split = None if setting["split_key"] is None else adata.obs[setting["split_key"]].astype(str).to_numpy()
    here = _cells_of(adata, stratum)
    control = np.flatnonzero(here & (codes.condition == 0) & (True if split is None else split != SPLITS.OOD))
    if control.size == 0:
        msg = f"There is no control cell in {dict(stratum or {})} that is not held out. Take another stratum."
        raise ValueError(msg)
    columns = adata.var_names.get_indexer(list(genes))
    module = getattr(model, "module", None)
    is_count = getattr(module, "likelihood", "normal") != "normal"
    size = float(module.library_size) if is_count and module is not None else 1.0
    libraries = library(adata, setting) if is_count else None

    def values(matrix: np.ndarray, cells: np.ndarray) -> pd.DataFrame:
        chosen = matrix[:, columns].astype(np.float64)
        if libraries is not None:
            chosen = np.log1p(chosen * (size / libraries[cells])[:, None])
        return pd.DataFrame(chosen, columns=list(genes))

    matrix = outcome(adata, setting["layer"])
    observed, counterfactual, held_out = {}, {}, {}
    for name in treatments:
        new_to_data = set(codes.table.members(name)) - set(codes.table.perturbations)  # the model may foretell these
        row = None if new_to_data else codes.table.condition(codes.table.vector(name, dose))
        cells = np.flatnonzero(here & (codes.condition == row)) if row is not None else np.empty(0, dtype=int)
        observed[name] = values(dense_rows(matrix, cells), cells)
        held_out[name] = None if split is None else not bool((split[cells] == SPLITS.TRAIN).any())
        counterfactual[name] = values(_draw(model, name, control, dose, seed, is_count=is_count), control)
    label = f"log1p(counts / library x {size:,.0f})" if is_count else "expression"
    return CounterfactualCells(values(dense_rows(matrix, control), control), observed, counterfactual, held_out, label)


def _setting(model: Any) -> tuple[dict[str, Any], AnnData]:
    """Set-up and data of a model."""
    setting = set_up_of(model)
    if setting is None:
        msg = f"{type(model).__name__} is no model or baseline of this package, which know treatments and strata."
        raise TypeError(msg)
    adata = setting["adata"]
    if not isinstance(adata, AnnData):
        msg = f"This needs a model set up on an AnnData, not on {type(adata).__name__}. Set it up on the modality."
        raise TypeError(msg)
    return setting, adata


def _check_genes(genes: Sequence[str], adata: AnnData) -> None:
    missing = [gene for gene in genes if gene not in adata.var_names]
    if missing:
        msg = f"Genes {missing} are not in the data.{did_you_mean(missing, list(adata.var_names))}"
        raise KeyError(msg)


def _cells_of(adata: AnnData, stratum: Mapping[str, Any] | None) -> np.ndarray:
    """Say which cells have the levels, shape ``(n_cells,)``."""
    here = np.ones(adata.n_obs, dtype=bool)
    for key, level in (stratum or {}).items():
        if key not in adata.obs:
            msg = f"No column {key!r} in obs. Columns: {list(adata.obs)}."
            raise KeyError(msg)
        here &= adata.obs[key].astype(str).to_numpy() == str(level)
    return here


def _draw(model: Any, treatment: str, cells: np.ndarray, dose: Dose, seed: int, *, is_count: bool) -> np.ndarray:
    """One draw for each cell, or its prediction from what cannot draw, shape ``(n_cells, n_genes)``."""
    arguments: dict[str, Any] = {"indices": cells.tolist(), **({} if dose is None else {"dose": dose})}
    if not callable(getattr(model, "sample", None)):
        return np.asarray(model.predict(treatment, **arguments).X)
    if is_count:
        arguments["library"] = "observed"
    return np.asarray(model.sample(treatment, seed=seed, **arguments).X)
