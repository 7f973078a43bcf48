"""Positive controls: what a repeated experiment would score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scgraphvci._evaluation._conditions import Condition
from scgraphvci._evaluation._predictors import Prediction
from scgraphvci._evaluation._scores import Target, score
from scgraphvci._evaluation._screen import Basis
from scgraphvci._evaluation._welch import Group, welch
from scgraphvci.estimate import adjust_p_values

TECHNICAL, INTERPOLATED = "technical duplicate", "interpolated duplicate"
DUPLICATES = (TECHNICAL, INTERPOLATED)
MIN_DUPLICATED = 4  # held-out cells: two to predict, two to be predicted


def score_duplicates(
    condition: Condition, cells: np.ndarray, basis: Basis, rng: np.random.Generator, *, noise_free: bool
) -> dict[str, dict[str, float]]:
    """Score the duplicates of a condition.

    The technical duplicate is the mean of one random half of the held-out cells, scored against the other half; both
    directions are averaged. If the noise-free truth is known, it is the mean of all held-out cells, scored against
    that; sets of cells are compared by halves all the same. The interpolated duplicate (Miller et al., 2025) takes from
    it what differs significantly from the stratum's other treatments and the rest from their mean:
    ``a * duplicate + (1 - a) * mean`` with ``a = 1 - p_adj`` for each gene.

    Parameters
    ----------
    condition
        The condition.
    cells
        Its held-out cells, shape ``(n_cells, n_genes)``.
    basis
        Where distributions of cells are compared.
    rng
        Draws the halves.
    noise_free
        Whether ``condition.true`` is noise-free.

    Returns
    -------
    Scores by duplicate: all NaN with fewer than four cells, NaN for the interpolated one without a mean of other
    treatments, and for what needs cells of it.
    """
    if len(cells) < MIN_DUPLICATED:
        return {name: {} for name in DUPLICATES}
    nobody = cells[:0]
    order = rng.permutation(len(cells))
    halves = cells[order[: len(cells) // 2]], cells[order[len(cells) // 2 :]]
    directions = [halves, halves[::-1]]
    technical = _mean_scores(
        [score(condition, Target(b.mean(axis=0), b), Prediction(a.mean(axis=0), a), basis) for a, b in directions]
    )
    if noise_free:
        directions = [(cells, nobody)]
        of_cells = ("energy_distance", "mmd", "variance_ratio")
        kept = {name: technical[name] for name in of_cells}
        everything = Prediction(cells.mean(axis=0), nobody)
        technical = {**score(condition, Target(condition.true, cells), everything, basis), **kept}
    interpolated = [
        score(
            condition, Target(condition.true if noise_free else b.mean(axis=0), b), Prediction(profile, nobody), basis
        )
        for a, b in directions
        if (profile := interpolate(condition, a)) is not None
    ]
    return {TECHNICAL: technical, INTERPOLATED: _mean_scores(interpolated)}


def interpolate(condition: Condition, cells: np.ndarray) -> np.ndarray | None:
    """Interpolate between the mean of cells and that of the stratum's training treatments; None without the latter."""
    if condition.perturbed is None or condition.rest is None:
        return None
    group = Group.of(cells)
    alpha = 1 - adjust_p_values(welch(group, condition.rest)[1])
    return alpha * group.mean + (1 - alpha) * condition.perturbed


def _mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each score; none without any."""
    return {name: float(np.mean([one[name] for one in scores])) for name in (scores[0] if scores else {})}
