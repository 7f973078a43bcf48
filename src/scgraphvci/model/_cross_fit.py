"""Models that have not seen the cells they predict: one for each fold of the cells."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scvi.utils import track

from scgraphvci._compat import initialize_model
from scgraphvci._constants import SPLITS
from scgraphvci._quiet import quiet_training
from scgraphvci.data._read import modality
from scgraphvci.module._likelihood import is_count
from scgraphvci.train._seed import mix_seed

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgraphvci.model._graphvci import GraphVCI

logger = logging.getLogger(__name__)

FOLD_KEY = "_scgraphvci_fold"
N_PASSES = 10  # over covariates, to spread their levels over folds
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


def assign_folds(
    n_folds: int,
    stratum: np.ndarray,
    condition: np.ndarray,
    cluster: np.ndarray | None,
    seed: int,
    levels: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the fold of each cell, shape ``(n_cells,)``.

    Whole clusters go to one fold, the largest first, each to the fold with the fewest cells. Without clusters the cells
    of every stratum and treatment are dealt out evenly. Then a cell or cluster is moved for each level of a covariate
    that has two of them, all in one fold: every fold's model has then seen it.

    Parameters
    ----------
    n_folds
        Number of folds.
    stratum, condition, cluster
        Codes of the cells, shape ``(n_cells,)``.
    seed
        Of the draw.
    levels
        Code of the level of every covariate, ``(n_cells, n_covariates)``.

    Raises
    ------
    ValueError
        If there are not as many clusters, or cells, as folds, or fewer than two folds.
    """
    rng = np.random.default_rng(seed)
    n_units = len(stratum) if cluster is None else len(np.unique(cluster))
    if not 2 <= n_folds <= n_units:
        what = "cells" if cluster is None else "clusters"
        msg = f"cross_fit={n_folds} must be 0, or between 2 and the number of {what} ({n_units})."
        raise ValueError(msg)
    unit = np.arange(len(stratum)) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    size = np.bincount(unit)
    fold = np.empty(n_units, dtype=np.int64)
    if cluster is None:
        order = np.lexsort([rng.random(n_units), condition, stratum])
        fold[order] = (np.arange(n_units) + rng.integers(n_folds)) % n_folds
    else:
        filled = np.zeros(n_folds, dtype=np.int64)
        for one in np.lexsort([rng.random(n_units), -size]):
            fold[one] = filled.argmin()
            filled[fold[one]] += size[one]
    for _ in range(N_PASSES if levels is not None else 0):  # what spreads a level of one covariate may gather another's
        before = fold.copy()
        _spread_levels(fold, np.asarray(levels), unit, size)
        if (fold == before).all():
            break
    return fold[unit]


def _spread_levels(fold: np.ndarray, levels: np.ndarray, unit: np.ndarray, size: np.ndarray) -> None:
    """Move the smallest unit of each level that one fold has for itself to another fold, in place.

    To the fold where it leaves the fewest other levels to one fold, and of these to that with the fewest cells. A level
    of one unit stays where it is, and so does a unit that is all of its fold.
    """
    n_folds = int(fold.max()) + 1
    for column in levels.T:
        for one in np.unique(column):
            units = np.unique(unit[column == one])
            home = fold[units[0]]
            if units.size == 1 or (fold[units] != home).any() or (fold == home).sum() == 1:
                continue
            moved = units[size[units].argmin()]
            filled = np.bincount(fold, weights=size, minlength=n_folds)
            others = [number for number in range(n_folds) if number != home]
            gathered = _gathered(fold, moved, levels, unit)
            fold[moved] = min(others, key=lambda number: (gathered.count(number), filled[number]))


def _gathered(fold: np.ndarray, moved: int, levels: np.ndarray, unit: np.ndarray) -> list[int]:
    """Folds that hold all other units of a level, one for each level of a unit for which that is so."""
    found = []
    for column in levels.T:
        for one in np.unique(column[unit == moved]):
            units = np.unique(unit[column == one])
            rest = fold[units[units != moved]]
            if rest.size and (rest == rest[0]).all():
                found.append(int(rest[0]))
    return found


def covariate_levels(model: GraphVCI, adata: AnnData | MuData, cells: np.ndarray) -> pd.DataFrame:
    """Levels of the categorical covariates of some cells, one column each, shape ``(n_cells, n_covariates)``."""
    obs = modality(adata, model.registry["setup_args"].get("modality")).obs
    keys = model.registry["setup_args"]["categorical_covariate_keys"] or []
    return pd.DataFrame({key: obs[key].astype(str).to_numpy()[cells] for key in keys}, index=range(cells.size))


def repetition_seeds(seed: int, n_repeats: int) -> list[int]:
    """Seeds of the repetitions of cross-fitting; the first is the seed itself."""
    return [seed, *(mix_seed(seed, r, 1) % 2**32 for r in range(1, n_repeats))]


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
    arguments = (model._last_training or {}) if train_kwargs is None else train_kwargs
    predictions: list[Predictor] = []
    silent = not arguments.get("enable_progress_bar", True)
    for k in track(range(int(fold.max()) + 1), description="Cross-fitting", disable=silent):
        position = np.flatnonzero(fold == k)
        seen = split.copy()
        seen[cells[position]] = SPLITS.OOD
        screen = _screen(model, table, seen, left_out)
        try:
            one = _train(model, screen, left_out, arguments, mix_seed(seed, k, 0) % 2**32)
        except BaseException:
            release(predictions)
            raise
        scale = 1.0
        if is_count(model.module.likelihood):
            scale = float(model.module.library_size / one.module.library_size)
        predictions.append(Predictor(one, screen, position, scale))
    return predictions, left_out


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


def _screen(model: GraphVCI, table: AnnData, split: np.ndarray, left_out: list[str]) -> AnnData:
    """A light copy of the data: expression and network are shared, `obs` is the copy's own."""
    args = model.registry["setup_args"]
    keys = [args[name] for name in ("perturbation_key", "dose_key", "size_factor_key") if args[name] is not None]
    for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
        keys += [key for key in args[name] or [] if key not in left_out]
    obs = table.obs[list(dict.fromkeys(keys))].copy()
    obs[FOLD_KEY] = split
    if table.isbacked:
        screen = ad.read_h5ad(table.filename, backed="r")
        screen.obs = obs
        return screen
    layer, network, features = args["layer"], args["grn_key"], args["gene_features_key"]
    described = args.get("treatment_features")
    return ad.AnnData(
        X=table.X if layer is None else None,
        obs=obs,
        var=table.var[[]].copy(),
        layers={} if layer is None else {layer: table.layers[layer]},
        varp={} if network is None else {network: table.varp[network]},
        varm={} if features is None else {features: table.varm[features]},
        uns={described: table.uns[described]} if isinstance(described, str) else {},
    )


def _train(model: GraphVCI, screen: AnnData, left_out: list[str], arguments: dict[str, Any], seed: int) -> GraphVCI:
    """Set up, build and train the model of a fold as the given one was, and let go of what only training needs."""
    cls = type(model)
    setup = {name: value for name, value in model.registry["setup_args"].items() if name not in ("modality", "kwargs")}
    covariates = setup["categorical_covariate_keys"]
    kept = [key for key in covariates or [] if key not in left_out]
    cls.setup_anndata(screen, **{**setup, "split_key": FOLD_KEY, "categorical_covariate_keys": kept or None})
    devices = [model.module.device.index] if model.module.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), quiet_training(seed):
        one: GraphVCI = initialize_model(cls, screen, None, {"init_params_": copy.deepcopy(model.init_params_)}, None)
        one.train(**{"enable_progress_bar": False, **arguments})
    one.trainer = None
    return one
