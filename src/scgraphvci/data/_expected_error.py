"""How large the errors of foretold shifts are expected to be, and conformal margins calibrated on what was left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

MIN_VARIANCE = 1e-6
MIN_SHARE = 0.1  # of a gene's left-out variance that stays whatever else makes errors large
N_REWEIGHTED = 3
RANK_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ExpectedError:
    r"""Variance of an error, :math:`\ell_i a_j + \sum_k s_k G_{ijk}`, of unit i (a treatment, a stratum) and gene j.

    Attributes
    ----------
    own
        a, variance at a leverage :math:`\ell` of 1, shape ``(n_genes,)``.
    slopes
        s, what is added for whatever else makes errors large (G), shape ``(n_extra,)``.
    usual
        Root mean square of the expected error of units left out.
    scores
        Errors of units left out over what was expected of them, absolute and in ascending order for each gene, shape
        ``(n_units, n_genes)``.
    """

    own: np.ndarray
    slopes: np.ndarray
    usual: float
    scores: np.ndarray

    def sd(self, leverage: float, extra: np.ndarray) -> np.ndarray:
        """Return the standard deviation expected of an error, from G (n_genes, n_extra); shape ``(n_genes,)``."""
        return np.sqrt(leverage * self.own + extra @ self.slopes)

    def margin(self, alpha: float, units: str) -> np.ndarray:
        """Return how many expected sd an interval reaches to either side, shape ``(n_genes,)``.

        Conformal: the score of a new unit is as likely to take any rank among those of the units left out. Between
        ranks the quantile is interpolated.

        Parameters
        ----------
        alpha
            One minus the level.
        units
            What was left out, for messages.

        Raises
        ------
        ValueError
            If so high a level cannot be had from so few units.
        """
        n = len(self.scores)
        rank = (1 - alpha) * (n + 1)
        if not 0 < alpha < 1 or rank > n + RANK_TOLERANCE:
            msg = (
                f"alpha={alpha} must be between 1 / (n + 1) = {1 / (n + 1):.3g} and 1: intervals are calibrated on n = "
                f"{n} {units}. Take a larger `alpha`."
            )
            raise ValueError(msg)
        return np.quantile(self.scores, np.clip((rank - 1) / max(n - 1, 1), 0, 1), axis=0)


def fit_expected_error(
    residual: np.ndarray, noise: np.ndarray, leverage: np.ndarray, extra: np.ndarray
) -> ExpectedError:
    """Regress squared errors of units left out on what makes them large, with non-negative slopes.

    Squares of normal errors vary as the square of their expectation: each counts by the inverse of that.

    Parameters
    ----------
    residual
        Observed less foretold, shape ``(n_units, n_genes)``.
    noise
        Sampling variance of what was observed, shape ``(n_units,)``.
    leverage
        Variance of each unit's error over that of an error at a leverage of 1, shape ``(n_units,)``.
    extra
        What else makes errors large, shape ``(n_units, n_genes, n_extra)``.
    """
    square = residual**2 - noise[:, None]
    own = (square / leverage[:, None]).mean(axis=0)
    own = np.maximum((own + own.mean()) / 2, noise.mean() / len(square) + MIN_VARIANCE)
    columns = np.concatenate([(leverage[:, None] * own)[..., None], extra], axis=2)
    flat = columns.reshape(-1, columns.shape[2])
    slopes = np.zeros(columns.shape[2])
    slopes[0] = 1.0
    for _ in range(N_REWEIGHTED):
        expected = np.maximum(columns @ slopes, MIN_SHARE * columns[..., 0]) + noise[:, None]
        weighted = flat / expected.reshape(-1, 1)
        slopes = nnls(weighted.T @ weighted, weighted.T @ (square / expected).ravel())[0]
    share, rest = max(float(slopes[0]), MIN_SHARE), slopes[1:]
    variance = columns @ np.append(share, rest)
    scores = np.sort(np.abs(residual) / np.sqrt(variance + noise[:, None]), axis=0).astype(np.float32)
    return ExpectedError(own * share, rest, float(np.sqrt(variance.mean())), scores)
