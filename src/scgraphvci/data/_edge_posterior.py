"""From evidence for edges to the probability that they are real, learned from how evidence differs by the prior."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

N_BINS = 512
SMALLEST = 1e-6
# Normal priors, mean and standard deviation. They decide where pairs are too few, or evidence is too weak, to tell.
MIDPOINT = 3.0, 2.0  # evidence at which half of the candidates are real; |T| = 4.4 alone gives 3
LOG_SLOPE = float(np.log(1.2)), 0.5
LOGIT_MISSED = float(logit(0.3)), 0.4  # what the prior misses of real edges, over what it leaves out of all candidates
LOGIT_REAL = 0.0, 1.0  # share of real ones among the prior's edges


class EdgePosterior(NamedTuple):
    """Log odds that an edge is real, linear in its evidence.

    Attributes
    ----------
    slope
        Log odds per unit of evidence, above 0.
    within, outside
        Log odds at no evidence, of pairs in the prior and of others.
    """

    slope: float
    within: float
    outside: float


def edge_posterior(within: np.ndarray, outside: np.ndarray) -> EdgePosterior:
    r"""Calibrate evidence: how much of it makes an edge real more likely than not.

    Candidates are of two groups, false and real, whose evidence E has densities :math:`f_0` and :math:`f_1`, in the
    prior and outside of it alike, and :math:`f_1 / f_0` is log-linear in E. So the share of real ones among candidates
    with evidence E is :math:`s(E) = \mathrm{sigmoid}(\beta (E - \mu))`. The prior lists a share :math:`\rho_0` of the
    false and :math:`\rho_1` of the real candidates. Which pairs it lists is known, and

    .. math::
        P(\text{listed} \mid E) = \rho(E) = \rho_0 + (\rho_1 - \rho_0)\, s(E), \quad
        P(\text{real} \mid E, \text{listed}) = s(E) \frac{\rho_1}{\rho(E)}, \quad
        P(\text{real} \mid E, \text{not listed}) = s(E) \frac{1 - \rho_1}{1 - \rho(E)}.

    The latter two are one less the local false discovery rate within and outside the prior, with the null of the one
    in the other. False pairs that many share, through a common cause say, are listed no more often than others and so
    count as null.

    Parameters
    ----------
    within, outside
        Evidence of pairs in the prior, and of the other candidates; not negative. Either may be empty.

    Notes
    -----
    With :math:`\pi` the share of candidates that is listed and q the mean of s, :math:`(1-q) \rho_0 + q \rho_1 = \pi`
    gives :math:`\rho_0`, at least half a pair, and :math:`\rho_1 = 1 - m (1 - \pi)`: of real edges the prior misses m
    times what a random network of its size would. :math:`\mu, \beta, m` maximise the likelihood of what is listed, in a
    histogram of the evidence, times weak normal priors of :math:`\mu`, :math:`\log \beta`, logit m and of the logit of
    the share of real ones in the prior, :math:`q \rho_1 / \pi`. Without the last one, real edges with no more evidence
    than false ones would count as false, which drives that share to 0 where evidence is weak. m is known well only
    where evidence singles out edges nearly all of which are real.

    The groups and the rate are those of Efron, J. Am. Stat. Assoc. 99:96 (2004) and Stat. Sci. 23:1 (2008); learning
    from listed and unlisted examples follows Elkan and Noto, KDD 2008, where :math:`\rho_0 = 0`; two mixtures of the
    same two densities are told apart as in Scott, Blanchard and Handy, COLT 2013.
    """
    top = max((float(x.max()) for x in (within, outside) if len(x)), default=0.0)
    edges = np.linspace(0.0, max(top, 1.0), N_BINS + 1)
    counts = _Counts(
        (edges[1:] + edges[:-1]) / 2,
        np.histogram(within, edges)[0].astype(np.float64),
        np.histogram(outside, edges)[0].astype(np.float64),
    )
    # Where little is real the cost has several dips: start in the lowest on a grid.
    grid = [
        np.array([midpoint, LOG_SLOPE[0] + step, LOGIT_MISSED[0]])
        for midpoint in np.linspace(0.0, edges[-1] + 4.0, 25)
        for step in (-1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    start = min(grid, key=counts.cost)
    options = {"xatol": 1e-4, "fatol": 1e-6, "maxiter": 2000}
    best = minimize(counts.cost, start, method="Nelder-Mead", options=options).x
    _, false_listed, real_listed = counts.shares(best)
    midpoint, slope = float(best[0]), float(np.exp(best[1]))
    return EdgePosterior(
        slope=slope,
        within=float(np.log(real_listed / false_listed)) - slope * midpoint,
        outside=float(np.log1p(-real_listed) - np.log1p(-false_listed)) - slope * midpoint,
    )


class _Counts(NamedTuple):
    """Number of pairs by evidence."""

    evidence: np.ndarray
    within: np.ndarray
    outside: np.ndarray

    def shares(self, parameters: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Share of real ones by evidence, and share of false and of real ones that is listed."""
        midpoint, log_slope, logit_missed = parameters
        number = self.within + self.outside
        total = max(number.sum(), 1.0)
        listed = self.within.sum() / total
        real = expit(np.exp(log_slope) * (self.evidence - midpoint))
        mean = (number @ real) / total
        half = 0.5 / (total + 1.0)
        real_listed = np.clip(1 - expit(logit_missed) * (1 - listed), half, 1 - half)
        false_listed = np.clip((listed - mean * real_listed) / max(1 - mean, half), half, real_listed)
        return real, float(false_listed), float(real_listed)

    def cost(self, parameters: np.ndarray) -> float:
        """Minus the log posterior."""
        real, false_listed, real_listed = self.shares(parameters)
        listed = false_listed + (real_listed - false_listed) * real
        fit = self.within @ np.log(listed) + self.outside @ np.log1p(-listed)
        share = 0.5
        if self.within.any():
            share = float(self.within @ (real * real_listed / listed) / self.within.sum())
        found = np.append(parameters, logit(np.clip(share, SMALLEST, 1 - SMALLEST)))
        mean, sd = np.transpose([MIDPOINT, LOG_SLOPE, LOGIT_MISSED, LOGIT_REAL])
        return float(0.5 * (((found - mean) / sd) ** 2).sum() - fit)
