"""An empirical-Bayes model of stratum means: what the decoder starts from, and what its counterfactuals are held to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from scgraphvci.data._deviation import fit_deviation
from scgraphvci.data._dose_response import DoseResponse, bent, fit_dose_response
from scgraphvci.data._kriging import HETEROGENEITY, Kriging, Pairs, Variances, excess_variance, split_blocks
from scgraphvci.data._ridge import Ridge
from scgraphvci.data._shrinkage import probability_of_effect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgraphvci.data._coexpression import Residuals
    from scgraphvci.data._gene_regression import Route
    from scgraphvci.data._kriging import Block
    from scgraphvci.data._moments import StratumMoments

N_FEATURES = 8  # principal components of strata along which responses may vary
LEVEL_CELLS = 2.0  # shrinkage of covariate offsets, as if so many cells had shown none
# Share taken from an effect that is surely none. More lowers the squared error of a treatment's profile, but blunts the
# small effects that tell it from other treatments.
NULL_SHRINKAGE = 0.2


@dataclass(frozen=True)
class MeanModel:
    r"""Means of strata under treatments, :math:`m_{xt} = b + \sum_j o_{x_j} + t^\top (s + \Phi_x B + C_{x_k})`.

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
    deviation
        C, what the coexpression within levels of covariate k adds, shape ``(n_levels, n_perturbations, n_genes)``; no
        levels where it does not help.
    deviation_covariate
        k.
    noise
        Sampling variance of the shifts, in variances within strata, shape ``(n_perturbations,)``; infinite for
        perturbations never seen beside control.
    scale
        Standard deviations within strata, shape ``(n_genes,)``.
    regression
        What the responses come from, deviations taken off; None if it is not kept.
    dose_response
        How the entries of treatment vectors t, doses relative to the largest, act.
    """

    intercept: np.ndarray
    offsets: list[np.ndarray]
    shift: np.ndarray
    level_features: list[np.ndarray]
    interaction: np.ndarray
    heterogeneity: np.ndarray
    deviation: np.ndarray
    deviation_covariate: int
    noise: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scale: np.ndarray = field(default_factory=lambda: np.zeros(0))
    regression: tuple[Kriging, Variances] | None = None
    dose_response: DoseResponse = DoseResponse()

    def level(self, strata: np.ndarray) -> np.ndarray:
        """Means under control, from level codes (n, n_covariates); shape ``(n, n_genes)``."""
        total = np.tile(self.intercept, (len(strata), 1))
        for j, offset in enumerate(self.offsets):
            total += offset[strata[:, j]]
        return total

    def response(self, design: np.ndarray | sparse.csr_array, strata: np.ndarray) -> np.ndarray:
        """Shifts from control, from treatment vectors (n, n_perturbations) and level codes; shape ``(n, n_genes)``."""
        features, design = _features(self.level_features, strata), bent(design, self.dose_response)
        total = design @ self.shift
        for k in range(features.shape[1]):
            total += features[:, [k]] * (design @ self.interaction[:, k])
        for level, table in enumerate(self.deviation):
            rows = np.flatnonzero(strata[:, self.deviation_covariate] == level)
            total[rows] += design[rows] @ table
        return total

    def pooled(self, strata: np.ndarray) -> np.ndarray:
        """Shift of every perturbation, averaged over some strata; shape ``(n_perturbations, n_genes)``."""
        total = self.shift + np.tensordot(self.interaction, _features(self.level_features, strata).mean(axis=0), (1, 0))
        for level, table in enumerate(self.deviation):
            total = total + np.mean(strata[:, self.deviation_covariate] == level) * table
        return total


def fit_mean_model(
    moments: StratumMoments,
    design: np.ndarray,
    strata: np.ndarray,
    n_levels: Sequence[int],
    residuals: Residuals | None = None,
    routes: Sequence[Route] = (None,),
    *,
    log: bool,
) -> MeanModel:
    r"""Fit the model to the moments of the training cells.

    The shift :math:`D_{xt}` of a stratum from its own control has the prior

    .. math:: D_{xt} = t^\top (s + \Phi_x B) + u_{xt} + e_{xt}, \quad B \sim N(0, \rho\, v), \quad
        u_{xt} \sim N(0, \nu\, v), \quad e_{xt} \sim N(0, (1/n_{xt} + 1/n_{x0})\, v)

    with v the variance within strata and a flat prior for s, so that the best linear prediction of a stratum that
    lacks t borrows from the strata that resemble it (kriging), as far as the data say that resemblance matters:
    :math:`\rho` and :math:`\nu` are those that best predict the responses of a covariate's level from the other
    levels. Each perturbation's effect on a gene is then shrunk in proportion to the posterior probability that there
    is none (see :func:`probability_of_effect`); a posterior mean would shrink the few large effects, too, that make a
    treatment what it is. With `residuals` of cells, deviations that the coexpression within levels foretells are added
    if they help (see :func:`fit_deviation`). Offsets are fitted to what the shifts leave.

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
    residuals
        Residuals of the training cells; None: no deviations.
    routes
        What responses travel along: regulators of a network, or None: all other genes.
    log
        Model log means (counts) rather than means.
    """
    vectors = sparse.csr_array(design.astype(np.float64))  # nearly all entries are 0
    seen = _means(moments, log=log)
    pairs = _pairs(seen, len(strata))
    dose_response, relative = fit_dose_response(pairs, vectors), vectors
    vectors = bent(vectors, dose_response)
    kriging = Kriging(pairs, split_blocks(vectors, pairs.condition), np.zeros((len(strata), 0)))
    level_features = _resemblance(kriging, seen, vectors, strata, n_levels)
    along_features = replace(kriging, features=_features(level_features, strata))
    variances = along_features.choose(strata)
    if variances.similarity:
        kriging = along_features
    else:  # responses that vary along no feature need none
        level_features = [feature[:, :0] for feature in level_features]

    deviation = None
    if residuals is not None:
        deviation = fit_deviation(kriging, variances, strata, n_levels, design.shape[1], residuals, routes)
    shift, interaction, noise = _responses(kriging, variances, seen, design.shape[1])
    table, covariate = np.zeros((0, *shift.shape), dtype=np.float32), 0
    if deviation is not None:
        table, covariate = deviation.table * np.sqrt(seen.variance).astype(np.float32), deviation.covariate
        _take_off(deviation.correction, kriging.blocks, variances, seen, shift, interaction)
        kriging = replace(kriging, pairs=pairs._replace(shift=pairs.shift - deviation.fitted))
    spread = _known(kriging.held_out_variance(strata, variances))
    unknown = np.zeros((2, spread.size))
    model = MeanModel(
        np.zeros_like(spread), [], shift, level_features, interaction, unknown, table, covariate, noise,
        np.sqrt(seen.variance), (kriging, variances), dose_response,
    )  # fmt: skip
    return _with_levels(model, spread, seen, relative, strata, n_levels)


class _Means(NamedTuple):
    """Means of the observed pairs of stratum and treatment, on the scale of the model."""

    stratum: np.ndarray
    condition: np.ndarray
    n_cells: np.ndarray
    mean: np.ndarray  # (n_rows, n_genes)
    variance: np.ndarray  # of one cell within its stratum, (n_genes,)


def _means(moments: StratumMoments, *, log: bool) -> _Means:
    stratum, condition = np.nonzero(moments.row >= 0)
    row = moments.row[stratum, condition]
    mean = moments.log_mean if log else moments.mean.astype(np.float64)
    variance = moments.log_within_variance if log else moments.within_variance.astype(np.float64)
    return _Means(stratum, condition, moments.n_cells[row].astype(np.float64), mean[row], np.maximum(variance, 1e-6))


def _pairs(seen: _Means, n_strata: int) -> Pairs:
    """Return the treated rows whose stratum has a control."""
    control_of = np.full(n_strata, -1)
    is_control = np.flatnonzero(seen.condition == 0)
    control_of[seen.stratum[is_control]] = is_control
    treated = np.flatnonzero((seen.condition > 0) & (control_of[seen.stratum] >= 0))
    control = control_of[seen.stratum[treated]]
    shift = (seen.mean[treated] - seen.mean[control]) / np.sqrt(seen.variance)
    noise = 1 / seen.n_cells[treated] + 1 / seen.n_cells[control]
    return Pairs(seen.stratum[treated], seen.condition[treated], shift, noise)


def _resemblance(
    kriging: Kriging, seen: _Means, vectors: sparse.csr_array, strata: np.ndarray, n_levels: Sequence[int]
) -> list[np.ndarray]:
    """Features of levels, from what treatments that act everywhere alike leave of the means."""
    pooled = np.zeros((vectors.shape[1], seen.variance.size))
    for members, coefficients, _, _ in kriging.fit(Variances(0.0, HETEROGENEITY[0])):
        pooled[members] = coefficients * np.sqrt(seen.variance)
    where = strata[seen.stratum]
    _, offsets = _fit_level(seen.mean - (vectors @ pooled)[seen.condition], where, n_levels, seen.n_cells)
    return _level_features(offsets, np.unique(where, axis=0))


def _responses(
    kriging: Kriging, variances: Variances, seen: _Means, n_perturbations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shifts and how they vary with the features, each less a share of what is probably no effect; and their noise."""
    sd = np.sqrt(seen.variance)
    shift = np.zeros((n_perturbations, sd.size))
    interaction = np.zeros((n_perturbations, kriging.features.shape[1], sd.size))
    noise = np.full(n_perturbations, np.inf)
    for members, coefficients, varying, sampling in kriging.fit(variances):
        probability = probability_of_effect(coefficients, np.broadcast_to(sampling[:, None], coefficients.shape))
        kept = (1 - NULL_SHRINKAGE * (1 - probability)) * sd
        shift[members] = coefficients * kept
        interaction[members] = varying * kept[:, None]
        noise[members] = sampling
    return shift, interaction, noise


def _take_off(
    corrections: list[np.ndarray],
    blocks: list[Block],
    variances: Variances,
    seen: _Means,
    shift: np.ndarray,
    interaction: np.ndarray,
) -> None:
    """Subtract in place what deviations already say of the strata that the responses were fitted to."""
    for block, correction in zip(blocks, corrections, strict=True):
        along = correction.reshape(block.members.size, 1 + interaction.shape[1], -1) * np.sqrt(seen.variance)
        shift[block.members] -= along[:, 0]
        interaction[block.members] -= along[:, 1:] * np.sqrt(variances.similarity)


def _with_levels(
    model: MeanModel,
    spread: np.ndarray,
    seen: _Means,
    vectors: sparse.csr_array,
    strata: np.ndarray,
    n_levels: Sequence[int],
) -> MeanModel:
    """Add intercept, offsets and heterogeneity, from what the responses leave; `spread` is that of the responses."""
    where = strata[seen.stratum]
    # Cells of a treatment say less about their stratum's level, the more its response deviates from the model.
    weight = seen.n_cells / np.where(seen.condition > 0, 1 + seen.n_cells * spread.mean(), 1)
    level = seen.mean - model.response(vectors[seen.condition], where)
    intercept, offsets = _fit_level(level, where, n_levels, weight)
    model = replace(model, intercept=intercept, offsets=offsets)
    control = seen.condition == 0
    residual = (seen.mean[control] - model.level(where[control])) / np.sqrt(seen.variance)
    level_spread = _known(excess_variance([(residual, 1 / seen.n_cells[control])], spread.size))
    return replace(model, heterogeneity=np.stack([level_spread, spread]))


def _known(variance: np.ndarray) -> np.ndarray:
    """Replace an unknown variance by the smallest one considered: zero would say that the model is never wrong."""
    return np.where(np.isnan(variance), HETEROGENEITY[0], variance)


def _fit_level(
    level: np.ndarray, strata: np.ndarray, n_levels: Sequence[int], weight: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Intercept and covariate offsets of levels observed with some weight."""
    intercept = np.average(level, axis=0, weights=weight)
    if not len(n_levels):
        return intercept, []
    indicator = np.concatenate([np.eye(n)[strata[:, j]] for j, n in enumerate(n_levels)], axis=1)
    stacked = Ridge(indicator, weight, LEVEL_CELLS).coefficients(level - intercept)
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
    scale = np.sqrt(max(float((singular**2).sum() / len(strata)), 1e-12))
    return [(offset - c) @ kept.T / scale for offset, c in zip(offsets, centre, strict=True)]


def _features(level_features: list[np.ndarray], strata: np.ndarray) -> np.ndarray:
    """Features of strata, shape ``(n_strata, n_features)``."""
    if not level_features:
        return np.zeros((len(strata), 0))
    return np.sum([feature[strata[:, j]] for j, feature in enumerate(level_features)], axis=0)
