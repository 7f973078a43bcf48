"""Errors of responses foretold in strata where a treatment was never measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scgraphvci.data._expected_error import ExpectedError, fit_expected_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgraphvci.data._kriging import Kriging, Variances

MAX_VALUES = 4_000_000  # errors of pairs that were left out: 16 MB in a saved model, per covariate
WHOLE = -1  # a stratum as a whole: each of its levels is known, but not together


@dataclass(frozen=True)
class StrataErrors:
    """How far foretold responses of strata are expected to be off, calibrated on strata that were measured.

    Attributes
    ----------
    met
        Whether a perturbation was measured in a stratum beside control, shape ``(n_strata, n_perturbations)``.
    leverage
        Variance of the error there over that at a leverage of 1, the same shape; NaN for perturbations never measured.
    strata
        Level codes of each stratum, shape ``(n_strata, n_covariates)``.
    errors
        Expected errors by the covariate whose level is new to the treatment; ``-1`` where only the combination is.
    scale
        Standard deviations within strata, shape ``(n_genes,)``.
    """

    met: np.ndarray
    leverage: np.ndarray
    strata: np.ndarray
    errors: dict[int, ExpectedError]
    scale: np.ndarray

    def new_covariate(self, stratum: int, perturbation: int) -> int:
        """Return the first covariate whose level of a stratum a perturbation never met; -1 if it met each of them."""
        for j, level in enumerate(self.strata[stratum]):
            if not self.met[self.strata[:, j] == level, perturbation].any():
                return j
        return WHOLE

    def sd(self, stratum: int, perturbation: int, shift: np.ndarray) -> np.ndarray:
        """Return the expected sd of the error of a shift (n_genes,), on the outcome's scale."""
        errors = self.errors[self.new_covariate(stratum, perturbation)]
        surprises = (shift / self.scale)[:, None] ** 2
        return errors.sd(float(self.leverage[stratum, perturbation]), surprises) * self.scale

    def margin(self, stratum: int, perturbation: int, alpha: float) -> np.ndarray:
        """Return how many expected sd an interval reaches to either side, see :meth:`ExpectedError.margin`."""
        return self.errors[self.new_covariate(stratum, perturbation)].margin(
            alpha, "pairs of a treatment and a stratum that were measured"
        )

    def to_state(self) -> dict[str, Any]:
        """Return plain data, to be saved."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> StrataErrors:
        """Rebuild it from what `to_state` returned."""
        errors = {int(key): ExpectedError(**value) for key, value in state["errors"].items()}
        return cls(**{**state, "errors": errors})


def fit_strata_errors(
    kriging: Kriging, variances: Variances, strata: np.ndarray, n_perturbations: int, scale: np.ndarray
) -> StrataErrors:
    """Foretell the measured strata of every treatment from its other strata, and learn how large errors are.

    Each level of each covariate is left out in turn, and each stratum as a whole. The null shrinkage of responses
    (:func:`scgraphvci.data._mean_model.fit_mean_model`) is left out: it is small beside these errors.

    Parameters
    ----------
    kriging, variances
        The regression of responses on treatments and features of strata, deviations taken off.
    strata
        Level codes of each stratum, shape ``(n_strata, n_covariates)``.
    n_perturbations
        Number of perturbations.
    scale
        Standard deviations within strata, shape ``(n_genes,)``.
    """
    met = np.zeros((len(strata), n_perturbations), dtype=bool)
    leverage = np.full(met.shape, np.nan, dtype=np.float32)
    for block in kriging.blocks:
        present = np.zeros((len(strata), block.members.size), dtype=bool)
        np.logical_or.at(present, kriging.pairs.stratum[block.rows], block.design != 0)
        met[:, block.members] |= present
        inverse = np.linalg.inv(kriging.ridge(block, np.arange(block.rows.size), variances).gram)
        for position, member in enumerate(block.members):
            alone = np.zeros(block.members.size)
            alone[position] = 1.0
            columns = kriging.crossed(np.tile(alone, (len(strata), 1)), np.arange(len(strata)), variances)
            leverage[:, member] = _leverage(columns, inverse, variances)
    columns_of = dict(enumerate(strata.T))
    if strata.shape[1] > 1:
        columns_of[WHOLE] = np.arange(len(strata))
    errors = {}
    for key, column in columns_of.items():
        found = _left_out(kriging, variances, column)
        if found is not None:
            errors[key] = fit_expected_error(*found)
    return StrataErrors(met, leverage, strata, errors, scale)


def _leverage(columns: np.ndarray, inverse: np.ndarray, variances: Variances) -> np.ndarray:
    """Posterior variance of a response, and what nothing foretells of it, over the latter."""
    return 1 + np.einsum("nk,kl,nl->n", columns, inverse, columns) / variances.heterogeneity


def _left_out(
    kriging: Kriging, variances: Variances, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Residuals of pairs left out by a level, their noise, leverage and squared prediction; None if there are none."""
    residual, noise, leverage, square = [], [], [], []
    size = len(kriging.pairs.noise) * kriging.pairs.shift.shape[1]
    for block in kriging.blocks[:: max(1, -(-size // MAX_VALUES))]:
        for rest, group in kriging.left_out(block, column):
            ridge = kriging.ridge(block, rest, variances)
            columns = kriging.columns(block, group, variances)
            foretold = columns @ ridge.coefficients(kriging.pairs.shift[block.rows[rest]])
            residual.append(kriging.pairs.shift[block.rows[group]] - foretold)
            noise.append(kriging.pairs.noise[block.rows[group]])
            leverage.append(_leverage(columns, np.linalg.inv(ridge.gram), variances))
            square.append(foretold[..., None] ** 2)
    if not residual:
        return None
    return np.concatenate(residual), np.concatenate(noise), np.concatenate(leverage), np.concatenate(square)
