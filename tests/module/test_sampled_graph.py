from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci.module._sampled_graph import CandidateEdges, _different, edge_softmax, sampled_product

N = 7
PRIOR = np.array([[0, 0, 1, 3, 2], [1, 4, 2, 3, 6]])  # 3 -> 3 is a self-loop


def dense_mask(edges) -> torch.Tensor:
    mask = torch.zeros(N, N, dtype=torch.bool)
    mask[edges.target, edges.source] = True
    return mask


@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("kind", ["all", "regulators", "pairs"])
def test_candidates_are_those_asked_for(kind: str, self_loops: bool) -> None:
    sources = {"all": np.arange(N), "regulators": np.array([0, 1, 2]), "pairs": np.array([5, 0])}[kind]
    pairs = np.array([[5, 0], [0, 1]]) if kind == "pairs" else None
    candidates = CandidateEdges(N, PRIOR, sources, pairs, self_loops=self_loops)

    prior = {(s, t) for s, t in PRIOR.T.tolist() if s != t}
    prior |= {(i, i) for i in range(N)} if self_loops else set()
    if kind == "pairs":
        expected = prior | {(5, 0), (0, 1)}
    else:  # 3 regulates only itself in the prior
        allowed = set(sources.tolist()) | ({3} if self_loops else set())
        expected = prior | {(s, t) for s in allowed for t in range(N) if s != t}
        if not self_loops:
            expected |= {(3, t) for t in range(N) if kind == "all" and t != 3}

    target, source = candidates.genes(torch.arange(candidates.size))
    usable = torch.ones(candidates.size, dtype=torch.bool)
    usable[candidates.excluded] = False
    found = set(zip(source[usable].tolist(), target[usable].tolist(), strict=True))
    assert found == expected and int(usable.sum()) == len(expected)
    target, source = candidates.genes(candidates.prior)
    assert set(zip(source.tolist(), target.tolist(), strict=True)) == prior
    target, source = candidates.genes(candidates.absent(torch.arange(candidates.n_absent)))
    assert set(zip(source.tolist(), target.tolist(), strict=True)) == expected - prior


def test_sampling_frequencies() -> None:
    candidates = CandidateEdges(N, PRIOR, np.arange(N))
    generator = torch.Generator().manual_seed(0)
    draws, count = 4000, torch.zeros(N, N)
    number = []
    for _ in range(draws):
        edges = candidates.sample(0.9, 0.1, generator)
        assert torch.all(edges.position[1:] > edges.position[:-1])
        count += dense_mask(edges)
        number.append(int((~edges.in_prior).sum()))
    target, source = candidates.genes(candidates.prior)
    expected = torch.full((N, N), 0.1)
    expected[target, source] = 0.9
    expected.fill_diagonal_(0)
    error = (expected * (1 - expected) / draws).sqrt()
    assert torch.all((count / draws - expected).abs() <= 4.5 * error)
    # Independent draws: the number of absent edges is binomial, which fixed counts or a fixed share would not be.
    n_absent = candidates.n_absent
    assert np.var(number) == pytest.approx(n_absent * 0.1 * 0.9, rel=0.1)


def test_different_integers() -> None:
    generator = torch.Generator().manual_seed(0)
    for n, number in [(1000, 20), (10, 10), (5, 0), (100, 49)]:
        drawn = _different(n, number, generator)
        assert len(drawn.unique()) == number and torch.all((drawn >= 0) & (drawn < n))


@pytest.mark.parametrize("null_slot", [True, False])
@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_softmax_equals_dense(null_slot: bool, spread: float) -> None:
    torch.manual_seed(0)
    candidates = CandidateEdges(N, PRIOR, np.arange(N), self_loops=True)
    edges = candidates.sample(0.7, 0.3, torch.Generator().manual_seed(1))
    logits = spread * torch.randn(N, N, dtype=torch.float64)
    flat = logits[edges.target, edges.source].requires_grad_()
    dense = logits.clone().requires_grad_()

    weight = edge_softmax(flat, edges, null_slot=null_slot)
    masked = dense.masked_fill(~dense_mask(edges), -torch.inf)
    if null_slot:
        naive = torch.softmax(torch.cat([torch.zeros(N, 1), masked], dim=1), dim=1)[:, 1:]
    else:
        naive = torch.nan_to_num(torch.softmax(masked, dim=1))
    torch.testing.assert_close(weight, naive[edges.target, edges.source], atol=1e-12, rtol=1e-9)

    state = torch.randn(N, 3, dtype=torch.float64)
    torch.testing.assert_close(sampled_product(weight, state, edges), naive @ state, atol=1e-10, rtol=1e-9)
    if null_slot:
        readout = torch.randn(N, 3, dtype=torch.float64)
        (sampled_product(weight, state, edges) * readout).sum().backward()
        ((naive @ state) * readout).sum().backward()
        torch.testing.assert_close(flat.grad, dense.grad[edges.target, edges.source], atol=1e-10, rtol=1e-9)


def test_null_slot_pins_the_level_of_a_row() -> None:
    edges = CandidateEdges(N, PRIOR, np.arange(N)).sample(0.9, 0.3, torch.Generator().manual_seed(1))
    logit = torch.randn(len(edges.position))
    lower = logit - 2.0
    plain, with_null = (
        (edge_softmax(logit, edges, null_slot=null), edge_softmax(lower, edges, null_slot=null))
        for null in (False, True)
    )
    torch.testing.assert_close(plain[0], plain[1])
    assert torch.all(with_null[1] < with_null[0])


def test_gradients_in_float64() -> None:
    torch.manual_seed(0)
    edges = CandidateEdges(N, PRIOR, np.arange(N)).sample(0.8, 0.2, torch.Generator().manual_seed(2))
    logit = torch.randn(len(edges.position), dtype=torch.float64, requires_grad=True)
    dense = torch.randn(N, 4, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda w, x: sampled_product(w, x, edges), (logit, dense))
    for null_slot in (True, False):
        assert torch.autograd.gradcheck(
            lambda w, x, null=null_slot: sampled_product(edge_softmax(w, edges, null_slot=null), x, edges),
            (logit, dense),
        )


def test_several_matrices_are_multiplied_one_by_one() -> None:
    torch.manual_seed(0)
    edges = CandidateEdges(N, PRIOR, np.arange(N)).sample(0.8, 0.3, torch.Generator().manual_seed(2))
    weight = torch.randn(len(edges.position), dtype=torch.float64, requires_grad=True)
    dense = torch.randn(3, N, 4, dtype=torch.float64, requires_grad=True)
    found = sampled_product(weight, dense, edges)
    naive = torch.zeros(N, N, dtype=torch.float64).index_put((edges.target, edges.source), weight) @ dense
    torch.testing.assert_close(found, naive)
    readout = torch.randn_like(dense)
    for ours, theirs in zip(*(torch.autograd.grad((out * readout).sum(), (weight, dense)) for out in (found, naive)),
                            strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs)


def test_sampled_edges_are_in_order_and_know_the_prior() -> None:
    candidates = CandidateEdges(N, PRIOR, np.arange(N))
    for seed in range(5):
        edges = candidates.sample(0.6, 0.4, torch.Generator().manual_seed(seed))
        assert torch.all(edges.position.diff() > 0)
        np.testing.assert_array_equal(edges.in_prior, np.isin(edges.position, candidates.prior))
        order, row_pointer, target = edges.by_source
        for gene in range(N):
            rows = slice(row_pointer[gene], row_pointer[gene + 1])
            assert torch.all(edges.source[order[rows]] == gene)
            np.testing.assert_array_equal(target[rows], edges.target[edges.source == gene])


def test_rows_without_edges_give_zero() -> None:
    edges = CandidateEdges(N, PRIOR, np.arange(N)).sample(1.0, 1e-9, torch.Generator().manual_seed(0))
    out = sampled_product(torch.ones(len(edges.position)), torch.ones(N, 2), edges)
    np.testing.assert_array_equal(out[:, 0].numpy(), [0, 1, 1, 0, 1, 0, 1])
