r"""Predictions for Eq. 4 that tell the cells drawn from responses that nobody expected, by the genes of an arm.

An arm's mean outcome differs from what its stratum makes one expect for two reasons: the cells drawn are in other
states than the stratum's, and the treatment does something else than expected. Eq. 4 is to correct the first and leave
the second alone. A state moves many genes along directions :math:`\Lambda` that are seen within every arm; an
unexpected response moves the genes that respond. With :math:`d` the difference of an arm to its stratum, less what the
other strata's arms of this treatment make one expect,

.. math::
    d = \Lambda\delta + \varepsilon, \quad \delta \sim N(0, u I), \quad
    \varepsilon_g \sim t_4(0,\; u \psi_g + \omega_g^2), \quad u = v + v',

where :math:`v = 1/n_a - 1/n`, :math:`v'` is the same of what is expected, :math:`\psi` the variance within arms that
states do not explain, and the variance of unexpected responses depends on how much a gene responds in other strata,
:math:`\omega^2 = \sigma^2 (a + b \rho + c \rho^2)` with :math:`\rho` in units of the gene's standard deviation
:math:`\sigma` within arms. Few genes respond, and these far more than others, so errors have the tails of a t
distribution with 4 degrees of freedom (Lange, Little and Taylor, 1989): what a single gene does moves the states
little. Given the variances of errors, :math:`E[\Lambda\delta | d]`, of which the arm's own cells have the share
:math:`v / u`, is linear in :math:`d`. Applied to the residual of every cell it is a prediction whose difference
between arm and stratum is that correction (a best linear unbiased predictor; genes that do not respond act as negative
controls, as in RUV: Gagnon-Bartsch and Speed, 2012).

With :math:`W` the weights of genes in states, the correction also takes for states what it cannot tell from them, of
unexpected responses and of the error of what is expected. Its variance is added to that of the estimate, with
:math:`\omega^2` larger for genes in the tails:

.. math::
    \operatorname{diag}\left(\Lambda W \left(\operatorname{diag}(\omega^2 + v' \psi) + v' \Lambda \Lambda^\top\right)
    W^\top \Lambda^\top\right).

:math:`\Lambda` is the regression of outcomes on an encoder's latents within arms, in one pass over the cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scgraphvci.estimate._accumulate import BoolArray, FloatArray, IntArray
from scgraphvci.estimate._arm_moments import ArmMoments
from scgraphvci.estimate._expected_arms import ExpectedArms

N_REWEIGHTINGS = 5
"""Steps to the variances of errors with heavy tails."""
TAIL_DF = 4.0
"""Degrees of freedom of a gene's error: few genes respond, and these far more than the others."""
_LEAST_NOISE = 0.05  # share of a gene's variance that is never explained by states


class CellStates:
    """Gathers outcomes and latents in one pass, for :class:`StatePredictions`.

    Parameters
    ----------
    stratum
        Stratum of each cell, ``(n_cells,)``, codes from 0.
    condition
        What each cell received, ``(n_cells,)``, codes from 0.
    levels
        Codes of the covariates' levels that make up each stratum, ``(n_strata, n_covariates)``: arms of strata that
        share a level tell most of each other.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> stratum, condition = rng.integers(3, size=900), rng.integers(4, size=900)
    >>> state = rng.normal(size=(900, 1))
    >>> outcome = state + rng.normal(size=(900, 20))
    >>> cells = CellStates(stratum, condition, np.arange(3)[:, None])
    >>> cells.update(outcome, state, np.arange(900))
    >>> predicted = cells.fit().of(condition=2).predict(outcome, np.arange(900))
    >>> predicted.shape
    (900, 20)
    """

    def __init__(self, stratum: ArrayLike, condition: ArrayLike, levels: ArrayLike) -> None:
        self._arms = ArmMoments(stratum, condition)
        self._stratum, self._levels = np.asarray(stratum, dtype=np.int64), np.asarray(levels)
        self._origin: FloatArray | None = None  # a first cell, against cancellation

    def update(self, outcome: ArrayLike, latent: ArrayLike, cells: ArrayLike) -> None:
        """Add cells.

        Parameters
        ----------
        outcome
            Shape ``(batch, n_genes)``.
        latent
            Shape ``(batch, n_latent)``.
        cells
            Their positions among the cells of the constructor, ``(batch,)``.
        """
        outcome = np.asarray(outcome, dtype=np.float64)
        member, latent = self._arms.update(latent, np.asarray(cells))
        if self._origin is None:
            self._origin = outcome[0].copy()
            n_genes = outcome.shape[1]
            self._outcome, self._square = np.zeros((member.shape[0], n_genes)), np.zeros(n_genes)
            self._cross = np.zeros((n_genes, latent.shape[1]))
        outcome = outcome - self._origin
        self._outcome += member @ outcome
        self._square += np.einsum("cg,cg->g", outcome, outcome)
        self._cross += outcome.T @ latent

    def fit(self) -> StatePredictions:
        """Return predictions of every condition."""
        if self._origin is None:
            msg = "No cells were added. Call `update` first."
            raise ValueError(msg)
        arms = self._arms
        mean = self._outcome / np.maximum(arms.count, 1)[:, None]
        n_within = max(arms.n_within, 1.0)
        variance = np.maximum(self._square - np.einsum("ag,ag->g", self._outcome, mean), 0) / n_within
        loading = (self._cross - self._outcome.T @ arms.mean) / n_within @ arms.unit_directions()
        screen = ExpectedArms(arms.stratum, arms.condition, arms.count, mean, variance, self._levels)
        return StatePredictions(screen, loading, mean + self._origin, arms.of_cell, self._stratum)


class StatePredictions:
    """Predictions of cells, as differences to their strata, for all conditions.

    Made by :meth:`CellStates.fit`.
    """

    def __init__(
        self, screen: ExpectedArms, loading: FloatArray, mean: FloatArray, arm: IntArray, stratum: IntArray
    ) -> None:
        self._screen, self._loading, self._arm, self._stratum = screen, loading, arm, stratum
        self._expected = mean - (screen.difference - screen.expected)
        explained = np.einsum("gk,gk->g", loading, loading)
        self._noise = np.maximum(screen.variance - explained, _LEAST_NOISE * screen.variance)

    def of(self, condition: int) -> ConditionPredictions:
        """Predictions for the arms of one condition."""
        arms = self._screen.of(condition)
        (n_genes, n_states), n_strata = self._loading.shape, int(self._screen.stratum.max()) + 1
        weights: FloatArray = np.zeros((n_strata, n_states, n_genes))
        unexpected: FloatArray = np.zeros((n_strata, n_genes))
        known = np.zeros(n_strata, dtype=bool)
        chance_expected = self._screen.chance_expected(arms)
        difference = (self._screen.difference - self._screen.expected)[arms.arm]
        for row, x in enumerate(arms.stratum):
            known[x] = arms.seen[row].any() and arms.chance[row] > 0
            if known[x]:
                found = self._weights(difference[row], arms.seen[row], arms.chance[row], chance_expected[row])
                weights[x], unexpected[x] = found
        return ConditionPredictions(weights, self._loading, self._expected, self._arm, self._stratum, known, unexpected)

    @property
    def n_known(self) -> int:
        """Arms, of all conditions, of which other strata make one expect something."""
        return sum(int(((arms.seen != 0).any(axis=(1, 2)) & (arms.chance > 0)).sum()) for arms in self._screen.all())

    def _weights(
        self, difference: FloatArray, seen: FloatArray, chance: float, chance_expected: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the weights of genes in the states of an arm, ``(n_states, n_genes)``, and what they take for states.

        The second is a variance, ``(n_genes,)``.
        """
        # States vary as much in what is expected as for the average gene; of other genes the rest counts as noise.
        expected = float(chance_expected.mean())
        total, loading = chance + expected, self._loading
        of_expected = expected * self._noise + np.maximum(chance_expected - expected, 0) * self._screen.variance
        rho = self._screen.responding(seen[None])[0]
        response = self._screen.variance * (np.stack([np.ones_like(rho), rho, rho**2], axis=1) @ self._screen.excess)
        error = chance * self._noise + of_expected + response
        weights = _state_weights(loading, error, total)
        for _ in range(N_REWEIGHTINGS):
            left = difference - loading @ (weights @ difference)
            in_errors = np.divide(left**2, error, out=np.zeros_like(error), where=error > 0)
            spread = error * (TAIL_DF + in_errors) / (TAIL_DF + 1)
            weights = _state_weights(loading, spread, total)
        response = np.maximum(response, spread - chance * self._noise - of_expected)
        weights *= chance / total
        of_states = weights @ loading
        taken = (weights * (response + of_expected)) @ weights.T
        taken += expected * of_states @ of_states.T
        return weights, np.einsum("gk,gk->g", loading @ taken, loading)


def _state_weights(loading: FloatArray, error: FloatArray, total: float) -> FloatArray:
    """Weights of genes in the expected states of an arm, given variances of their errors, ``(n_states, n_genes)``."""
    precision = np.divide(1, error, out=np.zeros_like(error), where=error > 0)
    weighted = loading * precision[:, None]
    return np.asarray(np.linalg.solve(loading.T @ weighted + np.eye(loading.shape[1]) / total, weighted.T))


@dataclass(frozen=True)
class ConditionPredictions:
    """Predictions of cells under one condition.

    Parameters
    ----------
    weights
        Of genes in states, ``(n_strata, n_states, n_genes)``; 0 where nothing is known.
    loading
        Of genes on states, ``(n_genes, n_states)``.
    expected
        Of arms, ``(n_arms, n_genes)``.
    arm, stratum
        Of cells, ``(n_cells,)``.
    known
        Strata whose arm is corrected, ``(n_strata,)``: those with cells of the condition in another stratum, too.
    unexpected
        Variance of what the correction takes for states, ``(n_strata, n_genes)``.
    """

    weights: FloatArray
    loading: FloatArray
    expected: FloatArray
    arm: IntArray
    stratum: IntArray
    known: BoolArray
    unexpected: FloatArray

    def predict(self, outcome: ArrayLike, cells: ArrayLike) -> FloatArray:
        """Return predictions less the mean over the stratum, ``(batch, n_genes)``.

        Parameters
        ----------
        outcome
            Shape ``(batch, n_genes)``.
        cells
            Positions of the cells, ``(batch,)``.
        """
        cells = np.asarray(cells)
        residual = np.asarray(outcome, dtype=np.float64) - self.expected[self.arm[cells]]
        state = np.empty((len(cells), self.loading.shape[1]))
        for stratum in np.unique(self.stratum[cells]):
            here = self.stratum[cells] == stratum
            state[here] = residual[here] @ self.weights[stratum].T
        return state @ self.loading.T
