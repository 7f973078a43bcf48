from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci.module._graph import GraphEncoder, normalised_edges

N_GENES = 6
EDGES = np.array([[0, 0, 3, 4, 4, 2], [1, 2, 1, 5, 4, 0]])  # source, target; one self-loop
WEIGHTS = np.array([2.0, -1.0, 4.0, 1.0, 3.0, 0.5], dtype=np.float32)


def dense_normalised(edges=EDGES, weights=WEIGHTS, n_genes=N_GENES):
    """D^-1/2 (A + I) D^-1/2, row = source, with absolute degrees; self-loops of the network are replaced by ones."""
    adjacency = np.zeros((n_genes, n_genes))
    for source, target, weight in zip(*edges, weights, strict=True):
        if source != target:
            adjacency[source, target] += weight
    if adjacency.any():
        adjacency /= np.abs(weights[edges[0] != edges[1]]).mean()
    adjacency += np.eye(n_genes)
    out_degree, in_degree = np.abs(adjacency).sum(axis=1), np.abs(adjacency).sum(axis=0)
    return adjacency / np.sqrt(np.outer(out_degree, in_degree))


def as_dense(index, weight, n_genes=N_GENES):
    dense = np.zeros((n_genes, n_genes))
    np.add.at(dense, (index[0], index[1]), weight)
    return dense


class TestNormalisation:
    def test_equals_the_dense_formula(self):
        index, weight = normalised_edges(N_GENES, EDGES, WEIGHTS)
        np.testing.assert_allclose(as_dense(index, weight), dense_normalised(), rtol=1e-6)
        assert (index.dtype, weight.dtype) == (np.int64, np.float32)

    @pytest.mark.parametrize("factor", [1e-6, 1e6])
    def test_does_not_depend_on_the_scale_of_weights(self, factor):
        expected = as_dense(*normalised_edges(N_GENES, EDGES, WEIGHTS))
        found = as_dense(*normalised_edges(N_GENES, EDGES, WEIGHTS * factor))
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_opposite_signs_do_not_cancel_degrees(self):
        edges = np.array([[0, 1], [2, 2]])
        index, weight = normalised_edges(3, edges, np.array([1.0, -1.0], dtype=np.float32))
        dense = as_dense(index, weight, 3)
        assert np.isfinite(dense).all()
        assert dense[0, 2] == -dense[1, 2] > 0

    def test_without_edges_only_the_loops_stay(self):
        index, weight = normalised_edges(3, np.empty((2, 0), dtype=np.int64), np.empty(0, dtype=np.float32))
        np.testing.assert_array_equal(as_dense(index, weight, 3), np.eye(3))


class TestEncoder:
    @pytest.mark.parametrize("n_layers", [0, 1, 3])
    @pytest.mark.parametrize("with_features", [False, True])
    def test_equals_dense_products(self, n_layers, with_features):
        torch.manual_seed(0)
        features = np.random.default_rng(0).normal(size=(N_GENES, 3)).astype(np.float32) if with_features else None
        encoder = GraphEncoder(N_GENES, EDGES, WEIGHTS, features, 5, n_layers).double()
        with torch.no_grad():
            encoder.gates.normal_()
            for convolution in encoder.convolutions:
                convolution.bias.normal_()
        state = encoder.embedding
        if with_features:
            state = state + torch.from_numpy(features).double() @ encoder.project.weight.T
        incoming = torch.from_numpy(dense_normalised()).T  # a target gathers from its sources
        for convolution, gate in zip(encoder.convolutions, encoder.gates, strict=True):
            message = incoming @ (state @ convolution.lin.weight.T) + convolution.bias
            state = state + gate * torch.relu(message)
        torch.testing.assert_close(encoder(), state, rtol=1e-6, atol=1e-6)

    def test_messages_go_from_source_to_target(self):
        torch.manual_seed(0)
        encoder = GraphEncoder(3, np.array([[0], [1]]), np.ones(1, np.float32), None, 4, 1)
        assert torch.equal(encoder(), encoder.embedding)  # gates start closed
        with torch.no_grad():
            encoder.gates.fill_(1)
        before = encoder()
        with torch.no_grad():
            encoder.embedding[0] += 3.0
        moved = (encoder() - before).abs().sum(dim=1) > 1e-6
        assert moved.tolist() == [True, True, False]
        before = encoder()
        with torch.no_grad():
            encoder.embedding[1] += 3.0
        moved = (encoder() - before).abs().sum(dim=1) > 1e-6
        assert moved.tolist() == [False, True, False]

    def test_gradient_reaches_every_parameter(self):
        torch.manual_seed(0)
        encoder = GraphEncoder(N_GENES, EDGES, WEIGHTS, np.ones((N_GENES, 2)), 4, 2).double()
        with torch.no_grad():
            encoder.gates.fill_(0.5)
        encoder().square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())

    def test_the_network_is_no_part_of_the_state(self):
        encoder = GraphEncoder(N_GENES, EDGES, WEIGHTS, np.ones((N_GENES, 2)), 4, 1)
        assert not {"edge_index", "edge_weight", "features"} & set(encoder.state_dict())
        assert all(not buffer.is_sparse for buffer in encoder.buffers())
