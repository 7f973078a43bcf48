"""Responses of a level as its own coexpression foretells them from the pooled response."""

from __future__ import annotations

import logging
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scgraphvci.data._coexpression import Coexpression
from scgraphvci.data._gene_regression import RIDGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgraphvci.data._coexpression import Residuals
    from scgraphvci.data._gene_regression import Regression, Route
    from scgraphvci.data._kriging import Block, Kriging, Variances

logger = logging.getLogger(__name__)

WORTH = 0.02  # share of the left-out error, sampling noise included, that deviations must explain to be used
WORTH_OF_SECOND = 0.002  # further share that a second kind of regression must explain
MIN_PERTURBATIONS = 3  # that one or two treatments deviate as foretold says little of others
MAX_VALUES = 250_000_000  # of the table of deviations: 1 GB


class Deviation(NamedTuple):
    """How the responses of a covariate's levels deviate from what is predicted without coexpression.

    Attributes
    ----------
    covariate
        The covariate.
    table
        Deviation in each level, in standard deviations within strata, shape ``(n_levels, n_perturbations, n_genes)``.
    correction
        What the table adds in the strata that the pooled response was fitted to, to be taken off the coefficients of
        the kriging: one row per column of each block, in the order of :meth:`Kriging.fit`.
    fitted
        What the table's terms say of each training pair, its own cells left out, shape ``(n_pairs, n_genes)``.
    """

    covariate: int
    table: np.ndarray
    correction: list[np.ndarray]
    fitted: np.ndarray


def fit_deviation(
    kriging: Kriging,
    variances: Variances,
    strata: np.ndarray,
    n_levels: Sequence[int],
    n_perturbations: int,
    residuals: Residuals,
    routes: Sequence[Route] = (None,),
) -> Deviation | None:
    r"""Fit :math:`r_t \sum_k \beta_k B_{kx}`, with r the pooled response and B regressions of genes in level x.

    If effects travel along linear regulation, :math:`r = d + r A`, then to first order the responses of two levels
    differ by :math:`r (A_x - A_{x'})`, and the coexpression of a level's cells, whatever treatment they received, tells
    of its A. B regresses each gene on all others, or on its regulators in a network; one number :math:`\beta` for all
    genes and treatments carries what measurement noise attenuates. Which of these regressions are used, with which
    weights :math:`\beta` and penalties, and the covariate whose levels differ are what best predicts the responses of a
    level from the other levels, the cells of the pair itself left out of B.

    Parameters
    ----------
    kriging, variances
        The model without deviations.
    strata
        Level codes of each stratum, shape ``(n_strata, n_covariates)``.
    n_levels, n_perturbations
        Levels of each covariate, and number of perturbations.
    residuals
        Residuals of the training cells.
    routes
        What genes are regressed on: regulators in a network, or None: all other genes.

    Returns
    -------
    None unless deviations explain at least 2 % of the error, of three perturbations or more.
    """
    best = _Candidate(0, (), 0.0)
    if sum(block.members.size for block in kriging.blocks) < MIN_PERTURBATIONS:
        return None
    for covariate, n in enumerate(n_levels):
        if n * n_perturbations * kriging.pairs.shift.shape[1] > MAX_VALUES:
            logger.warning("Covariate %d has too many levels and perturbations for deviations by level.", covariate)
            continue
        candidate = _assess(kriging, variances, strata, covariate, residuals, routes)
        best = max(best, candidate, key=lambda one: one.explained)
    if best.explained < WORTH:
        return None
    level = strata[:, best.covariate]
    coexpression = Coexpression(residuals, level, routes)
    shape = (n_levels[best.covariate], n_perturbations, kriging.pairs.shift.shape[1])
    return _tabulate(best, kriging, variances, level, coexpression, np.zeros(shape, dtype=np.float32))


class _Term(NamedTuple):
    """A regression, and what its predictions are multiplied by."""

    route: int
    penalty: float
    beta: float


class _Candidate(NamedTuple):
    covariate: int
    terms: tuple[_Term, ...]
    explained: float

    def predict(self, response: np.ndarray, regressions: Sequence[Regression]) -> np.ndarray:
        """What the regressions of a level say of responses."""
        parts = [beta * regressions[route].predict(response, penalty) for route, penalty, beta in self.terms]
        return np.sum(parts, axis=0)


def _tabulate(
    best: _Candidate,
    kriging: Kriging,
    variances: Variances,
    level_of: np.ndarray,
    coexpression: Coexpression,
    table: np.ndarray,
) -> Deviation:
    """Fill the table of deviations, and take stock of what it adds to what has been fitted."""
    fitted = np.zeros_like(kriging.pairs.shift)
    correction = []
    everywhere = [coexpression.regressions(level) for level in range(table.shape[0])]
    for block in kriging.blocks:
        travel = _Travel(coexpression, block, kriging, level_of)
        ridge = kriging.ridge(block, np.arange(block.rows.size), variances)
        pooled = kriging.pooled(ridge.coefficients(kriging.pairs.shift[block.rows]))
        fitted[block.rows] = travel.predict(pooled, best)
        correction.append(ridge.coefficients(fitted[block.rows]))
        for level, regressions in enumerate(everywhere):
            table[level, block.members] = best.predict(pooled, regressions)
    return Deviation(best.covariate, table, correction, fitted)


class _Travel:
    """Predictions of a block's pairs by the coexpression of their own level, their own cells left out."""

    def __init__(self, coexpression: Coexpression, block: Block, kriging: Kriging, level: np.ndarray) -> None:
        self.design = block.design
        of_row = np.stack([level[kriging.pairs.stratum[block.rows]], kriging.pairs.condition[block.rows]], axis=1)
        pairs, self.pair_of_row = np.unique(of_row, axis=0, return_inverse=True)
        self.pair_of_row = self.pair_of_row.ravel()
        self.regressions = [coexpression.regressions(int(x), int(t)) for x, t in pairs]

    def predict(self, pooled: np.ndarray, candidate: _Candidate) -> np.ndarray:
        """Predict from pooled responses (n_members, n_genes); shape ``(n_rows, n_genes)``."""
        response = self.design @ pooled
        out = np.empty_like(response)
        for number, regressions in enumerate(self.regressions):
            rows = np.flatnonzero(self.pair_of_row == number)
            out[rows] = candidate.predict(response[rows[:1]], regressions)
        return out


def _assess(
    kriging: Kriging,
    variances: Variances,
    strata: np.ndarray,
    covariate: int,
    residuals: Residuals,
    routes: Sequence[Route],
) -> _Candidate:
    """Choose regressions and their weights for the levels of a covariate by leaving out each level."""
    coexpression = Coexpression(residuals, strata[:, covariate], routes)
    units = [_Term(route, penalty, 1.0) for route, penalty in product(range(len(routes)), RIDGE)]
    products, gram, total = np.zeros(len(units)), np.zeros((len(units), len(units))), 0.0
    some = kriging.subset()
    for block in some.blocks:
        travel = _Travel(coexpression, block, some, strata[:, covariate])
        shift = some.pairs.shift[block.rows]
        weight = np.sqrt(1 / (some.pairs.noise[block.rows] + variances.heterogeneity))[:, None]
        for rest, group in some.left_out(block, strata[:, covariate]):
            ridge = some.ridge(block, rest, variances)
            columns = some.columns(block, group, variances)
            coefficients = ridge.coefficients(shift[rest])
            error = weight[group] * (shift[group] - columns @ coefficients)
            pooled = some.pooled(coefficients)
            features = np.empty((len(units), error.size))
            for feature, unit in zip(features, units, strict=True):
                told = travel.predict(pooled, _Candidate(covariate, (unit,), 0.0))
                feature[:] = (weight[group] * (told[group] - columns @ ridge.coefficients(told[rest]))).ravel()
            total += float((error**2).sum())
            products += features @ error.ravel()
            gram += features @ features.T
    return _choose(covariate, units, products, gram, total)


def _choose(covariate: int, units: Sequence[_Term], products: np.ndarray, gram: np.ndarray, total: float) -> _Candidate:
    """Return the best regression, or the best pair along two routes where the second route is worth it."""
    best = _Candidate(covariate, (), 0.0)
    singles = [(k,) for k in range(len(units))]
    pairs = [(j, k) for j, k in product(range(len(units)), repeat=2) if units[j].route < units[k].route]
    for kinds, worth in ((singles, 0.0), (pairs, WORTH_OF_SECOND)):
        needed = best.explained + worth
        for kind in map(list, kinds):
            square = gram[np.ix_(kind, kind)]
            if not total or np.linalg.det(square) <= 1e-9 * np.prod(np.diag(square)):  # along no or the same direction
                continue
            beta = np.linalg.solve(square, products[kind])
            explained = float(beta @ products[kind]) / total
            if beta.min() > 0 and explained > max(needed, best.explained):
                terms = tuple(units[k]._replace(beta=float(b)) for k, b in zip(kind, beta, strict=True))
                best = _Candidate(covariate, terms, explained)
    return best
