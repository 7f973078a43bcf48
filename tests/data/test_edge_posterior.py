from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from scgraphvci.data._edge_posterior import (
    LOG_SLOPE,
    LOGIT_MISSED,
    LOGIT_REAL,
    MIDPOINT,
    EdgePosterior,
    edge_posterior,
)

GRID = np.array([0.0, 2.0, 4.0, 6.0, 8.0])
NONE = np.empty(0)


def tilted(rng: np.random.Generator, n_false: int, n_real: int) -> tuple[np.ndarray, np.ndarray]:
    """Gamma(2) of rates 2 and 1: densities whose ratio is exp(E) / 4. Evidence, and whether real."""
    evidence = np.concatenate([rng.gamma(2.0, 0.5, n_false), rng.gamma(2.0, 1.0, n_real)])
    return evidence, np.repeat([False, True], [n_false, n_real])


def separate(rng: np.random.Generator, n_false: int, n_real: int) -> tuple[np.ndarray, np.ndarray]:
    """Hardly any overlap, and a ratio of densities that is not log-linear."""
    evidence = np.concatenate([rng.exponential(0.7, n_false), rng.normal(6.0, 0.7, n_real)])
    return evidence, np.repeat([False, True], [n_false, n_real])


def confidence(fit: EdgePosterior, within: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return expit(fit.slope * within + fit.within), expit(fit.slope * outside + fit.outside)


@pytest.mark.parametrize("seed", range(3))
def test_recovers_a_tilted_mixture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (within, _), (outside, _) = tilted(rng, 2400, 1600), tilted(rng, 39_200, 800)
    fit = edge_posterior(within, outside)
    found, added = confidence(fit, within, outside)
    true = expit(logit(0.4) + within - np.log(4))
    assert np.abs(found - true).mean() < 0.04
    assert abs(found.mean() - 0.4) < 0.03  # 1 - pi0
    true = expit(logit(0.02) + outside - np.log(4))
    assert np.abs(added - true).mean() < 0.01 and abs(added.mean() - 0.02) < 0.005


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_recovers_pi0_where_groups_separate(share: float) -> None:
    rng = np.random.default_rng(0)
    n_real = int(1000 * share)
    (within, real), (outside, extra) = separate(rng, 1000 - n_real, n_real), separate(rng, 9800, 200)
    found, added = confidence(edge_posterior(within, outside), within, outside)
    assert abs(found.mean() - share) < 0.02 and abs(added.mean() - 0.02) < 0.005
    assert ((found > 0.5) == real).mean() > 0.98 and ((added > 0.5) == extra).mean() > 0.99


@pytest.mark.parametrize("n", [200, 5000])
def test_nothing_is_believed_where_the_prior_is_random(n: int) -> None:
    """A tenth of all pairs share a cause, which raises their evidence as far as that of real edges."""
    rng = np.random.default_rng(0)
    (within, _), (outside, _) = separate(rng, n - n // 10, n // 10), separate(rng, 9 * n, n)
    found, added = confidence(edge_posterior(within, outside), within, outside)
    assert found.mean() < 0.05 and added.mean() < 0.005


def test_equals_unbinned_maximum_by_another_optimiser() -> None:
    rng = np.random.default_rng(0)
    (within, _), (outside, _) = tilted(rng, 200, 150), tilted(rng, 3000, 60)
    evidence, listed = np.concatenate([within, outside]), np.repeat([1.0, 0.0], [len(within), len(outside)])
    centre, sd = np.transpose([MIDPOINT, LOG_SLOPE, LOGIT_MISSED, LOGIT_REAL])

    def shares(parameters: np.ndarray) -> tuple[np.ndarray, float, float]:
        real = expit(np.exp(parameters[1]) * (evidence - parameters[0]))
        r1 = 1 - expit(parameters[2]) * (1 - listed.mean())
        return real, (listed.mean() - real.mean() * r1) / (1 - real.mean()), r1

    def cost(parameters: np.ndarray) -> float:
        real, r0, r1 = shares(parameters)
        chance = r0 * (1 - real) + r1 * real
        likelihood = np.where(listed == 1, chance, 1 - chance)
        share = (r1 * real / chance)[listed == 1].mean()
        known = np.array([*parameters, np.log(share / (1 - share))])
        return (((known - centre) / sd) ** 2).sum() / 2 - np.log(likelihood).sum()

    best = minimize(cost, [4.0, 0.0, -0.8], method="BFGS")
    real, r0, r1 = shares(best.x)
    expected = real * np.where(listed == 1, r1 / (r0 + (r1 - r0) * real), (1 - r1) / (1 - r0 - (r1 - r0) * real))
    found = np.concatenate(confidence(edge_posterior(within, outside), within, outside))
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize(
    ("within", "outside"),
    [
        # Evidence of 0 is never enough, and of 8 always, where pairs are too few or too alike to say otherwise.
        (NONE, NONE),
        (np.linspace(0, 8, 10), NONE),
        (NONE, np.linspace(0, 2, 100)),
        (np.zeros(20), np.zeros(200)),
        (np.full(10, 6.0), np.linspace(0, 1.5, 100)),
        (np.linspace(5, 7, 300), np.linspace(0, 3, 5000)),  # all listed ones real
        (np.full(5, 40.0), np.full(5, 39.0)),
    ],
    ids=["nothing", "no others", "no prior", "no evidence", "ten edges", "all real", "huge"],
)
def test_extremes(within: np.ndarray, outside: np.ndarray) -> None:
    fit = edge_posterior(within.astype(np.float32), outside.astype(np.float32))
    assert np.isfinite(fit).all() and fit.slope > 0 and fit.within >= fit.outside
    found = expit(fit.within + fit.slope * GRID)
    assert found[0] < 0.5 and found[-1] > 0.7
    assert edge_posterior(within[::-1].astype(np.float32), outside.astype(np.float32)) == fit


def test_reversed_evidence_is_not_believed() -> None:
    rng = np.random.default_rng(0)
    fit = edge_posterior(rng.exponential(0.5, 300), rng.exponential(1.7, 5000))
    assert fit.slope > 0 and expit(fit.within + 4 * fit.slope) < 0.1
