"""Whether a predictor has seen cells that it is scored on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scgraphvci._constants import SPLITS
from scgraphvci._evaluation._screen import dense_rows, outcome
from scgraphvci.baselines import Baseline

BLOCK_CELLS = 1_000  # whose values are compared in one piece


def check_unseen(
    settings: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Any],
    adata: AnnData,
    scored: np.ndarray,
    split: str,
) -> None:
    """Check that no predictor of this package was trained on cells of the truth, nor validated on "ood" ones.

    Cells are those that the predictor was trained on, whatever split column is registered now, and are found in the
    data by name.

    Parameters
    ----------
    settings
        Set-up and data by predictor.
    models
        The predictors by name.
    adata
        The screen.
    scored
        Cells of the truth.
    split
        Split of the truth.

    Raises
    ------
    ValueError
        If a predictor has seen such cells.
    """
    names = adata.obs_names[scored]
    for name, setting in settings.items():
        own = setting["adata"]
        if own is None:
            continue
        seen = _seen_cells(models[name], own, setting["split_key"], with_validation=split == SPLITS.OOD)
        shared = own.obs_names[seen].intersection(names)
        if own is not adata:
            shared = _with_same_values(shared, own, adata, setting["layer"])
        if len(shared):
            use = "trained or validated" if split == SPLITS.OOD else "trained"
            msg = (
                f"{name!r} was {use} on {len(shared)} of the {len(names)} {split!r} cells that it would be scored on, "
                f"such as {shared[:3].tolist()}. Either predictors were set up with different splits, or the split "
                "column was rewritten after training, or a model was loaded with other cells than it was trained on, "
                "or in another order. Set up and train all predictors with the same split, or score them apart; load a "
                "model without data (`adata=False`) to score it on other cells, `Evaluation(model, adata)`."
            )
            raise ValueError(msg)


def _seen_cells(model: Any, adata: AnnData, split_key: str | None, *, with_validation: bool) -> np.ndarray:
    """Positions of the cells that a predictor was trained on, and validated on if asked for."""
    if _knows_positions(model):
        parts = [model.train_indices]
        if with_validation and not isinstance(model, Baseline):
            parts.append(model.validation_indices)
        return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts if part is not None])
    if split_key is None or split_key not in adata.obs:
        return np.empty(0, dtype=np.int64)
    names = (SPLITS.TRAIN, SPLITS.TEST) if with_validation else (SPLITS.TRAIN,)
    return np.flatnonzero(adata.obs[split_key].astype(str).isin(names))


def _knows_positions(model: Any) -> bool:
    """Whether training cells are known by position: trained on the data it holds, or loaded with as many cells.

    Saved models have positions without names of cells, so that the same number is taken for the same cells.
    """
    if isinstance(model, Baseline):
        return True
    if not model.is_trained or model.train_indices is None:
        return False
    if getattr(model, "trainer", None) is not None:
        return True
    parts = (model.train_indices, model.validation_indices, model.test_indices)
    return sum(len(part) for part in parts if part is not None) == model.adata.n_obs


def _with_same_values(names: pd.Index, own: AnnData, adata: AnnData, layer: str | None) -> pd.Index:
    """Those cells that have the same values in both data, genes in any order: names such as "0" do not tell."""
    if names.empty or own.n_vars != adata.n_vars:
        return names
    same = []
    for start in range(0, len(names), BLOCK_CELLS):
        block = names[start : start + BLOCK_CELLS]
        here, there = _rows(own, block, layer), _rows(adata, block, layer)
        same.append(np.isclose(here, there, rtol=1e-4, atol=1e-6).all(axis=1))
    return names[np.concatenate(same)]


def _rows(adata: AnnData, names: pd.Index, layer: str | None) -> np.ndarray:
    """Sorted values of some cells, in the order of their names."""
    cells = adata.obs_names.get_indexer(names)
    order = np.argsort(cells)
    rows = dense_rows(outcome(adata, layer), cells[order])
    return np.sort(rows[np.argsort(order)], axis=1)
