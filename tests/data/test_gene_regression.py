from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.data import _gene_regression
from scgraphvci.data._gene_regression import RIDGE, GeneRegression, Network, RegulatorRegression, Regulators

N_CELLS, N_GENES = 50, 12
CELLS = np.random.default_rng(0).normal(size=(N_CELLS, N_GENES)) @ np.random.default_rng(1).normal(size=(12, 12))
RESPONSE = np.random.default_rng(2).normal(size=(3, N_GENES))
# Gene 0 has none, gene 1 one, genes 2 and 3 two, gene 4 three regulators and itself; signs and scale do not matter.
EDGES = np.array([[0, 0, 1, 5, 6, 7, 8, 9, 4], [1, 2, 2, 3, 3, 4, 4, 4, 4]])
WEIGHTS = np.array([1.0, -2.0, 4.0, 1.0, 1.0, 0.5, 3.0, -1.0, 100.0], np.float32)


def all_axes():
    """Orthonormal axes that span everything, and the sum of outer products of cells along them."""
    axes = np.linalg.qr(np.random.default_rng(3).normal(size=(N_GENES, N_GENES)))[0]
    return axes, axes.T @ CELLS.T @ CELLS @ axes


def ridge(x, y, penalty):
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


@pytest.mark.parametrize("penalty", RIDGE)
def test_every_gene_on_all_others(penalty):
    found = GeneRegression(*all_axes(), N_CELLS).predict(RESPONSE, penalty)
    for gene in range(N_GENES):
        others = np.arange(N_GENES) != gene
        coefficients = ridge(CELLS[:, others], CELLS[:, gene], penalty * N_CELLS)
        np.testing.assert_allclose(found[:, gene], RESPONSE[:, others] @ coefficients, rtol=1e-8)


def test_across_the_axes_nothing_is_known():
    """As if cells had no variance there."""
    axes = all_axes()[0][:, :4]
    seen = CELLS @ axes @ axes.T
    found = GeneRegression(axes, axes.T @ CELLS.T @ CELLS @ axes, N_CELLS).predict(RESPONSE, 3.0)
    for gene in range(N_GENES):
        others = np.arange(N_GENES) != gene
        expected = RESPONSE[:, others] @ ridge(seen[:, others], seen[:, gene], 3.0 * N_CELLS)
        np.testing.assert_allclose(found[:, gene], expected, rtol=1e-8)


@pytest.mark.parametrize("penalty", RIDGE)
@pytest.mark.parametrize("max_values", [1, 10_000])
def test_every_gene_on_its_regulators(penalty, max_values, monkeypatch):
    monkeypatch.setattr(_gene_regression, "MAX_VALUES", max_values)
    regulators = Regulators(Network(EDGES, WEIGHTS), N_GENES)
    found = RegulatorRegression(*all_axes(), N_CELLS, regulators).predict(RESPONSE, penalty)
    mean = np.abs(WEIGHTS[:-1]).mean()
    for gene in range(N_GENES):
        edges = np.flatnonzero((EDGES[1] == gene) & (EDGES[0] != gene))
        x, weight = CELLS[:, EDGES[0, edges]], np.abs(WEIGHTS[edges]) / mean
        gram = x.T @ x + np.diag(penalty * N_CELLS / weight)
        expected = RESPONSE[:, EDGES[0, edges]] @ np.linalg.solve(gram, x.T @ CELLS[:, gene])
        np.testing.assert_allclose(found[:, gene], expected, rtol=1e-7, atol=1e-12)
    assert not found[:, [0, *range(5, 12)]].any()


def test_all_genes_as_regulators_are_all_others():
    full = np.array([(i, j) for i in range(N_GENES) for j in range(N_GENES)]).T
    regulators = Regulators(Network(full, np.full(full.shape[1], 7.0)), N_GENES)
    found = RegulatorRegression(*all_axes(), N_CELLS, regulators).predict(RESPONSE, 3.0)
    np.testing.assert_allclose(found, GeneRegression(*all_axes(), N_CELLS).predict(RESPONSE, 3.0), rtol=1e-7)


def test_order_of_edges_and_scale_of_weights_do_not_matter():
    order = np.random.default_rng(0).permutation(WEIGHTS.size)
    found = [
        RegulatorRegression(*all_axes(), N_CELLS, Regulators(network, N_GENES)).predict(RESPONSE, 1.0)
        for network in (Network(EDGES, WEIGHTS), Network(EDGES[:, order], -5 * WEIGHTS[order]))
    ]
    np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-12)


def test_a_confident_edge_is_penalised_less():
    edges = np.array([[0, 1], [2, 2]])
    share = []
    for weight in (0.01, 1.0, 100.0):
        regulators = Regulators(Network(edges, np.array([weight, 1.0])), N_GENES)
        regression = RegulatorRegression(*all_axes(), N_CELLS, regulators)
        share.append(abs(regression.predict(np.eye(N_GENES)[[0]], 10.0)[0, 2]))
    assert share[0] < share[1] < share[2]


@pytest.mark.parametrize("cells", [0, 1])
def test_no_cells_predict_nothing(cells):
    axes, gram = all_axes()
    regulators = Regulators(Network(EDGES, WEIGHTS), N_GENES)
    for regression in (
        GeneRegression(axes, 0 * gram, cells),
        RegulatorRegression(axes, 0 * gram, cells, regulators),
    ):
        np.testing.assert_allclose(regression.predict(RESPONSE, 1.0), 0, atol=1e-12)
