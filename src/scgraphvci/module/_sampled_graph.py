"""Candidate edges, their hard sampling, the softmax over sampled edges and the sparse product with their weights.

Matrices here have targets as rows and sources as columns, the transpose of `varp`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Edges:
    """Edges of one step, sorted by target, then source.

    Attributes
    ----------
    position
        Where the logit of each edge is among the candidates, ``(n_edges,)``.
    target, source
        Genes, ``(n_edges,)``.
    row_pointer
        Edges of target ``i`` are ``row_pointer[i]:row_pointer[i + 1]``.
    in_prior
        Whether each edge is among the pairs that are kept, those of the prior and, where allowed, the diagonal.
    """

    position: Tensor
    target: Tensor
    source: Tensor
    row_pointer: Tensor
    in_prior: Tensor

    @cached_property
    def by_source(self) -> tuple[Tensor, Tensor, Tensor]:
        """The order of edges by source, then target, with row pointer and targets of that order."""
        order = torch.argsort(self.source, stable=True)
        genes = torch.arange(len(self.row_pointer), device=self.source.device)
        return order, torch.searchsorted(self.source[order], genes), self.target[order]


class CandidateEdges(nn.Module):
    """The pairs of genes that may become edges, each with a position at which its logit is stored.

    Either every (target, source) with source among `sources` (then only the sources are stored), or a list of pairs.

    Parameters
    ----------
    n_genes
        Number of genes.
    prior
        Pairs (source, target) that are kept with probability `p_keep`, shape ``(2, n_prior)``; always candidates.
    sources
        Genes that may be sources.
    pairs
        Pairs (source, target) that may be edges besides the prior's, ``(2, n_pairs)``. None: all with these sources.
    self_loops
        Whether a gene may be its own source. If so, all self-loops are candidates, sampled as the prior's are (A + I).

    Notes
    -----
    Everything is derived from the arguments, so no buffer is saved.
    """

    sources: Tensor
    column: Tensor
    keys: Tensor | None
    prior: Tensor
    excluded: Tensor
    absent_before: Tensor

    def __init__(
        self,
        n_genes: int,
        prior: np.ndarray,
        sources: np.ndarray,
        pairs: np.ndarray | None = None,
        *,
        self_loops: bool = False,
    ) -> None:
        super().__init__()
        self.n_genes = n_genes
        loops = np.tile(np.arange(n_genes), (2, 1)) if self_loops else np.empty((2, 0), dtype=np.int64)
        prior = np.concatenate([np.asarray(prior, dtype=np.int64), loops], axis=1)
        if not self_loops:
            prior = prior[:, prior[0] != prior[1]]
        sources = np.union1d(np.asarray(sources, dtype=np.int64), prior[0, : prior.shape[1] - loops.shape[1]])
        if pairs is None and self_loops and len(sources) < n_genes:  # self-loops of other genes make the table ragged
            pairs = np.stack([np.tile(sources, n_genes), np.repeat(np.arange(n_genes), len(sources))])
        listed = prior if pairs is None else np.concatenate([prior, np.asarray(pairs, dtype=np.int64)], axis=1)
        sources = np.union1d(sources, listed[0])
        column = np.full(n_genes, -1, dtype=np.int64)
        column[sources] = np.arange(len(sources))
        self.n_sources = len(sources)
        keys = None
        if pairs is not None:
            keys = np.unique(listed[1] * self.n_sources + column[listed[0]])
            if not self_loops:
                keys = keys[sources[keys % self.n_sources] != keys // self.n_sources]
        self.size = n_genes * self.n_sources if keys is None else len(keys)
        self.register_buffer("sources", torch.as_tensor(sources), persistent=False)
        self.register_buffer("column", torch.as_tensor(column), persistent=False)
        self.register_buffer("keys", None if keys is None else torch.as_tensor(keys), persistent=False)
        in_prior = torch.as_tensor(np.unique(prior[1] * self.n_sources + column[prior[0]]))
        if self.keys is not None:
            in_prior = torch.searchsorted(self.keys, in_prior)
        self.register_buffer("prior", in_prior, persistent=False)
        excluded = torch.empty(0, dtype=torch.long)
        if keys is None and not self_loops:
            excluded = self.sources * self.n_sources + torch.arange(self.n_sources)
        self.register_buffer("excluded", excluded, persistent=False)
        fixed = torch.cat([self.prior, excluded]).sort().values
        # The k-th pair outside `fixed` is at position k + (number of fixed positions that come before it).
        self.register_buffer("absent_before", fixed - torch.arange(len(fixed)), persistent=False)
        self.n_absent = self.size - len(fixed)

    def genes(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return target and source of the candidates at some positions."""
        key = position if self.keys is None else self.keys[position]
        target = key // self.n_sources
        return target, self.sources.index_select(0, key - target * self.n_sources)

    def absent(self, rank: Tensor) -> Tensor:
        """Return positions of the candidates outside the prior, by their rank among these."""
        return rank + torch.searchsorted(self.absent_before, rank, right=True)

    def edges(self, position: Tensor) -> Edges:
        """Return the edges at sorted positions."""
        place = torch.searchsorted(self.prior, position).clamp(max=len(self.prior) - 1)
        return self._edges(position, self.prior[place] == position)

    def sample(self, p_keep: float, p_add: float, generator: torch.Generator) -> Edges:
        """Draw a hard mask: the prior's pairs with `p_keep`, other candidates with `p_add`, all independently.

        The number of absent pairs is drawn first, then that many different positions, in time linear in that number.
        """
        device = self.prior.device
        kept = self.prior[(torch.rand(len(self.prior), generator=generator) < p_keep).to(device)]
        number = int(torch.binomial(torch.tensor(float(self.n_absent)), torch.tensor(p_add), generator=generator))
        added = self.absent(_different(self.n_absent, number, generator).to(device))
        # Both are sorted: merging them takes less than sorting them again.
        place = torch.searchsorted(kept, added) + torch.arange(len(added), device=device)
        in_prior = torch.ones(len(kept) + len(added), dtype=torch.bool, device=device).index_fill_(0, place, False)
        position = torch.empty_like(in_prior, dtype=torch.long).index_copy_(0, place, added)
        position.masked_scatter_(in_prior, kept)
        return self._edges(position, in_prior)

    def _edges(self, position: Tensor, in_prior: Tensor) -> Edges:
        target, source = self.genes(position)
        row_pointer = torch.searchsorted(target, torch.arange(self.n_genes + 1, device=position.device))
        return Edges(position, target, source, row_pointer, in_prior)


def _different(n: int, number: int, generator: torch.Generator) -> Tensor:
    """Draw `number` different integers below `n`, sorted, every set of them equally likely."""
    if 2 * number > n:  # rare, dense request: a permutation is cheaper than rejection
        return torch.randperm(n, generator=generator)[:number].sort().values
    drawn = torch.empty(0, dtype=torch.long)
    while len(drawn) < number:
        more = torch.randint(n, (number - len(drawn) + number // 20 + 8,), generator=generator)
        drawn = torch.cat([drawn, more]).unique()
    chosen = torch.ones(len(drawn), dtype=torch.bool)
    chosen[torch.randperm(len(drawn), generator=generator)[number:]] = False
    return drawn[chosen]


def edge_softmax(logit: Tensor, edges: Edges, *, null_slot: bool) -> Tensor:
    """Softmax over the edges of each row (Eq. 11), ``(n_edges,)``.

    Parameters
    ----------
    logit
        Logits of the edges, ``(n_edges,)``.
    edges
        The edges.
    null_slot
        Add a slot with logit 0 to every row, which takes its share and points nowhere: ``exp(L) / (1 + sum exp(L))``.
        It pins the level of a row of logits, which a plain softmax leaves undetermined.
    """
    n_rows = len(edges.row_pointer) - 1
    start = 0.0 if null_slot else -torch.inf
    highest = torch.full((n_rows,), start, dtype=logit.dtype, device=logit.device)
    highest = highest.scatter_reduce(0, edges.target, logit.detach(), reduce="amax")
    exponential = torch.exp(logit - highest.index_select(0, edges.target))
    total = torch.exp(-highest) if null_slot else torch.zeros_like(highest)
    return exponential / total.index_add(0, edges.target, exponential).index_select(0, edges.target)


def sampled_product(weight: Tensor, dense: Tensor, edges: Edges) -> Tensor:
    """Multiply the sparse matrix of edge weights with a dense one: ``out[i]`` sums weight * dense[j] over edges j -> i.

    Parameters
    ----------
    weight
        ``(n_edges,)``.
    dense
        ``(n_genes, n_columns)``, or several such matrices, ``(n, n_genes, n_columns)``, which takes half the time of
        one that is as wide as all together, since more of it stays in the processor's cache.
    edges
        The edges.

    Returns
    -------
    The shape of `dense`; 0 for rows without edges. Differentiable in `weight`, at the cost of one dot product per
    edge, and in `dense`. No dense gene x gene matrix is made.
    """
    return _SampledProduct.apply(weight, dense, edges)


class _SampledProduct(torch.autograd.Function):
    """Sparse times dense with both gradients sparse: torch's own gradient for the sparse factor can be dense."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dense: Tensor, edges: Edges) -> Tensor:
        ctx.save_for_backward(weight, dense)
        ctx.edges = edges
        return product(csr(edges.row_pointer, edges.source, weight), dense)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, dense = ctx.saved_tensors
        edges, gradient = ctx.edges, gradients[0].contiguous()
        weight_gradient = dense_gradient = None
        if ctx.needs_input_grad[0]:
            pattern = csr(edges.row_pointer, edges.source, torch.zeros_like(weight))
            for one, other in zip(_matrices(gradient), _matrices(dense), strict=True):
                pattern = torch.sparse.sampled_addmm(pattern, one, other.T)
            weight_gradient = pattern.values()
        if ctx.needs_input_grad[1]:
            order, row_pointer, target = edges.by_source
            dense_gradient = product(csr(row_pointer, target, weight.index_select(0, order)), gradient)
        return weight_gradient, dense_gradient, None


def _matrices(dense: Tensor) -> tuple[Tensor, ...]:
    return (dense,) if dense.dim() == 2 else dense.unbind()


def product(matrix: Tensor, dense: Tensor) -> Tensor:
    out = torch.empty_like(dense, memory_format=torch.contiguous_format)
    for one, result in zip(_matrices(dense), _matrices(out), strict=True):
        torch.mm(matrix, one, out=result)
    return out


def csr(row_pointer: Tensor, column: Tensor, value: Tensor) -> Tensor:
    n = len(row_pointer) - 1
    with warnings.catch_warnings():
        # torch announces its CSR layout as beta once per process; the operations used here are tested.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(row_pointer, column, value, (n, n), check_invariants=False)
