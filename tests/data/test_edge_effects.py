"""Effects along a network against naive regressions."""

from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.data import Network, Residuals
from scgraphvci.data._edge_effects import N_HOPS, fit_edge_effects
from scgraphvci.data._gene_regression import RIDGE
from scgraphvci.data._kriging import HETEROGENEITY

N_GENES, N_TREATMENTS = 8, 12


@pytest.fixture
def problem():
    """Control cells, a network with a self-loop, responses and targets."""
    rng = np.random.default_rng(0)
    edges = np.array([[0, 1, 1, 2, 3, 4, 5, 2], [3, 3, 4, 4, 5, 6, 7, 2]])
    network = Network(edges, rng.uniform(0.5, 2, edges.shape[1]))
    zeros = np.zeros(60, dtype=int)
    controls = Residuals(np.eye(N_GENES), rng.normal(size=(60, N_GENES)), zeros, zeros)
    gene = np.array([0, 1, 2, 3, 4, 5, 0, 1, -1, -1, 6, 3])
    return network, controls, rng.normal(size=(N_TREATMENTS, N_GENES)), rng.uniform(0.01, 0.2, N_TREATMENTS), gene


def naive(problem, spread, rows):
    """Effects by one regression for each gene, over some of the treatments; the slope comes from all of them."""
    network, controls, response, noise, gene = problem
    weight = network.edge_weight / network.edge_weight[network.edge_index[0] != network.edge_index[1]].mean()
    n = len(controls.score)
    prior = np.zeros((N_GENES, N_GENES))
    regulators = {}
    for j in range(N_GENES):
        here = np.flatnonzero((network.edge_index[1] == j) & (network.edge_index[0] != j))
        r = regulators[j] = network.edge_index[0][here]
        if r.size:
            x = controls.score[:, r]
            penalty = np.diag(RIDGE[0] * n / weight[here])
            prior[r, j] = np.linalg.solve(x.T @ x + penalty, x.T @ controls.score[:, j])
    foretold = response @ prior
    foretold[np.arange(N_TREATMENTS)[gene >= 0], gene[gene >= 0]] = 0
    centred = foretold - foretold.mean(axis=0)
    centred[np.arange(N_TREATMENTS)[gene >= 0], gene[gene >= 0]] = 0
    prior *= max(0, (centred * response).sum() / (centred**2).sum())
    effects = np.zeros_like(prior)
    for j, r in regulators.items():
        if not r.size:
            continue
        here = np.flatnonzero((network.edge_index[1] == j) & (network.edge_index[0] != j))
        use = [t for t in rows if gene[t] != j]
        x, w = response[np.ix_(use, r)], np.diag(1 / (noise[use] + HETEROGENEITY[0]))
        gram = x.T @ w @ x + np.diag(1 / (spread * weight[here]))
        effects[r, j] = prior[r, j] + np.linalg.solve(gram, x.T @ w @ (response[use, j] - x @ prior[r, j]))
    return prior, effects


def dense(edges, values):
    """A matrix of values of edges."""
    matrix = np.zeros((N_GENES, N_GENES))
    matrix[edges.source, edges.target] = values
    return matrix


def test_effects_are_the_posterior_of_a_regression_on_responses(problem):
    edges = fit_edge_effects(*problem, spread=0.3)
    _, effects = naive(problem, 0.3, range(N_TREATMENTS))
    np.testing.assert_allclose(dense(edges, edges.effect), effects, atol=1e-10)


def test_leaving_a_treatment_out_is_refitting_without_it(problem):
    edges = fit_edge_effects(*problem, spread=0.3)
    for t in range(N_TREATMENTS):
        _, effects = naive(problem, 0.3, [row for row in range(N_TREATMENTS) if row != t])
        np.testing.assert_allclose(dense(edges, edges.effect - edges.correction[t]), effects, atol=1e-5)


def test_without_responses_control_cells_tell_all(problem):
    edges = fit_edge_effects(*problem, spread=0.0)
    np.testing.assert_allclose(dense(edges, edges.effect), naive(problem, 1.0, [])[0], atol=1e-10)
    assert not edges.correction.any()


def test_hops_are_powers_of_the_network(problem):
    edges = fit_edge_effects(*problem, spread=0.3)
    shift = np.arange(1.0, N_GENES + 1)
    matrix = dense(edges, edges.effect)
    expected = [shift @ np.linalg.matrix_power(matrix, k + 1) for k in range(N_HOPS)]
    np.testing.assert_allclose(edges.hops(shift), np.column_stack(expected))
    matrix = dense(edges, edges.effect - edges.correction[3])
    np.testing.assert_allclose(edges.hops(shift, 3)[:, 1], shift @ matrix @ matrix)
    np.testing.assert_allclose(edges.reach(shift), shift**2 @ (dense(edges, np.ones_like(edges.effect))))
