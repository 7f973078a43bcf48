"""How far arms differ from what other strata make one expect, against a fit in loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from scgraphvci.estimate._cell_states import CellStates
from scgraphvci.estimate._expected_arms import N_STEPS, ExpectedArms

LEVELS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


def draw(seed: int = 0, n_genes: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of four strata and five conditions; responses that differ between strata."""
    rng = np.random.default_rng(seed)
    stratum, condition = rng.integers(4, size=900), rng.integers(5, size=900)
    shared = rng.normal(size=(5, n_genes)) * (rng.random((5, n_genes)) < 0.3)
    own = shared * (1 + 0.5 * rng.normal(size=(4, 5, n_genes)))
    return stratum, condition, own[stratum, condition] + rng.normal(size=(900, n_genes))


def fitted(stratum: np.ndarray, condition: np.ndarray, outcome: np.ndarray) -> ExpectedArms:
    cells = CellStates(stratum, condition, LEVELS)
    cells.update(outcome, outcome[:, :2], np.arange(len(outcome)))
    return cells.fit()._screen


def test_variances_of_unexpected_responses_are_fitted_by_their_own_precision() -> None:
    """Squared differences regressed on 1, rho and rho squared, each weighted by its variance at the step before."""
    screen = fitted(*draw())
    rows = []
    for arms in screen.all():
        for row, arm in enumerate(arms.arm):
            for gene in range(screen.mean.shape[1]):
                share = screen.share[:3] + screen.share[3:] * arms.certain[row, gene]
                chance = arms.chance[row] + share @ arms.chance_seen[row] @ share
                rho = np.sqrt((arms.seen[row, gene] ** 2).mean() / screen.variance[gene])
                left = screen.difference[arm, gene] - screen.expected[arm, gene]
                rows.append((chance, rho, left**2 / screen.variance[gene]))
    chance, rho, squared = np.array(rows).T
    terms = np.stack([np.ones_like(rho), rho, rho**2], axis=1)
    found = np.full(3, 0.02)
    for _ in range(N_STEPS):
        deviation = chance + terms @ found
        found = nnls(terms / deviation[:, None], (squared - chance) / deviation)[0]
    assert found.any()
    np.testing.assert_allclose(screen.excess, found, rtol=1e-5, atol=1e-10)


@pytest.mark.filterwarnings("error")
def test_arms_whose_cells_were_not_added_do_not_count() -> None:
    """A fit to part of the cells is that of a screen of these cells, with no division by their number."""
    stratum, condition, outcome = draw()
    there = ~((stratum == 1) & (condition == 2)) & (stratum != 3)
    cells = CellStates(stratum, condition, LEVELS)
    cells.update(outcome[there], outcome[there][:, :2], np.flatnonzero(there))
    alone = CellStates(stratum[there], condition[there], LEVELS)
    alone.update(outcome[there], outcome[there][:, :2], np.arange(there.sum()))
    every = np.arange(there.sum())
    found, expected = (one.fit() for one in (cells, alone))
    for code in range(5):
        np.testing.assert_allclose(
            found.of(code).predict(outcome[there], np.flatnonzero(there)),
            expected.of(code).predict(outcome[there], every),
            atol=1e-10,
        )
