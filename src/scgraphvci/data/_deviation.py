"""Responses of a level as its own coexpression foretells them from the pooled response."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scgraphvci.data._coexpression import Coexpression
from scgraphvci.data._gene_regression import RIDGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgraphvci.data._coexpression import Residuals
    from scgraphvci.data._gene_regression import Network, Regression
    from scgraphvci.data._kriging import Block, Kriging, Variances

logger = logging.getLogger(__name__)

WORTH = 0.02  # share of the left-out error, sampling noise included, that deviations must explain to be used
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
    network: Network | None = None,
) -> Deviation | None:
    r"""Fit :math:`\beta\, r_t B_x`, with r the pooled response and B the regression of genes on one another in level x.

    If effects travel along linear regulation, :math:`r = d + r A`, then to first order the responses of two levels
    differ by :math:`r (A_x - A_{x'})`, and the coexpression of a level's cells, whatever treatment they received, tells
    of its A. One number :math:`\beta` for all genes and treatments carries what measurement noise attenuates. It, the
    penalty of the regression and the covariate whose levels differ are those that best predict the responses of a level
    from the other levels, the cells of the pair itself left out of B.

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
    network
        Regulators that each gene is regressed on; None: all other genes.

    Returns
    -------
    None unless deviations explain at least 2 % of the error, of three perturbations or more.
    """
    best = _Candidate(0, 0.0, 0.0, 0.0)
    if sum(block.members.size for block in kriging.blocks) < MIN_PERTURBATIONS:
        return None
    for covariate, n in enumerate(n_levels):
        if n * n_perturbations * kriging.pairs.shift.shape[1] > MAX_VALUES:
            logger.warning("Covariate %d has too many levels and perturbations for deviations by level.", covariate)
            continue
        candidate = _assess(kriging, variances, strata, covariate, residuals, network)
        best = max(best, candidate, key=lambda one: one.explained)
    if best.explained < WORTH:
        return None
    level = strata[:, best.covariate]
    coexpression = Coexpression(residuals, level, network)
    shape = (n_levels[best.covariate], n_perturbations, kriging.pairs.shift.shape[1])
    return _tabulate(best, kriging, variances, level, coexpression, np.zeros(shape, dtype=np.float32))


class _Candidate(NamedTuple):
    covariate: int
    penalty: float
    beta: float
    explained: float


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
    everywhere = [coexpression.regression(level) for level in range(table.shape[0])]
    for block in kriging.blocks:
        travel = _Travel(coexpression, block, kriging, level_of)
        ridge = kriging.ridge(block, np.arange(block.rows.size), variances)
        pooled = kriging.pooled(ridge.coefficients(kriging.pairs.shift[block.rows]))
        fitted[block.rows] = best.beta * travel.predict(pooled, best.penalty)
        correction.append(ridge.coefficients(fitted[block.rows]))
        for level, regression in enumerate(everywhere):
            table[level, block.members] = best.beta * regression.predict(pooled, best.penalty)
    return Deviation(best.covariate, table, correction, fitted)


class _Travel:
    """Predictions of a block's pairs by the coexpression of their own level, their own cells left out."""

    def __init__(self, coexpression: Coexpression, block: Block, kriging: Kriging, level: np.ndarray) -> None:
        self.design = block.design
        of_row = np.stack([level[kriging.pairs.stratum[block.rows]], kriging.pairs.condition[block.rows]], axis=1)
        pairs, self.pair_of_row = np.unique(of_row, axis=0, return_inverse=True)
        self.pair_of_row = self.pair_of_row.ravel()
        self.regressions: list[Regression] = [coexpression.regression(int(x), int(t)) for x, t in pairs]
        self.level = of_row[:, 0]

    def predict(self, pooled: np.ndarray, penalty: float) -> np.ndarray:
        """Predict from pooled responses (n_members, n_genes); shape ``(n_rows, n_genes)``."""
        response = self.design @ pooled
        out = np.empty_like(response)
        for number, regression in enumerate(self.regressions):
            rows = np.flatnonzero(self.pair_of_row == number)
            out[rows] = regression.predict(response[rows[:1]], penalty)
        return out


def _assess(
    kriging: Kriging,
    variances: Variances,
    strata: np.ndarray,
    covariate: int,
    residuals: Residuals,
    network: Network | None,
) -> _Candidate:
    """Choose penalty and beta for the levels of a covariate by leaving out each level."""
    coexpression = Coexpression(residuals, strata[:, covariate], network)
    products, squares, total = np.zeros(len(RIDGE)), np.zeros(len(RIDGE)), 0.0
    some = kriging.subset()
    for block in some.blocks:
        travel = _Travel(coexpression, block, some, strata[:, covariate])
        shift = some.pairs.shift[block.rows]
        weight = 1 / (some.pairs.noise[block.rows] + variances.heterogeneity)
        for rest, group in some.left_out(block, strata[:, covariate]):
            ridge = some.ridge(block, rest, variances)
            columns = some.columns(block, group, variances)
            coefficients = ridge.coefficients(shift[rest])
            error = shift[group] - columns @ coefficients
            total += float(weight[group] @ (error**2).sum(axis=1))
            for k, penalty in enumerate(RIDGE):
                told = travel.predict(some.pooled(coefficients), penalty)
                feature = told[group] - columns @ ridge.coefficients(told[rest])
                products[k] += weight[group] @ (error * feature).sum(axis=1)
                squares[k] += weight[group] @ (feature**2).sum(axis=1)
    if not total or not squares.any():
        return _Candidate(covariate, RIDGE[-1], 0.0, 0.0)
    beta = np.maximum(products, 0) / np.maximum(squares, 1e-12)
    explained = beta * products / total
    k = int(explained.argmax())
    return _Candidate(covariate, RIDGE[k], float(beta[k]), float(explained[k]))
