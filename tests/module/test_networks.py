from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci.module._decoders import AttentionHead, DotHead, LinearHead
from scgraphvci.module._networks import MIN_LATENT_SCALE, CovariateEncoder, Decoder, Encoder, pool_genes

ENCODER = {
    "n_genes": 9, "n_treatment": 3, "n_covariate": 2, "n_graph": 4, "n_outcome": 7, "n_hidden": 8, "n_layers": 2,
    "n_latent": 5,
    "dropout_rate": 0.0, "graph_pooling": "mean",
}  # fmt: skip
DECODER = {
    "n_genes": 9, "n_treatment": 3, "n_latent": 5, "n_graph": 4, "n_hidden": 8, "n_layers": 2, "dropout_rate": 0.0,
    "n_parameters": 1, "kind": "dot",
}  # fmt: skip


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).double()


def mlp(fc_layers, value):
    """Linear, layer norm without weights, ReLU."""
    for layer in fc_layers.fc_layers:
        value = value @ layer[0].weight.T + layer[0].bias
        centred = value - value.mean(dim=1, keepdim=True)
        value = torch.relu(centred / torch.sqrt(centred.square().mean(dim=1, keepdim=True) + 1e-5))
    return value


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class TestCovariates:
    def test_embeddings_and_numbers_side_by_side(self):
        encoder = CovariateEncoder([3, 2], 1, 4)
        levels, age = torch.tensor([[2, 0], [0, 1]]), torch.tensor([[0.5], [-1.0]])
        expected = torch.cat([encoder.embeddings[0].weight[[2, 0]], encoder.embeddings[1].weight[[0, 1]], age], dim=1)
        assert torch.equal(encoder(levels, age), expected)
        assert encoder.n_out == 9

    def test_without_covariates(self):
        encoder = CovariateEncoder([], 0, 4)
        assert encoder(torch.empty((3, 0), dtype=torch.long), None).shape == (3, 0)
        assert encoder.n_out == 0


class TestEncoder:
    def inputs(self, n=6):
        return normal(n, 9), normal(n, 3, seed=1), normal(n, 2, seed=2), normal(9, 4, seed=3)

    @pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
    def test_equals_the_formula(self, pooling):
        encoder = Encoder(**{**ENCODER, "graph_pooling": pooling}).double()
        outcome, treatment, covariates, genes = self.inputs()
        hidden = outcome @ encoder.outcome.weight.T + encoder.outcome.bias
        hidden = mlp(encoder.mlp, torch.cat([hidden, treatment, covariates], dim=1))
        pooled = {"mean": genes.mean(0), "sum": genes.sum(0), "max": genes.max(0).values}[pooling]
        hidden = torch.cat([hidden, pooled.expand(6, -1)], dim=1)
        qz = encoder(outcome, treatment, covariates, genes)
        torch.testing.assert_close(qz.mean, hidden @ encoder.mean.weight.T + encoder.mean.bias)
        raw = hidden @ encoder.scale.weight.T + encoder.scale.bias
        torch.testing.assert_close(qz.stddev, torch.log1p(torch.exp(raw)) + MIN_LATENT_SCALE)

    def test_means_take_both_signs_and_scales_go_low(self):
        encoder = Encoder(**ENCODER).double()
        qz = encoder(*self.inputs(200))
        assert qz.mean.min() < 0 < qz.mean.max()
        with torch.no_grad():
            encoder.scale.bias.fill_(-50)
            assert encoder(*self.inputs()).stddev.max() < 0.01

    def test_cells_do_not_influence_each_other(self):
        encoder = Encoder(**ENCODER).double()
        outcome, treatment, covariates, genes = self.inputs()
        alone = encoder(outcome[:1], treatment[:1], covariates[:1], genes)
        together = encoder(outcome, treatment, covariates, genes)
        torch.testing.assert_close(alone.mean, together.mean[:1])

    def test_every_input_matters_and_gets_a_gradient(self):
        encoder = Encoder(**ENCODER).double()
        inputs = [tensor.requires_grad_() for tensor in self.inputs()]
        qz = encoder(*inputs)
        (qz.mean.square().sum() + qz.stddev.sum()).backward()
        assert all(tensor.grad.abs().sum() > 0 for tensor in inputs)

    def test_without_graph(self):
        encoder = Encoder(**{**ENCODER, "n_graph": 0}).double()
        outcome, treatment, covariates, _ = self.inputs()
        assert encoder(outcome, treatment, covariates, None).mean.shape == (6, 5)
        assert encoder.mean.in_features == 8


def test_pooling():
    genes = normal(9, 4)
    for pooling, function in (("mean", np.mean), ("sum", np.sum), ("max", np.max)):
        np.testing.assert_allclose(pool_genes(genes, pooling), function(genes.numpy(), axis=0))


class TestDecoder:
    def inputs(self, n=6):
        return normal(n, 5), normal(n, 3, seed=2), normal(9, 4, seed=3)

    @pytest.mark.parametrize(("kind", "head_class"), [("dot", DotHead), ("attention", AttentionHead)])
    def test_equals_the_formula(self, kind, head_class):
        decoder = Decoder(**{**DECODER, "kind": kind, "n_parameters": 2}).double()
        latent, treatment, genes = self.inputs()
        u = mlp(decoder.mlp, torch.cat([latent, treatment], dim=1))
        first, second = decoder(latent, treatment, genes)
        assert all(isinstance(head, head_class) for head in decoder.heads)
        torch.testing.assert_close(first, decoder.heads[0](u, genes))
        torch.testing.assert_close(second, decoder.heads[1](u, genes))
        assert not torch.allclose(first, second)

    def test_without_graph_the_heads_are_linear(self):
        decoder = Decoder(**{**DECODER, "n_graph": 0, "kind": "attention"}).double()
        latent, treatment, _ = self.inputs()
        u = mlp(decoder.mlp, torch.cat([latent, treatment], dim=1))
        assert isinstance(decoder.heads[0], LinearHead)
        torch.testing.assert_close(decoder(latent, treatment, None)[0], u @ decoder.heads[0].map.weight.T)
