"""An empirical-Bayes model of stratum means: what the decoder starts from, and what its counterfactuals are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse.csgraph import connected_components

from scgraphvci.data._shrinkage import probability_of_effect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scgraphvci.data._moments import StratumMoments

N_FEATURES = 8  # principal components of strata along which responses may vary
SIMILARITY = (0.0, 0.03, 0.1, 0.3, 1.0)  # variance of a response along those components, in within-variances
HETEROGENEITY = (0.02, 0.1, 0.5)  # variance of a response between strata that nothing foretells
FLAT = 1e-3  # precision of a pooled shift: as good as no prior
LEVEL_CELLS = 2.0  # shrinkage of covariate offsets, as if so many cells had shown none
TOLERANCE = 0.01  # share of the held-out error within which variances count as equally good
CROSS_VALIDATED = 64  # groups of perturbations that choose the two variances: more would tell little


@dataclass(frozen=True)
class MeanModel:
    r"""Means of strata under treatments, :math:`m_{xt} = b + \sum_j o_{x_j} + t^\top (s + \Phi_x B)`.

    Attributes
    ----------
    intercept
        b, shape ``(n_genes,)``.
    offsets
        One array ``(n_levels, n_genes)`` per covariate.
    shift
        s, pooled over strata, shape ``(n_perturbations, n_genes)``; 0 for perturbations never seen beside control.
    level_features
        One array ``(n_levels, n_features)`` per covariate; they add up to the features :math:`\Phi_x` of a stratum,
        principal components of its expression.
    interaction
        B, how the shift varies with the features, shape ``(n_perturbations, n_features, n_genes)``.
    heterogeneity
        Variance of stratum means about the model, of controls and of responses, in within-stratum variances, shape
        ``(2, n_genes)``.
    """

    intercept: np.ndarray
    offsets: list[np.ndarray]
    shift: np.ndarray
    level_features: list[np.ndarray]
    interaction: np.ndarray
    heterogeneity: np.ndarray

    def level(self, strata: np.ndarray) -> np.ndarray:
        """Means under control, from level codes (n, n_covariates); shape ``(n, n_genes)``."""
        return self.intercept + sum((offset[strata[:, j]] for j, offset in enumerate(self.offsets)), np.float64(0))

    def response(self, design: np.ndarray, strata: np.ndarray) -> np.ndarray:
        """Shifts from control, from treatment vectors (n, n_perturbations) and level codes; shape ``(n, n_genes)``."""
        features = _features(self.level_features, strata)
        total = design @ self.shift
        for k in range(features.shape[1]):
            total += features[:, [k]] * (design @ self.interaction[:, k])
        return total


class _Pairs(NamedTuple):
    """Strata under treatments beside their own control."""

    stratum: np.ndarray
    condition: np.ndarray
    shift: np.ndarray  # in within-stratum standard deviations, (n_pairs, n_genes)
    noise: np.ndarray  # sampling variance of the shifts, in within-stratum variances

    def take(self, rows: np.ndarray) -> _Pairs:
        return _Pairs(self.stratum[rows], self.condition[rows], self.shift[rows], self.noise[rows])


def fit_mean_model(
    moments: StratumMoments, design: np.ndarray, strata: np.ndarray, n_levels: Sequence[int], *, log: bool
) -> MeanModel:
    r"""Fit the model to the moments of the training cells.

    The shift :math:`D_{xt}` of a stratum from its own control has the prior

    .. math:: D_{xt} = t^\top (s + \Phi_x B) + u_{xt} + e_{xt}, \quad B \sim N(0, \rho\, v), \quad
        u_{xt} \sim N(0, \nu\, v), \quad e_{xt} \sim N(0, (1/n_{xt} + 1/n_{x0})\, v)

    with v the variance within strata and a flat prior for s, so that the best linear prediction of a stratum that
    lacks t borrows from the strata that resemble it (kriging), as far as the data say that resemblance matters:
    :math:`\rho` and :math:`\nu` are those that best predict the responses of a covariate's level from the other
    levels. Each perturbation's effect on a gene is then multiplied by the posterior probability that there is one
    (see :func:`probability_of_effect`). Offsets are fitted to what the shifts leave.

    Parameters
    ----------
    moments
        Moments of the training cells.
    design
        Treatment vectors, shape ``(n_conditions, n_perturbations)``; row 0 is control.
    strata
        Level codes of each stratum, shape ``(n_strata, n_covariates)``.
    n_levels
        Levels of each covariate.
    log
        Model log means (counts) rather than means.
    """
    design = design.astype(np.float64)
    mean, variance = _scale(moments, log=log)
    stratum, condition = np.nonzero(moments.row >= 0)
    row = moments.row[stratum, condition]
    pairs = _pairs(moments, mean, variance)

    pooled = np.zeros((design.shape[1], mean.shape[1]))
    blocks = list(_blocks(design, pairs.condition))
    for members, rows in blocks:
        solution = _Ridge(design[np.ix_(pairs.condition[rows], members)], 1 / (pairs.noise[rows] + HETEROGENEITY[0]))
        pooled[members] = solution.coefficients(pairs.shift[rows])
    pooled *= np.sqrt(variance)
    intercept, offsets = _fit_level(
        mean[row] - design[condition] @ pooled, strata[stratum], n_levels, moments.n_cells[row]
    )
    level_features = _level_features(offsets, np.unique(strata[stratum], axis=0))
    features = _features(level_features, strata)

    similarity, heterogeneity = _choose(pairs, design, features, strata, blocks)
    n_features = features.shape[1]
    shift = np.zeros_like(pooled)
    interaction = np.zeros((design.shape[1], n_features, mean.shape[1]))
    for members, rows in blocks:
        part = pairs.take(rows)
        regression = _regression(part, design[:, members], features, similarity, heterogeneity)
        coefficients = regression.coefficients(part.shift).reshape(len(members), 1 + n_features, -1)
        sampling = regression.sampling_variance(part.noise)[:: 1 + n_features]
        present = probability_of_effect(coefficients[:, 0], np.broadcast_to(sampling[:, None], pooled[members].shape))
        coefficients *= present[:, None] * np.sqrt(variance)
        shift[members] = coefficients[:, 0]
        interaction[members] = coefficients[:, 1:] * np.sqrt(similarity)
    # Cells of a treatment say less about their stratum's level, the more its response deviates from the model.
    spread = _excess(*_held_out(pairs, design, features, strata, blocks, similarity, heterogeneity))
    cells = moments.n_cells[row].astype(np.float64)
    cells[condition > 0] /= 1 + cells[condition > 0] * spread.mean()
    model = MeanModel(intercept, offsets, shift, level_features, interaction, np.zeros((2, 1)))
    level = mean[row] - model.response(design[condition], strata[stratum])
    intercept, offsets = _fit_level(level, strata[stratum], n_levels, cells)
    model = MeanModel(intercept, offsets, shift, level_features, interaction, np.zeros((2, 1)))

    control = condition == 0
    residual = (mean[row[control]] - model.level(strata[stratum[control]])) / np.sqrt(variance)
    level_spread = _excess(residual, 1 / moments.n_cells[row[control]])
    return MeanModel(intercept, offsets, shift, level_features, interaction, np.stack([level_spread, spread]))


def _scale(moments: StratumMoments, *, log: bool) -> tuple[np.ndarray, np.ndarray]:
    """Means on the scale of the model and the variance of one cell there, by the delta method for logs."""
    mean = moments.mean.astype(np.float64)
    variance = moments.within_variance.astype(np.float64)
    if log:
        variance = variance / np.maximum(moments.gene_mean, 0.05) ** 2
        mean = np.log(mean + 0.5 / moments.n_cells[:, None])
    return mean, np.maximum(variance, 1e-6)


def _pairs(moments: StratumMoments, mean: np.ndarray, variance: np.ndarray) -> _Pairs:
    stratum, condition = np.nonzero(moments.row >= 0)
    control = moments.row[stratum, 0]
    keep = (condition > 0) & (control >= 0)
    stratum, condition, control = stratum[keep], condition[keep], control[keep]
    row = moments.row[stratum, condition]
    shift = (mean[row] - mean[control]) / np.sqrt(variance)
    return _Pairs(stratum, condition, shift, 1 / moments.n_cells[row] + 1 / moments.n_cells[control])


def _blocks(design: np.ndarray, condition: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield perturbations that occur together, and the pairs that hold any of them: regressions apart."""
    present = design[condition] != 0
    n_blocks, block = connected_components(present.T.astype(np.float64) @ present.astype(np.float64), directed=False)
    seen = present.any(axis=0)
    for number in range(n_blocks):
        members = np.flatnonzero((block == number) & seen)
        if members.size:
            yield members, np.flatnonzero(present[:, members].any(axis=1))


class _Ridge:
    """Weighted ridge regression."""

    def __init__(self, x: np.ndarray, weight: np.ndarray, penalty: np.ndarray | float = FLAT) -> None:
        self.x, self.weight = x, weight
        self.gram = x.T @ (weight[:, None] * x) + np.eye(x.shape[1]) * penalty

    def coefficients(self, y: np.ndarray) -> np.ndarray:
        return np.linalg.solve(self.gram, self.x.T @ (self.weight[:, None] * y))

    def hat(self) -> np.ndarray:
        return self.x @ np.linalg.solve(self.gram, (self.x * self.weight[:, None]).T)

    def sampling_variance(self, noise: np.ndarray) -> np.ndarray:
        """Variance of each coefficient that comes from noise in y."""
        linear = np.linalg.solve(self.gram, (self.x * self.weight[:, None]).T)
        return linear**2 @ noise


def _regression(
    pairs: _Pairs, design: np.ndarray, features: np.ndarray, similarity: float, heterogeneity: float
) -> _Ridge:
    """Regression of shifts on treatments, each alone (flat prior) and times the features (unit prior)."""
    treated = design[pairs.condition]
    along = np.concatenate([np.ones((pairs.stratum.size, 1)), np.sqrt(similarity) * features[pairs.stratum]], axis=1)
    x = (treated[:, :, None] * along[:, None]).reshape(pairs.stratum.size, -1)
    penalty = np.tile([FLAT, *[1.0] * features.shape[1]], design.shape[1])
    return _Ridge(x, 1 / (pairs.noise + heterogeneity), penalty)


def _choose(
    pairs: _Pairs,
    design: np.ndarray,
    features: np.ndarray,
    strata: np.ndarray,
    blocks: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[float, float]:
    """Return the variances that best predict a covariate level's responses from the other levels.

    The covariate that counts is the one whose levels are hardest to foretell: that donors resemble one another says
    nothing of how to reach a new cell type. Of variances that do equally well, the smaller similarity is taken.
    """
    blocks = blocks[:: max(1, -(-len(blocks) // CROSS_VALIDATED))]
    grid = [(similarity, heterogeneity) for similarity in SIMILARITY for heterogeneity in HETEROGENEITY]
    errors = np.zeros((strata.shape[1], len(grid)))
    for j in range(strata.shape[1]):
        for k, (similarity, heterogeneity) in enumerate(grid):
            errors[j, k] = _excess(
                *_held_out(pairs, design, features, strata[:, [j]], blocks, similarity, heterogeneity)
            ).mean()
    if not errors.any():
        return grid[0]
    hardest = errors[errors.min(axis=1).argmax()]
    return grid[int(np.flatnonzero(hardest <= (1 + TOLERANCE) * hardest.min())[0])]


def _held_out(
    pairs: _Pairs,
    design: np.ndarray,
    features: np.ndarray,
    strata: np.ndarray,
    blocks: list[tuple[np.ndarray, np.ndarray]],
    similarity: float,
    heterogeneity: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Residuals and noise of the pairs of each covariate level, predicted from the other levels.

    For a ridge regression with hat matrix H, leaving out the rows g leaves the residuals
    :math:`(I - H_{gg})^{-1} (y - H y)_g`.
    """
    residuals, noises = [pairs.shift[:0]], [pairs.noise[:0]]
    for members, rows in blocks:
        part = pairs.take(rows)
        hat = _regression(part, design[:, members], features, similarity, heterogeneity).hat()
        residual = part.shift - hat @ part.shift
        treated = design[np.ix_(part.condition, members)] != 0
        for level in strata[part.stratum].T:
            for code in np.unique(level):
                group = np.flatnonzero(level == code)
                if np.any(treated[group].any(axis=0) & ~treated[level != code].any(axis=0)):
                    continue  # nothing is known of a perturbation without this level
                residuals.append(np.linalg.solve(np.eye(group.size) - hat[np.ix_(group, group)], residual[group]))
                noises.append(part.noise[group])
    return np.concatenate(residuals), np.concatenate(noises)


def _excess(residual: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Variance of residuals beyond noise, half pooled over genes, shape ``(n_genes,)``."""
    if not noise.size:
        return np.zeros(residual.shape[1])
    weight = 1 / (noise + HETEROGENEITY[0])
    excess = (weight[:, None] * (residual**2 - noise[:, None])).sum(axis=0) / weight.sum()
    return np.maximum((excess + excess.mean()) / 2, 0)


def _fit_level(
    level: np.ndarray, strata: np.ndarray, n_levels: Sequence[int], weight: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Intercept and covariate offsets of levels observed with some weight."""
    intercept = np.average(level, axis=0, weights=weight)
    if not len(n_levels):
        return intercept, []
    indicator = np.concatenate([np.eye(n)[strata[:, j]] for j, n in enumerate(n_levels)], axis=1)
    stacked = _Ridge(indicator, weight, LEVEL_CELLS).coefficients(level - intercept)
    return intercept, np.split(stacked, np.cumsum(n_levels)[:-1])


def _level_features(offsets: list[np.ndarray], strata: np.ndarray) -> list[np.ndarray]:
    """Principal components of the strata's levels as sums over covariates, scaled to a mean square norm of 1."""
    if not offsets:
        return []
    profile = np.sum([offset[strata[:, j]] for j, offset in enumerate(offsets)], axis=0)
    centre = [offset[strata[:, j]].mean(axis=0) for j, offset in enumerate(offsets)]
    profile = profile - profile.mean(axis=0)
    _, singular, axes = np.linalg.svd(profile, full_matrices=False)
    kept = axes[: min(N_FEATURES, int((singular > 1e-6 * max(singular[0], 1e-12)).sum()))]
    scale = np.sqrt(max(float((singular**2).mean() * singular.size / len(strata)), 1e-12))
    return [(offset - c) @ kept.T / scale for offset, c in zip(offsets, centre, strict=True)]


def _features(level_features: list[np.ndarray], strata: np.ndarray) -> np.ndarray:
    """Features of strata, shape ``(n_strata, n_features)``."""
    if not level_features:
        return np.zeros((len(strata), 0))
    return np.sum([feature[strata[:, j]] for j, feature in enumerate(level_features)], axis=0)
