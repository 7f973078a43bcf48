"""The logits of candidate edges in GRN refinement: where they start, what they cost and how they move."""

from __future__ import annotations

import math

import numpy as np
import torch
from scvi.module.base import BaseModuleClass
from torch import Tensor

from scgraphvci.data._edge_posterior import edge_posterior
from scgraphvci.module._sampled_graph import CandidateEdges, Edges

MAX_LOGIT = 12.0  # sigmoid(-12) = 6e-6: beyond it a confidence says nothing more


class EdgeLogits(BaseModuleClass):
    """What a module has whose edges are uncertain: a logit for every candidate edge, not trained by the optimiser.

    The training plan draws edges (:meth:`sample_edges`), brings their logits up to date (:meth:`pull_logits`),
    differentiates the loss with respect to them and moves them (:meth:`step_logits`). Logits are stored once, and a
    step costs as much as it has sampled edges.

    Parameters
    ----------
    candidates
        The candidate edges.
    evidence, evidence_weight, p_keep, p_add, edge_penalty, absent_penalty, self_penalty
    prior_logit, absent_logit
        See :class:`scgraphvci.module.RefineModule`.
    """

    logit: Tensor
    edge_penalty: Tensor
    absent_penalty: Tensor
    log_odds: Tensor | None
    pulled: Tensor

    def __init__(
        self,
        candidates: CandidateEdges,
        *,
        evidence: bool,
        evidence_weight: float,
        p_keep: float,
        p_add: float,
        edge_penalty: float,
        absent_penalty: float,
        self_penalty: float,
        prior_logit: float,
        absent_logit: float,
    ) -> None:
        super().__init__()
        self.candidates, self.n_genes = candidates, candidates.n_genes
        self.p_keep, self.p_add = p_keep, p_add
        self.evidence_weight, self.self_penalty = evidence_weight, self_penalty
        logit = torch.full((candidates.size,), absent_logit)
        logit[candidates.prior] = prior_logit
        logit[candidates.excluded] = -MAX_LOGIT
        self.register_buffer("logit", logit)
        self.register_buffer("log_odds", logit.clone() if evidence else None)
        # By target, of pairs in the prior and of others.
        self.register_buffer("edge_penalty", torch.full((self.n_genes,), edge_penalty))
        self.register_buffer("absent_penalty", torch.full((self.n_genes,), absent_penalty))
        # How many steps' pull towards the log odds each logit has had, of those taken since they were last settled.
        pulled = torch.zeros(candidates.size if evidence else 0, dtype=torch.int32)
        self.register_buffer("pulled", pulled, persistent=False)
        self._n_steps = 0

    def _of_candidates(self, table: np.ndarray) -> Tensor:
        """Take the candidates' values from a table of targets by sources."""
        values = torch.as_tensor(np.ascontiguousarray(table), device=self.logit.device).reshape(-1)
        return values.clone() if self.candidates.keys is None else values[self.candidates.keys]

    def _set_log_odds(self, log_odds: Tensor, evidence: np.ndarray | None, perturbed: np.ndarray | None) -> None:
        """Turn evidence into log odds, for edges of perturbed sources and of others apart, and start there."""
        if evidence is None or perturbed is None:
            msg = "Log odds need evidence: compute the statistics with `evidence=True`."
            raise ValueError(msg)
        found = self._of_candidates(evidence)
        shifted = self._of_candidates(np.broadcast_to(perturbed, evidence.shape))
        prior = self.candidates.prior
        target, source = self.candidates.genes(prior)
        outside = self.candidates.absent(torch.arange(self.candidates.n_absent, device=found.device))
        for group in (True, False):
            listed, other = prior[shifted[prior] == group], outside[shifted[outside] == group]
            of_others = prior[(shifted[prior] == group) & (target != source)]
            posterior = edge_posterior(found[of_others].cpu().numpy(), found[other].cpu().numpy())
            found[listed] = posterior.slope * found[listed] + posterior.within
            found[other] = posterior.slope * found[other] + posterior.outside
        found[self.candidates.excluded] = -MAX_LOGIT
        log_odds.copy_(found.clamp(-MAX_LOGIT, MAX_LOGIT))
        self.logit.copy_(log_odds)

    def sample_edges(self, generator: torch.Generator) -> Edges:
        """Draw the hard mask of a training step."""
        return self.candidates.sample(self.p_keep, self.p_add, generator)

    def active_edges(self, threshold: float = 0.3) -> Edges:
        """Return the edges used outside training: the prior's pairs and whatever exceeds the confidence threshold."""
        active = self.logit > math.log(threshold / (1 - threshold))
        active[self.candidates.prior] = True
        return self.candidates.edges(active.nonzero().flatten())

    def penalty(self) -> Tensor:
        """Cost of edges at the present logits, on the scale of the loss (per gene)."""
        prior = self.candidates.prior
        confidence = torch.sigmoid(self.logit)
        target, source = self.candidates.genes(torch.arange(self.candidates.size, device=self.logit.device))
        cost = self.absent_penalty[target]
        cost[prior] = self.edge_penalty[target[prior]]
        cost = cost + self.self_penalty * (target == source)
        total = (cost * confidence).sum()
        if self.log_odds is not None:
            total = total + self.evidence_weight / 2 * ((self.logit - self.log_odds) ** 2).sum()
        return total / self.n_genes

    @torch.no_grad()
    def pull_logits(self, position: Tensor, lr: float) -> None:
        """Bring logits to where their cost has pulled them in the steps since they were last touched.

        A step of gradient descent on the quadratic cost multiplies the distance to the log odds by
        ``1 - lr * evidence_weight``, so any number of them is one power of it. Does nothing without evidence.

        Parameters
        ----------
        position
            Of the logits.
        lr
            As for :meth:`step_logits`.
        """
        if self.log_odds is None:
            return
        elapsed = self._n_steps - self.pulled.index_select(0, position)
        logit, start = (values.index_select(0, position) for values in (self.logit, self.log_odds))
        self.logit.index_copy_(0, position, start + (logit - start) * self._kept_distance(lr) ** elapsed)
        self.pulled.index_fill_(0, position, self._n_steps)

    def settle_logits(self, lr: float) -> None:
        """Bring all logits to the present step."""
        if self._n_steps:
            self.pull_logits(torch.arange(self.candidates.size, device=self.logit.device), lr)
            self.pulled.zero_()
            self._n_steps = 0

    @torch.no_grad()
    def step_logits(self, edges: Edges, gradient: Tensor, lr: float) -> None:
        """Move the logits of sampled edges down the gradient of loss and penalty, divided by each edge's sampling rate.

        Plain gradient descent: an edge that is sampled rarely moves as far, on average, as one that is always sampled,
        and penalty and loss keep the proportion in which they stand in the objective. The quadratic cost pulls every
        logit in every step, sampled or not: see :meth:`pull_logits`, to be called before the loss is computed.

        Parameters
        ----------
        edges
            The edges.
        gradient
            Of the loss (per gene) with respect to their logits.
        lr
            Step length, for the loss summed over targets.
        """
        logit, in_prior = self.logit.index_select(0, edges.position), edges.in_prior
        present, absent = (cost.index_select(0, edges.target) for cost in (self.edge_penalty, self.absent_penalty))
        cost = torch.where(in_prior, present, absent) + self.self_penalty * (edges.target == edges.source)
        confidence = torch.sigmoid(logit)
        rate = self.p_add + (self.p_keep - self.p_add) * in_prior
        step = lr * (self.n_genes * gradient + cost * confidence * (1 - confidence)) / rate
        # No single outlying cell moves an edge by more than 1.
        step = step.clamp(-1.0, 1.0)
        self._n_steps += 1
        if self.log_odds is not None:
            start = self.log_odds.index_select(0, edges.position)
            logit = start + (logit - start) * self._kept_distance(lr)
            self.pulled.index_fill_(0, edges.position, self._n_steps)
        self.logit.index_copy_(0, edges.position, (logit - step).clamp(-MAX_LOGIT, MAX_LOGIT))

    def _kept_distance(self, lr: float) -> float:
        """Share of the distance to the log odds that a step's pull leaves."""
        return max(0.0, 1 - lr * self.evidence_weight)
