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

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from scgraphvci.estimate._accumulate import BoolArray, FloatArray, IntArray, membership
from scgraphvci.estimate._arm_variance import NEGLIGIBLE

N_CENTRINGS = 3
"""Times that strata are centred on their cells less what is expected of their arms."""
N_STEPS = 8
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
        self._stratum = np.asarray(stratum, dtype=np.int64)
        self._condition = np.asarray(condition, dtype=np.int64)
        self._levels = np.asarray(levels)
        n_conditions = int(self._condition.max(initial=0)) + 1
        pairs, self._arm = np.unique(self._stratum * n_conditions + self._condition, return_inverse=True)
        self._pairs = np.divmod(pairs, n_conditions)
        self._count: FloatArray = np.zeros(len(pairs))
        self._origin: tuple[FloatArray, FloatArray] | None = None  # a first cell, against cancellation

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
        outcome, latent = np.asarray(outcome, dtype=np.float64), np.asarray(latent, dtype=np.float64)
        if self._origin is None:
            self._origin = outcome[0].copy(), latent[0].copy()
            n_genes, n_latent = outcome.shape[1], latent.shape[1]
            self._outcome, self._latent = np.zeros((len(self._count), n_genes)), np.zeros((len(self._count), n_latent))
            self._square, self._cross = np.zeros(n_genes), np.zeros((n_genes, n_latent))
            self._second = np.zeros((n_latent, n_latent))
        outcome, latent = outcome - self._origin[0], latent - self._origin[1]
        member = membership(self._arm[np.asarray(cells)], len(self._count)).astype(np.float64)
        self._count += member.sum(axis=1)
        self._outcome += member @ outcome
        self._latent += member @ latent
        self._square += np.einsum("cg,cg->g", outcome, outcome)
        self._cross += outcome.T @ latent
        self._second += latent.T @ latent

    def fit(self) -> StatePredictions:
        """Return predictions of every condition."""
        if self._origin is None:
            msg = "No cells were added. Call `update` first."
            raise ValueError(msg)
        count = np.maximum(self._count, 1)[:, None]
        mean, latent = self._outcome / count, self._latent / count
        n_within = max(self._count.sum() - (self._count > 0).sum(), 1)
        variance = np.maximum(self._square - np.einsum("ag,ag->g", self._outcome, mean), 0) / n_within
        spread, direction = np.linalg.eigh((self._second - self._latent.T @ latent) / n_within)
        used = spread > max(NEGLIGIBLE * spread[-1], np.finfo(float).tiny)
        covariance = (self._cross - self._outcome.T @ latent) / n_within
        loading = covariance @ (direction[:, used] / np.sqrt(spread[used]))
        screen = _Screen(*self._pairs, self._count, mean, variance, self._levels)
        return StatePredictions(screen, loading, mean + self._origin[0], self._arm, self._stratum)


@dataclass(frozen=True)
class Arms:
    """Arms of one condition.

    Parameters
    ----------
    arm
        Their positions among all arms, ``(n,)``.
    stratum
        Their strata, ``(n,)``.
    seen
        What the other strata's arms show, ``(n, n_genes, n_features)``.
    certain
        How far that is beyond chance, ``(n, n_genes, n_features)``: ``max(1 - 4 / t**2, 0)`` with t in standard errors.
    chance, chance_seen
        Variance by chance of a difference to the stratum, in units of that within arms, ``(n,)``; and of each feature's
        combination, as sums over arms, ``(n, n_features, n_features)``.
    """

    arm: IntArray
    stratum: IntArray
    seen: FloatArray
    certain: FloatArray
    chance: FloatArray
    chance_seen: FloatArray

    @property
    def features(self) -> FloatArray:
        """What is seen, and the same as far as it is beyond chance, ``(n, n_genes, 2 * n_features)``."""
        return np.concatenate([self.seen, self.seen * self.certain], axis=2)


class _Screen:
    """Means of all arms, and what strata make one expect of each other.

    Strata are centred on their cells less what is expected of their arms. The expected difference of an arm to its
    stratum is a combination, the same for all arms, of weighted means over the other strata's arms: over all of them,
    and over those that share the level of each covariate, each as it is and as far as it is beyond chance. Most genes
    do not respond, and what is seen of these is to count less than a large response.
    """

    def __init__(
        self,
        stratum: IntArray,
        condition: IntArray,
        count: FloatArray,
        mean: FloatArray,
        variance: FloatArray,
        levels: IntArray,
    ) -> None:
        self.stratum, self.condition, self.count, self.mean, self.variance = stratum, condition, count, mean, variance
        self._kin = _kinship(levels)
        self._to_stratum = membership(stratum, int(stratum.max()) + 1).astype(np.float64)
        n_cells = self._to_stratum @ count
        self.chance = 1 / np.maximum(count, 1) - 1 / np.maximum(n_cells, 1)[stratum]
        self.precision = np.divide(1, variance, out=np.zeros_like(variance), where=variance > 0)
        self.expected: FloatArray = np.zeros_like(mean)
        self.share: FloatArray = np.zeros(2 * len(self._kin))
        for _ in range(N_CENTRINGS):
            self._centre()
            self._expect()
        self._centre()
        self.excess = self._excess()

    def of(self, condition: int) -> Arms:
        """Arms of one condition that have cells, and what other strata show of them."""
        arm = np.flatnonzero((self.condition == condition) & (self.count > 0))
        stratum = self.stratum[arm]
        weight = self._kin[:, stratum[:, None], stratum] * self.count[arm]  # features x arms x other arms
        weight /= np.maximum(weight.sum(axis=2, keepdims=True), 1)
        seen = np.einsum("fab,bg->agf", weight, self.difference[arm])
        chance_seen = np.einsum("fab,hab,b->afh", weight, weight, self.chance[arm])
        variance = np.einsum("aff->af", chance_seen)[:, None] * self.variance[:, None]
        squared = seen**2
        certain = np.maximum(1 - np.divide(4 * variance, squared, out=np.ones_like(seen), where=squared > 0), 0)
        return Arms(arm, stratum, seen, certain, self.chance[arm], chance_seen)

    def all(self) -> Iterator[Arms]:
        """Arms of each condition."""
        for condition in np.unique(self.condition):
            yield self.of(int(condition))

    def responding(self, seen: FloatArray) -> FloatArray:
        """How much genes respond in other strata, in standard deviations, ``(n, n_genes)``."""
        return np.sqrt((seen**2).mean(axis=2) * self.precision)

    def _centre(self) -> None:
        total = self._to_stratum @ ((self.mean - self.expected) * self.count[:, None])
        centre = total / np.maximum(self._to_stratum @ self.count, 1)[:, None]
        self.difference = self.mean - centre[self.stratum]

    def _expect(self) -> None:
        """Regress arms on what other strata show of them, genes and arms weighted by their precision."""
        gram, moment = np.zeros((len(self.share),) * 2), np.zeros(len(self.share))
        for arms in self.all():
            weight, features = self.count[arms.arm, None] * self.precision, arms.features
            gram += np.einsum("ag,agf,agh->fh", weight, features, features, optimize=True)
            moment += np.einsum("ag,agf,ag->f", weight, features, self.difference[arms.arm], optimize=True)
        self.share = _nonnegative(gram, moment)
        for arms in self.all():
            self.expected[arms.arm] = arms.features @ self.share

    def _excess(self) -> FloatArray:
        """Coefficients of the variance of unexpected responses on 1, rho and rho squared, by Fisher scoring."""
        found = np.full(3, 0.02)
        for _ in range(N_STEPS):
            gram, moment = np.zeros((3, 3)), np.zeros(3)
            for arms in self.all():
                known = np.flatnonzero((arms.seen != 0).any(axis=(1, 2)) & (self.count[arms.arm] > 1))
                rho = self.responding(arms.seen[known])
                by_chance = (arms.chance[:, None] + self.chance_expected(arms))[known]
                squared = (self.difference - self.expected)[arms.arm[known]] ** 2 * self.precision
                terms = np.stack([np.ones_like(rho), rho, rho**2])
                weight = (self.precision > 0) / np.maximum(by_chance + np.tensordot(found, terms, 1), 1e-12) ** 2
                gram += np.einsum("ag,fag,hag->fh", weight, terms, terms, optimize=True)
                moment += np.einsum("ag,fag,ag->f", weight, terms, squared - by_chance, optimize=True)
            found = _nonnegative(gram, moment)
        return found

    def chance_expected(self, arms: Arms) -> FloatArray:
        """Variance by chance of what is expected of arms, in units of that within arms, ``(n, n_genes)``."""
        plain, beyond = np.split(self.share, 2)
        share = plain + beyond * arms.certain
        return np.einsum("agf,afh,agh->ag", share, arms.chance_seen, share, optimize=True)


class StatePredictions:
    """Predictions of cells, as differences to their strata, for all conditions.

    Made by :meth:`CellStates.fit`.
    """

    def __init__(
        self, screen: _Screen, loading: FloatArray, mean: FloatArray, arm: IntArray, stratum: IntArray
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


def _kinship(levels: IntArray) -> FloatArray:
    """Which other strata count in each feature, all and those sharing a level, ``(n_features, n_strata, n_strata)``."""
    others = ~np.eye(len(levels), dtype=bool)
    shared = [(column[:, None] == column) & others for column in levels.T]
    informative = [kin for kin in shared if kin.any() and not (kin == others).all()]
    return np.stack([others, *informative]).astype(np.float64)


def _nonnegative(gram: FloatArray, moment: FloatArray) -> FloatArray:
    """Least squares with coefficients of at least 0, from normal equations."""
    scale = np.sqrt(np.diag(gram))
    used = scale > 0
    found = np.zeros(len(moment))
    if used.any():
        scale = scale[used]
        values, vectors = np.linalg.eigh(gram[np.ix_(used, used)] / np.outer(scale, scale))
        root = np.sqrt(np.maximum(values, np.finfo(float).eps * values[-1]))
        found[used] = nnls((vectors * root).T, (vectors / root).T @ (moment[used] / scale))[0] / scale
    return found
