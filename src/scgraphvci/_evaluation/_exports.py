"""Predicted and true cells in the shape that outside scorers read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from scgraphvci._evaluation._conditions import Condition
from scgraphvci._evaluation._screen import Screen

CONTROL = "non-targeting"  # what cell-eval calls control unless told otherwise
Predict = Callable[[Condition], np.ndarray]


class _Part(NamedTuple):
    """Cells, shape ``(n_cells, n_genes)``, and what is said of all of them."""

    cells: np.ndarray
    labels: dict[str, str]


def to_cell_eval(
    screen: Screen, conditions: Sequence[Condition], predict: Predict, directory: Path | None
) -> tuple[AnnData, AnnData]:
    """Return predicted and real cells for cell-eval, and write them if a folder is given.

    Predicted values below 0, which cell-eval refuses, become 0.

    Parameters
    ----------
    screen
        The data.
    conditions
        What was held out.
    predict
        Gives predicted cells of a condition, shape ``(n_cells, n_genes)``.
    directory
        Folder, made if missing, for ``adata_pred.h5ad`` and ``adata_real.h5ad``.
    """
    strata = {one.stratum: one for one in conditions}.values()
    control = [_Part(screen.rows(one.controls), {"target": CONTROL, "stratum": _stratum(one)}) for one in strata]
    labels = [{"target": _treatment(one), "stratum": _stratum(one)} for one in conditions]
    predicted = [_Part(np.maximum(predict(one), 0), label) for one, label in zip(conditions, labels, strict=True)]
    real = [_Part(screen.rows(one.held_out), label) for one, label in zip(conditions, labels, strict=True)]
    pair = _join([*control, *predicted], screen), _join([*control, *real], screen)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        for adata, name in zip(pair, ("adata_pred", "adata_real"), strict=True):
            adata.write_h5ad(directory / f"{name}.h5ad")
    return pair


def to_pertpy(screen: Screen, conditions: Sequence[Condition], predict: Predict) -> AnnData:
    """Return control, true and predicted cells of every condition in one AnnData.

    Parameters are those of :func:`to_cell_eval`.
    """
    parts = []
    for one in conditions:
        name = f"{_treatment(one)} in {_stratum(one)}" if one.levels else _treatment(one)
        labels = {"treatment": one.treatment, "dose": one.dose or "", **one.levels, "condition": name}
        cells = {"control": screen.rows(one.controls), "true": screen.rows(one.held_out), "predicted": predict(one)}
        parts += [_Part(values, {**labels, "origin": origin}) for origin, values in cells.items()]
    joined = _join(parts, screen)
    joined.obsm["X_pca"] = screen.basis.project(joined.X)
    return joined


def _join(parts: Sequence[_Part], screen: Screen) -> AnnData:
    """Stack cells under new names, with the genes of the screen."""
    obs = pd.DataFrame([part.labels for part in parts], dtype="category")
    obs = obs.loc[np.repeat(np.arange(len(parts)), [len(part.cells) for part in parts])]
    obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
    values = np.concatenate([part.cells for part in parts]).astype(np.float32)
    return AnnData(values, obs=obs, var=pd.DataFrame(index=screen.adata.var_names))


def _stratum(condition: Condition) -> str:
    """Name of the stratum."""
    return " | ".join(condition.levels.values()) or "all"


def _treatment(condition: Condition) -> str:
    """Name of the treatment with its dose."""
    return condition.treatment if condition.dose is None else f"{condition.treatment}@{condition.dose}"
