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
BY_HALVES = ("energy_distance", "mmd", "variance_ratio", "de_auprc", "de_spearman", "de_direction", "de_overlap")
"""What compares sets of cells or rests on genes chosen by cells, even if the truth is noise-free."""


def score_duplicates(
    condition: Condition, cells: np.ndarray, basis: Basis, rng: np.random.Generator, *, noise_free: bool
) -> dict[str, dict[str, float]]:
    """Score the duplicates of a condition.

    The technical duplicate is the mean of one random half of the held-out cells, scored against the other half; both
    directions are averaged. The half that is predicted alone says which genes weigh, differ most or are significant:
    genes chosen with the half that predicts would favour it. If the noise-free truth is known, the duplicate is the
    mean of all held-out cells, scored against that; sets of cells, and what rests on significant genes, are compared by
    halves all the same. The interpolated duplicate (Miller et al., 2025) takes from
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
    order = rng.permutation(len(cells))
    halves = cells[order[: len(cells) // 2]], cells[order[len(cells) // 2 :]]
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in DUPLICATES}
    for a, b in (halves, halves[::-1]):
        judge = condition.judged_by(b, noise_free=noise_free)
        target = Target(condition.true if noise_free else b.mean(axis=0), b)
        for name, prediction in _duplicates(condition, a).items():
            scores[name].append(score(judge, target, prediction, basis))
    means = {name: _mean_scores(rows) for name, rows in scores.items()}
    if noise_free:
        target = Target(condition.true, cells[:0])
        for name, prediction in _duplicates(condition, cells).items():
            by_all = score(condition, target, prediction, basis)
            means[name].update({metric: by_all[metric] for metric in by_all if metric not in BY_HALVES})
    return means


def _duplicates(condition: Condition, cells: np.ndarray) -> dict[str, Prediction]:
    """What cells of the condition predict."""
    predictions = {TECHNICAL: Prediction(cells.mean(axis=0), cells)}
    profile = interpolate(condition, cells)
    if profile is not None:
        predictions[INTERPOLATED] = Prediction(profile, cells[:0])
    return predictions


def interpolate(condition: Condition, cells: np.ndarray) -> np.ndarray | None:
    """Interpolate between the mean of cells and that of the stratum's training treatments; None without the latter."""
    if condition.perturbed is None or condition.rest is None:
        return None
    group = Group.of(cells)
    alpha = 1 - adjust_p_values(welch(group, condition.rest)[1])
    return alpha * group.mean + (1 - alpha) * condition.perturbed


def _mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each score where it is defined; none without any."""
    if not scores:
        return {}
    values = np.array([list(one.values()) for one in scores])
    known = np.isfinite(values)
    total, n = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    means = np.divide(total, n, out=np.full(n.size, np.nan), where=n > 0)
    return dict(zip(scores[0], means.tolist(), strict=True))
