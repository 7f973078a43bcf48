"""Folds of cells for cross-fitting."""

from __future__ import annotations

import numpy as np

from scgraphvci.train._seed import mix_seed

N_PASSES = 10  # over covariates, to spread their levels over folds


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


def repetition_seeds(seed: int, n_repeats: int) -> list[int]:
    """Seeds of the repetitions of cross-fitting; the first is the seed itself."""
    return [seed, *(mix_seed(seed, r, 1) % 2**32 for r in range(1, n_repeats))]
