"""Models that have not seen the cells they predict: one for each fold of the cells."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgraphvci._constants import SPLITS
from scgraphvci.data._read import modality
from scgraphvci.model._fold_training import FoldScreen, Recipe, train_models
from scgraphvci.module._likelihood import is_count
from scgraphvci.train._seed import mix_seed

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgraphvci.model._graphvci import GraphVCI

logger = logging.getLogger(__name__)

FOLD_KEY = "_scgraphvci_fold"
MOST_CELLS = 0.5  # share with an unseen level from which on a covariate is left out of the models of folds
TEST_SHARE = 0.2  # of the cells a fold's model may see, for validation, where the set-up has no split column


@dataclass(frozen=True)
class Predictor:
    """A model, and the cells that it predicts.

    Attributes
    ----------
    model
        The model.
    adata
        Data it is registered with.
    position
        Which of the cells an effect is estimated from it predicts, shape ``(n,)``.
    scale
        What its outcomes and predictions are multiplied by: models of counts differ in their standard library.
    """

    model: GraphVCI
    adata: AnnData | MuData
    position: np.ndarray
    scale: float = 1.0


def covariate_levels(model: GraphVCI, adata: AnnData | MuData, cells: np.ndarray) -> pd.DataFrame:
    """Levels of the categorical covariates of some cells, one column each, shape ``(n_cells, n_covariates)``."""
    obs = modality(adata, model.registry["setup_args"].get("modality")).obs
    keys = model.registry["setup_args"]["categorical_covariate_keys"] or []
    return pd.DataFrame({key: obs[key].astype(str).to_numpy()[cells] for key in keys}, index=range(cells.size))


def fit_folds(
    model: GraphVCI,
    adata: AnnData | MuData,
    cells: np.ndarray,
    fold: np.ndarray,
    train_kwargs: dict[str, Any] | None,
    seed: int,
) -> tuple[list[Predictor], list[str]]:
    """Train a model for each fold on the cells of all others.

    Nothing of a fold's cells, or of cells marked "ood", reaches its model, which has moments, residuals, scale and
    validation cells of its own. Nothing is written to `adata`.

    Parameters
    ----------
    model
        Whose set-up and arguments the models take over.
    adata
        Data to train on.
    cells
        Cells that the effect is estimated from, shape ``(n,)``.
    fold
        Fold of each of them.
    train_kwargs
        Arguments of their training; those of the model's own training in this session, if there was one, if None.
    seed
        Of validation cells, initialisation and training.

    Returns
    -------
    The predictor of every fold, and the covariates that were left out of the models because most cells have a level
    which no other fold has, such as their donor.
    """
    table = modality(adata, model.registry["setup_args"].get("modality"))
    split = _split(model, table, cells, seed)
    left_out = _left_out(covariate_levels(model, adata, cells), fold)
    own = model._last_training or {}
    arguments = own if train_kwargs is None else {**_shown(own), **train_kwargs}
    n_folds = int(fold.max()) + 1
    positions = [np.flatnonzero(fold == k) for k in range(n_folds)]
    screens = []
    for position in positions:
        seen = split.copy()
        seen[cells[position]] = SPLITS.OOD
        screens.append(_screen(model, table, seen, left_out))
    seeds = [mix_seed(seed, k, 0) % 2**32 for k in range(n_folds)]
    devices = [model.module.device.index] if model.module.device.type == "cuda" else []
    predictions: list[Predictor] = []
    try:
        with torch.random.fork_rng(devices=devices):
            for position, (one, screen) in zip(
                positions, train_models(_recipe(model, left_out, arguments), screens, seeds), strict=True
            ):
                scale = 1.0
                if is_count(model.module.likelihood):
                    scale = float(model.module.library_size / one.module.library_size)
                predictions.append(Predictor(one, screen, position, scale))
    except BaseException:
        release(predictions)
        raise
    return predictions, left_out


def _shown(training: dict[str, Any]) -> dict[str, Any]:
    """Whether a training showed its progress, if it was said."""
    return {key: value for key, value in training.items() if key == "enable_progress_bar"}


def release(predictors: list[Predictor]) -> None:
    """Let scvi-tools forget the models of folds and their data, which it otherwise keeps as long as Python runs."""
    for one in predictors:
        one.model.deregister_manager(one.adata)


def _split(model: GraphVCI, table: AnnData, cells: np.ndarray, seed: int) -> np.ndarray:
    """What each cell is for, before a fold is taken out: cells the effect is not estimated from are held out."""
    key = model.registry["setup_args"]["split_key"]
    split = np.full(table.n_obs, SPLITS.OOD, dtype=object)
    if key is not None and key in table.obs:
        split[cells] = table.obs[key].astype(str).to_numpy()[cells]
    else:
        test = np.random.default_rng(seed).random(cells.size) < TEST_SHARE
        split[cells] = np.where(test, SPLITS.TEST, SPLITS.TRAIN)
    return split


def _left_out(levels: pd.DataFrame, fold: np.ndarray) -> list[str]:
    """Covariates that most cells have a level of which their fold has for itself, such as donors that are clusters.

    The model that predicts these cells could know nothing of their level. If they are few, that is no reason to keep
    the covariate from all others: a prediction that knows little of a cell is no worse than none.
    """
    found = []
    for key, level in levels.items():
        alone = pd.Series(fold).groupby(level.to_numpy()).transform("nunique").to_numpy() == 1
        if not alone.any():
            continue
        rare = level[alone].value_counts()
        named = ", ".join(f"{name!r} ({count} cells)" for name, count in rare.head(5).items())
        named += f" and {rare.size - 5} more" if rare.size > 5 else ""
        if alone.mean() > MOST_CELLS:
            found.append(str(key))
            logger.warning("Models of folds do without %r: levels that one fold has for itself: %s.", key, named)
        else:
            logger.warning(
                "Levels of %r that one fold has for itself, so that the model predicting these cells has not seen "
                "them: %s. Their estimates gain little from predictions. Merge these levels, or leave their cells out, "
                "if that matters.",
                key,
                named,
            )
    return found


def _screen(model: GraphVCI, table: AnnData, split: np.ndarray, left_out: list[str]) -> FoldScreen:
    """The data of a fold's model, with its split."""
    args = model.registry["setup_args"]
    keys = [args[name] for name in ("perturbation_key", "dose_key", "size_factor_key") if args[name] is not None]
    for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
        keys += [key for key in args[name] or [] if key not in left_out]
    obs = table.obs[list(dict.fromkeys(keys))].copy()
    obs[FOLD_KEY] = split
    if table.isbacked:
        return FoldScreen(obs, Path(table.filename))
    layer, network, features = args["layer"], args["grn_key"], args["gene_features_key"]
    described = args.get("treatment_features")
    parts = {
        "X": table.X if layer is None else None,
        "var": table.var[[]].copy(),
        "layers": {} if layer is None else {layer: table.layers[layer]},
        "varp": {} if network is None else {network: table.varp[network]},
        "varm": {} if features is None else {features: table.varm[features]},
        "uns": {described: table.uns[described]} if isinstance(described, str) else {},
    }
    return FoldScreen(obs, parts)


def _recipe(model: GraphVCI, left_out: list[str], training: dict[str, Any]) -> Recipe:
    """How the models of folds are trained: as the given one was, without some covariates."""
    setup = {name: value for name, value in model.registry["setup_args"].items() if name not in ("modality", "kwargs")}
    covariates = [key for key in setup["categorical_covariate_keys"] or [] if key not in left_out]
    setup.update(split_key=FOLD_KEY, categorical_covariate_keys=covariates or None)
    return Recipe(type(model), setup, model.init_params_, training)
