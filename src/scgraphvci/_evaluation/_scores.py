"""Scores of one prediction of one condition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scgraphvci._evaluation._conditions import Condition
from scgraphvci._evaluation._predictors import Prediction
from scgraphvci._evaluation._screen import Basis
from scgraphvci.metrics import (
    METRICS,
    centroid_accuracy,
    de_recovery,
    discrimination_score,
    energy_distance,
    mae,
    mean_variance_ratio,
    median_distance,
    mmd,
    mse,
    pearson_shift,
    r2,
    variance_ratio,
    weighted_mse,
    weighted_r2,
)
from scgraphvci.metrics._ranking import Distance

COLUMNS = tuple(name for name in METRICS if name not in ("interval_coverage", "mean_pairwise_correlation"))
"""Columns of the scores: every metric that one prediction of one condition has."""

ROUNDING = 1e-6  # relative, of means of single-precision values


class Target(NamedTuple):
    """What a prediction is scored against.

    Attributes
    ----------
    mean
        True mean profile, shape ``(n_genes,)``.
    cells
        Some true cells, shape ``(n_cells, n_genes)``.
    """

    mean: np.ndarray
    cells: np.ndarray


def score(condition: Condition, target: Target, prediction: Prediction, basis: Basis) -> dict[str, float]:
    """Score a prediction; NaN where a metric is not defined.

    Parameters
    ----------
    condition
        What was predicted: references, weights and genes come from it.
    target
        The truth.
    prediction
        The prediction.
    basis
        Where distributions of cells are compared.
    """
    true, mean, de = target.mean, prediction.mean, condition.de_genes
    from_control = settled(mean, condition.reference)
    recovery = de_recovery(true - condition.reference, from_control - condition.reference, condition.significant)
    scores = dict.fromkeys(COLUMNS, float("nan"))
    scores.update(
        weighted_mse=weighted_mse(true, mean, condition.weights),
        centroid_accuracy=float(centroid_accuracy(true[None], mean[None], condition.others)[0]),
        r2=r2(true, mean),
        r2_de=r2(true[de], mean[de]),
        pearson_shift=pearson_shift(true, from_control, condition.reference),
        mse=mse(true, mean),
        mae=mae(true, mean),
        de_auprc=recovery.auprc,
        de_spearman=recovery.spearman,
        de_direction=recovery.direction,
        de_overlap=recovery.overlap,
        **_discrimination(condition, true, from_control),
    )
    if condition.perturbed is not None:
        scores["pearson_perturbed"] = pearson_shift(true, settled(mean, condition.perturbed), condition.perturbed)
        scores["weighted_r2"] = weighted_r2(true, mean, condition.perturbed, condition.weights)
    if min(len(prediction.cells), len(target.cells)) > 1:
        scores.update(_distribution_scores(target.cells, prediction.cells, basis))
    if prediction.means is not None:
        ratio = mean_variance_ratio(target.cells, prediction.means, prediction.sampling_variance)
        scores["mean_variance_ratio"] = ratio
    return scores


def settled(mean: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the reference for a prediction that differs from it by rounding alone, so that it has no direction."""
    is_rounding = np.linalg.norm(mean - reference) <= ROUNDING * np.linalg.norm(reference)
    return reference if is_rounding else mean


def _discrimination(condition: Condition, true: np.ndarray, mean: np.ndarray) -> dict[str, float]:
    """Rank of the own true shift among those of all treatments of the stratum."""
    shifts = np.vstack([true, condition.others]) - condition.reference
    guesses = np.full_like(shifts, np.nan)  # only the first row is predicted here
    guesses[0] = mean - condition.reference
    distances: tuple[Distance, ...] = ("l1", "l2", "cosine")
    return {f"discrimination_{name}": float(discrimination_score(shifts, guesses, name)[0]) for name in distances}


def _distribution_scores(true: np.ndarray, predicted: np.ndarray, basis: Basis) -> dict[str, float]:
    """Compare sets of cells. All predictors get the bandwidth of the true cells."""
    here, there = basis.project(true), basis.project(predicted)
    bandwidth = median_distance(here)
    return {
        "energy_distance": energy_distance(here, there),
        "mmd": mmd(here, there, bandwidth) if bandwidth > 0 else float("nan"),
        "variance_ratio": variance_ratio(true, predicted),
    }
