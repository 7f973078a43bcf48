from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci.module._decoders import AttentionHead, DotHead, LinearHead, attend

N_CELLS, N_GENES, N_FEATURES, N_EMBEDDING = 7, 11, 5, 4


def normal(*shape, seed=0, scale=1.0, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * scale).to(dtype)


def naive_attention(features, cell_score, gene_score):
    """Softmax over features of the bounded additive score, as a tensor of cells x genes x features."""
    bounded = [20 * torch.tanh(score / 20) for score in (cell_score, gene_score)]
    weights = torch.softmax(bounded[0][:, None, :] + bounded[1][None, :, :], dim=2)
    return (weights * features[:, None, :]).sum(dim=2)


def inputs(spread, dtype=torch.float32, requires_grad=False):
    tensors = [
        normal(N_CELLS, N_FEATURES, seed=0, dtype=dtype),
        normal(N_CELLS, N_FEATURES, seed=1, scale=spread, dtype=dtype),
        normal(N_GENES, N_FEATURES, seed=2, scale=spread, dtype=dtype),
    ]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0, 30.0, 200.0])
class TestAttention:
    def test_equals_the_naive_softmax(self, spread):
        found, expected = attend(*inputs(spread)), naive_attention(*inputs(spread, torch.float64))
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

    def test_gradients_equal_those_of_the_naive_softmax(self, spread):
        given, reference = inputs(spread, requires_grad=True), inputs(spread, torch.float64, requires_grad=True)
        direction = normal(N_CELLS, N_GENES, seed=3)
        (attend(*given) * direction).sum().backward()
        (naive_attention(*reference) * direction.double()).sum().backward()
        for one, other in zip(given, reference, strict=True):
            torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-5, atol=1e-5)

    def test_float64_is_exact(self, spread):
        found = attend(*inputs(spread, torch.float64))
        torch.testing.assert_close(found, naive_attention(*inputs(spread, torch.float64)), rtol=1e-12, atol=1e-12)

    def test_results_are_averages_of_features(self, spread):
        features, *scores = inputs(spread)
        result = attend(features, *scores)
        assert (result <= features.max(dim=1, keepdim=True).values + 1e-5).all()
        assert (result >= features.min(dim=1, keepdim=True).values - 1e-5).all()


@pytest.mark.parametrize("spread", [0.5, 5.0])
def test_attention_gradcheck(spread):
    assert torch.autograd.gradcheck(attend, inputs(spread, torch.float64, requires_grad=True))


def test_attention_with_the_worst_scores_stays_finite():
    features, cell, gene = (torch.ones(n, 3, requires_grad=True) for n in (2, 2, 4))
    with torch.no_grad():
        cell.copy_(torch.tensor([[1e6, -1e6, -1e6], [-1e6, -1e6, -1e6]]))
        gene.fill_(-1e6)
    result = attend(features, cell, gene)
    result.sum().backward()
    torch.testing.assert_close(result, torch.ones(2, 4))
    assert all(torch.isfinite(tensor.grad).all() for tensor in (features, cell, gene))


def test_attention_ignores_autocast():
    tensors = inputs(30.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(*tensors)
        low = attend(*(tensor.bfloat16() for tensor in tensors))
    assert found.dtype == low.dtype == torch.float32
    torch.testing.assert_close(found, attend(*tensors))
    assert torch.isfinite(low).all()


class TestHeads:
    def tensors(self):
        return normal(N_CELLS, N_FEATURES).double(), normal(N_GENES, N_EMBEDDING, seed=1).double()

    def test_attention_scores_are_additive_in_cell_and_gene(self):
        torch.manual_seed(0)
        head = AttentionHead(N_FEATURES, N_EMBEDDING).double()
        u, genes = self.tensors()
        with torch.no_grad():
            head.cell_score.weight.mul_(20)
            head.gene_score.weight.mul_(20)
        expected = torch.empty(N_CELLS, N_GENES, dtype=torch.float64)
        for i in range(N_CELLS):
            for j in range(N_GENES):
                cell = head.cell_score.weight @ u[i] + head.cell_score.bias
                gene = head.gene_score.weight @ genes[j]
                score = 20 * torch.tanh(cell / 20) + 20 * torch.tanh(gene / 20)
                expected[i, j] = torch.softmax(score, dim=0) @ u[i]
        torch.testing.assert_close(head(u, genes), expected)

    def test_dot_is_a_linear_map_of_the_embedding(self):
        head = DotHead(N_FEATURES, N_EMBEDDING).double()
        u, genes = self.tensors()
        weight = head.gene_score.weight
        expected = torch.stack([torch.stack([u[i] @ (weight @ gene) for gene in genes]) for i in range(N_CELLS)])
        torch.testing.assert_close(head(u, genes), expected)

    def test_linear_needs_no_genes(self):
        head = LinearHead(N_FEATURES, N_GENES).double()
        u, _ = self.tensors()
        torch.testing.assert_close(head(u), u @ head.map.weight.T)

    @pytest.mark.parametrize("head_class", [AttentionHead, DotHead])
    def test_gradcheck(self, head_class):
        head = head_class(N_FEATURES, N_EMBEDDING).double()
        u, genes = (tensor.requires_grad_() for tensor in self.tensors())
        assert torch.autograd.gradcheck(lambda *args: torch.func.functional_call(
            head, dict(zip(dict(head.named_parameters()), args[2:], strict=True)), args[:2]
        ), (u, genes, *head.parameters()))  # fmt: skip
