from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scgraphvci.data import _coexpression, cell_residuals, stratum_moments
from scgraphvci.data._coexpression import MIN_SCALE, Coexpression
from scgraphvci.data._gene_regression import Network

N_CELLS, N_GENES, N_STRATA, N_CONDITIONS = 80, 9, 3, 3
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.uniform(0.5, 5, N_GENES), (N_CELLS, N_GENES)).astype(np.float32)
STRATUM, CONDITION = RNG.integers(N_STRATA, size=N_CELLS), RNG.integers(N_CONDITIONS, size=N_CELLS)
CELLS = np.sort(RNG.choice(N_CELLS, 60, replace=False))
LIBRARY = RNG.uniform(5, 50, N_CELLS)


def residuals(matrix=COUNTS, stratum=STRATUM, cells=CELLS, library=None, **kwargs):
    where = (matrix, stratum, CONDITION)
    moments = stratum_moments(*where, N_STRATA, N_CONDITIONS, cells, library)
    return cell_residuals(*where, moments, cells, library, **kwargs)


def naive(values, stratum=STRATUM, cells=CELLS):
    """Residuals by cell, NaN for cells alone in their stratum and treatment: unbiased, pooled deviations."""
    out, within = np.full((N_CELLS, N_GENES), np.nan), 0.0
    for x in range(N_STRATA):
        for t in range(N_CONDITIONS):
            mine = cells[(stratum[cells] == x) & (CONDITION[cells] == t)]
            if mine.size:
                deviation = values[mine] - values[mine].mean(axis=0)
                within = within + (deviation**2).sum(axis=0)
            if mine.size > 1:
                out[mine] = deviation * np.sqrt(mine.size / (mine.size - 1))
    return out / (np.sqrt(within / cells.size) + MIN_SCALE)


def back(found):
    """Residuals of genes, from coordinates along axes."""
    return found.score @ found.axes.T


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_array])
@pytest.mark.parametrize("library", [None, LIBRARY])
def test_residuals_equal_a_naive_computation(kind, library):
    scaled = COUNTS if library is None else COUNTS * np.median(LIBRARY[CELLS]) / LIBRARY[:, None]
    found = residuals(kind(COUNTS), library=library)
    np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(N_GENES), atol=1e-5)
    np.testing.assert_allclose(back(found), naive(scaled.astype(np.float64))[CELLS], atol=1e-4)
    np.testing.assert_array_equal(found.stratum, STRATUM[CELLS])
    np.testing.assert_array_equal(found.condition, CONDITION[CELLS])


def test_blocks_of_cells_do_not_matter(monkeypatch):
    expected = residuals()
    monkeypatch.setattr("scgraphvci.data._moments.BLOCK_VALUES", 7 * N_GENES)
    found = residuals()
    np.testing.assert_allclose(back(found), back(expected), atol=1e-5)


def test_leading_axes_hold_most_of_the_variance():
    full, found = naive(COUNTS)[CELLS], residuals(n_axes=3)
    assert found.axes.shape == (N_GENES, 3)
    kept = np.linalg.svd(full, compute_uv=False)[:3]
    np.testing.assert_allclose((found.score**2).sum(), (kept**2).sum(), rtol=1e-3)


def test_cells_alone_are_left_out():
    stratum = STRATUM.copy()
    alone = CELLS[[5, 20]]
    stratum[alone] = 2
    elsewhere = (stratum == 2) & ~np.isin(np.arange(N_CELLS), alone)
    stratum[elsewhere] = 0
    chosen = CONDITION[alone]
    assert chosen[0] != chosen[1]
    found = residuals(stratum=stratum)
    assert found.score.shape[0] == CELLS.size - 2
    assert not (found.stratum == 2).any()
    np.testing.assert_allclose(back(found), naive(COUNTS, stratum)[np.setdiff1d(CELLS, alone)], atol=1e-4)


def test_many_cells_are_subsampled(monkeypatch):
    monkeypatch.setattr(_coexpression, "MAX_CELLS", 25)
    first, second = residuals(), residuals()
    assert first.score.shape[0] <= 25
    np.testing.assert_array_equal(first.score, second.score)
    # Cells that are kept have the residuals they have among all.
    everyone = naive(COUNTS)[CELLS]
    for row in back(first):
        assert np.abs(everyone - row).max(axis=1).min() < 1e-4


def test_axes_of_a_sample_of_the_cells(monkeypatch):
    monkeypatch.setattr(_coexpression, "AXES_VALUES", 1)
    found = residuals(n_axes=4)
    assert found.score.shape == (60, 4)
    np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(found.score, naive(COUNTS)[CELLS] @ found.axes, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_cells(n):
    cells = CELLS[:n]
    zeros = np.zeros(N_CELLS, int)
    moments = stratum_moments(COUNTS, zeros, zeros, 1, 1, cells)
    found = cell_residuals(COUNTS, zeros, zeros, moments, cells)
    assert found.score.shape[0] == (n if n > 1 else 0)
    assert np.isfinite(found.score).all()
    assert np.isfinite(found.axes).all()
    regression = Coexpression(found, np.zeros(1, int)).regressions(0, without=0)[0]
    np.testing.assert_allclose(regression.predict(np.ones((1, N_GENES)), 1.0), 0, atol=1e-6)


def test_genes_that_do_not_vary():
    constant = np.concatenate([COUNTS[:, :2], np.full((N_CELLS, 2), 3.0, np.float32)], axis=1)
    found = residuals(constant)
    np.testing.assert_allclose(back(found)[:, 2:], 0, atol=1e-3)
    predicted = Coexpression(found, np.arange(N_STRATA)).regressions(0)[0].predict(np.ones((1, 4)), 1.0)
    np.testing.assert_allclose(predicted[0, 2:], 0, atol=1e-3)


LEVEL = np.array([1, 0, 1])  # of the three strata
NETWORK = Network(np.array([[0, 1, 2], [3, 3, 4]]), np.ones(3))


@pytest.mark.parametrize("network", [None, NETWORK])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("without", [None, 0, 2])
def test_regression_without_a_condition_is_that_of_the_other_cells(network, level, without):
    """But for the penalty, which stays that of as many cells as the level has."""
    found, response = residuals(), RNG.normal(size=(2, N_GENES))
    here = LEVEL[found.stratum] == level
    rest = here if without is None else here & (found.condition != without)
    cells, penalty = back(found)[rest].astype(np.float64), 3.0 * here.sum()
    predicted = Coexpression(found, LEVEL, [network]).regressions(level, without)[0].predict(response, 3.0)
    for gene in range(N_GENES):
        told = (
            np.setdiff1d(range(N_GENES), gene)
            if network is None
            else NETWORK.edge_index[0][NETWORK.edge_index[1] == gene]
        )
        x = cells[:, told]
        coefficients = np.linalg.solve(x.T @ x + penalty * np.eye(told.size), x.T @ cells[:, gene])
        np.testing.assert_allclose(predicted[:, gene], response[:, told] @ coefficients, rtol=1e-4, atol=1e-6)


def test_a_level_without_cells_predicts_nothing():
    predicted = Coexpression(residuals(), LEVEL).regressions(7)[0].predict(np.ones((1, N_GENES)), 1.0)
    np.testing.assert_allclose(predicted, 0, atol=1e-12)
