"""What strata make one expect of each other's arms, and how far arms differ from it: see `_cell_states`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from scgraphvci.estimate._accumulate import FloatArray, IntArray, membership

N_CENTRINGS = 3
"""Times that strata are centred on their cells less what is expected of their arms."""
N_STEPS = 8


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


class ExpectedArms:
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
