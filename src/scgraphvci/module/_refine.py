"""The graph convolutional network of GRN refinement (Eq. 11-13): predicts each gene from its neighbours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor, nn

from scgraphvci._constants import KEYS
from scgraphvci.module._edge_logits import EdgeLogits
from scgraphvci.module._sampled_graph import CandidateEdges, Edges, edge_softmax, sampled_product

if TYPE_CHECKING:
    from scgraphvci.data._refine_statistics import RefineStatistics

HIDDEN_SHARE = 0.2
MIN_COVARIANCE = 0.0125  # a weaker pull is not felt within the default number of steps


class RefineModule(EdgeLogits):
    """Predicts the expression of every gene from that of its regulators, with a learnable logit per candidate edge.

    A layer is ``act(w H W)`` with ``w`` the softmax of the logits of the sampled edges over each target's row.
    Expression enters as residuals from stratum means in units of their standard deviation, with gene features and
    covariates beside it. Sampled edges are given to :meth:`generative`; without them it uses :meth:`active_edges`.

    Parameters
    ----------
    n_genes
        Number of genes N.
    prior
        Pairs (source, target) of the prior network, ``(2, n_prior)``.
    sources, pairs
        What else may become an edge; see :class:`CandidateEdges`.
    strata
        Level codes of the covariates of each stratum, ``(n_strata, n_covariates)``.
    n_levels
        Number of levels of each covariate.
    features
        Gene features, ``(n_genes, v)``, or their number: then they are computed from training cells.
    n_layers, n_hidden
        Number of graph layers, their width.
    p_keep, p_add
        Probability of sampling pairs of the prior (and the diagonal, where allowed), and all other candidates.
    evidence
        Start logits at what the training cells say of each edge (:func:`scgraphvci.data._edge_evidence.edge_evidence`)
        and hold them there: the log odds l, see Notes, are the mean of a normal prior of the logit. Its cost,
        ``evidence_weight / 2 * (L - l)^2`` for every edge, takes the place of the edge penalty.
    evidence_weight
        See `evidence`, on the scale of `edge_penalty`. A logit settles at l less the derivative of the loss with
        respect to it divided by this.
    edge_penalty
        Cost of an edge, in units of its target's variance. Adds ``edge_penalty * sum(sigmoid(L)) / N`` to the loss,
        which is lambda * mean(sigmoid(L)) of Eq. 13 with lambda = edge_penalty * N when all pairs are candidates. An
        edge with little weight, alone in its row, rises if the absolute covariance it carries is above
        ``edge_penalty / (2 gain)``. None: by target, such that this is sqrt(2) standard errors, ``sqrt(2 / n_cells)``,
        below which an edge is not expected to help in predicting new cells (Akaike's criterion); at least 0.0125. With
        `evidence`, None is 0.
    absent_penalty
        The same for pairs outside the prior. None: such that it is ``sqrt(2 log(n_absent) / n_cells)``, so that of all
        these pairs none is expected to rise by chance (universal threshold of Donoho and Johnstone).
    self_penalty
        Added on the diagonal.
    hide_self
        Predict a gene without seeing its own expression. With one layer self-loops are left out. With more, paths lead
        back, so a fifth of each cell's expression is hidden at random and the loss is taken there.
    signed
        Multiply expression along each edge with the sign of its (adjusted) residual covariance: softmax weights are
        positive, so a repressor and an activator of one target could not both be used otherwise.
    adjust_regulators
        Send what is a regulator's own (its residual from ridge regression on all other regulators) in place of its
        expression, so that regulators sharing a cause do not stand in for each other.
    null_slot
        See :func:`edge_softmax`. With it the scale of the weights that follow is held fixed; without, it is free.
    gain
        That scale: an edge with the whole weight of its row moves its target by as many standard deviations per
        standard deviation of its message. Where candidates above their chance level carry more covariance than that
        together, the target gets their sum, up to 1: too small a scale lets the first edges to rise use up the row.
    prior_logit, absent_logit
        Where logits start without `evidence`.

    Notes
    -----
    The log odds are linear in the evidence, ``slope * E + intercept``, with an intercept for pairs of the prior and one
    for others: :func:`scgraphvci.data._edge_posterior.edge_posterior` estimates them from how evidence differs between
    these groups, so that their sigmoid is the probability that an edge is real. It does so for edges of perturbed
    regulators and of others apart, as shifts add evidence to the former. Logits are kept within 12 of 0.
    """

    sign: Tensor
    scale: Tensor
    stratum_mean: Tensor
    features: Tensor
    covariates: Tensor
    regulators: Tensor
    regulator_place: Tensor
    precision: Tensor
    own_scale: Tensor
    target_gain: Tensor

    def __init__(
        self,
        n_genes: int,
        prior: np.ndarray,
        sources: np.ndarray,
        pairs: np.ndarray | None = None,
        strata: np.ndarray | None = None,
        n_levels: list[int] | None = None,
        features: np.ndarray | int = 8,
        *,
        n_layers: int = 1,
        n_hidden: int = 8,
        evidence: bool = True,
        evidence_weight: float = 0.1,
        p_keep: float = 0.982,
        p_add: float = 0.018,
        edge_penalty: float | None = None,
        absent_penalty: float | None = None,
        self_penalty: float = 0.0,
        hide_self: bool = True,
        signed: bool = True,
        adjust_regulators: bool = True,
        null_slot: bool = True,
        gain: float = 0.2,
        prior_logit: float = 0.0,
        absent_logit: float = -4.0,
    ) -> None:
        penalties = {
            "edge_penalty": edge_penalty,
            "absent_penalty": absent_penalty,
            "self_penalty": self_penalty,
            "evidence_weight": evidence_weight,
        }
        _check_options(n_layers, n_hidden, {"p_keep": p_keep, "p_add": p_add}, penalties, gain)
        prior = np.asarray(prior, dtype=np.int64)
        super().__init__(
            CandidateEdges(n_genes, prior, sources, pairs, self_loops=not hide_self or n_layers > 1),
            evidence=evidence,
            evidence_weight=evidence_weight,
            p_keep=p_keep,
            p_add=p_add,
            edge_penalty=edge_penalty or 0.0,
            absent_penalty=absent_penalty or 0.0,
            self_penalty=self_penalty,
            prior_logit=prior_logit,
            absent_logit=absent_logit,
        )
        self._given_penalties = edge_penalty, absent_penalty
        self.n_hidden, self.gain, self.null_slot, self.signed = n_hidden, gain, null_slot, signed
        self.hidden_share = HIDDEN_SHARE if hide_self and n_layers > 1 else 0.0
        self.register_buffer("target_gain", torch.full((n_genes,), gain))
        self._register_statistics(prior, strata, n_levels or [], features, adjust_regulators)
        width_in = self.features.shape[1] + self.covariates.shape[1]
        self.expression_weight = nn.Parameter(torch.randn(1, n_hidden))
        self.context_weight = nn.Parameter(torch.randn(width_in, n_hidden) / math.sqrt(n_hidden))
        self.hidden_weights = nn.ParameterList(torch.eye(n_hidden) for _ in range(n_layers - 1))
        self.readout = nn.Parameter(self.expression_weight.detach().clone())
        self.gene_bias = nn.Parameter(torch.zeros(n_genes))

    def _register_statistics(
        self,
        prior: np.ndarray,
        strata: np.ndarray | None,
        n_levels: list[int],
        features: np.ndarray | int,
        adjust_regulators: bool,
    ) -> None:
        """Make room for what :meth:`initialise` fills in, in shapes that the registry alone determines."""
        strata = np.zeros((1, 0), dtype=np.int64) if strata is None else np.asarray(strata, dtype=np.int64)
        covariates = [np.eye(n, dtype=np.float32)[codes] for n, codes in zip(n_levels, strata.T, strict=True)]
        one_hot = np.concatenate(covariates, axis=1) if covariates else np.empty((len(strata), 0), dtype=np.float32)
        self.register_buffer("covariates", torch.as_tensor(one_hot), persistent=False)
        regulators = np.unique(prior[0, prior[0] != prior[1]]) if adjust_regulators else np.empty(0, dtype=np.int64)
        place = np.full(self.n_genes, -1, dtype=np.int64)
        place[regulators] = np.arange(len(regulators))
        self.register_buffer("regulators", torch.as_tensor(regulators), persistent=False)
        self.register_buffer("regulator_place", torch.as_tensor(place), persistent=False)
        self.learn_features = isinstance(features, int)
        if isinstance(features, int):
            n_features = max(0, min(features, self.n_genes - 1, self.candidates.n_sources - 1))
            features = np.zeros((self.n_genes, n_features), dtype=np.float32)
        self.register_buffer("features", torch.as_tensor(np.asarray(features, dtype=np.float32)))
        self.register_buffer("stratum_mean", torch.zeros(len(strata), self.n_genes))
        self.register_buffer("scale", torch.ones(self.n_genes))
        self.register_buffer("precision", torch.eye(len(regulators)))
        self.register_buffer("own_scale", torch.ones(len(regulators)))
        self.register_buffer("sign", torch.ones(self.candidates.size, dtype=torch.int8))

    def initialise(self, statistics: RefineStatistics) -> None:
        """Take over the statistics of training cells."""
        self.stratum_mean.copy_(torch.as_tensor(statistics.mean))
        self.scale.copy_(torch.as_tensor(statistics.scale))
        self.precision.copy_(torch.as_tensor(statistics.precision))
        self.own_scale.copy_(torch.as_tensor(statistics.own_scale))
        covariance = self._of_candidates(statistics.covariance)
        covariance[self.candidates.excluded] = 0.0
        self.sign.copy_(covariance.sign())
        self._set_scales(covariance.abs_(), statistics.n_cells)
        if self.log_odds is not None:
            self._set_log_odds(self.log_odds, statistics.evidence, statistics.perturbed)
        if self.learn_features:
            self.features.copy_(torch.as_tensor(statistics.features))

    def _set_scales(self, covariance: Tensor, n_cells: int) -> None:
        """Set gains and penalties by what covariances chance would give."""
        floor_prior = max(MIN_COVARIANCE, math.sqrt(2 / n_cells))
        floor_absent = max(floor_prior, math.sqrt(2 * math.log(max(2, self.candidates.n_absent)) / n_cells))
        floor = torch.full_like(covariance, floor_absent)
        floor[self.candidates.prior] = floor_prior
        target, _ = self.candidates.genes(torch.arange(self.candidates.size, device=covariance.device))
        carried = torch.zeros_like(self.target_gain).index_add(0, target, covariance * (covariance > floor))
        self.target_gain.copy_(carried.clamp(min=self.gain, max=max(1.0, self.gain)))
        edge_penalty, absent_penalty = self._given_penalties
        if self.log_odds is None:
            self.edge_penalty.copy_(2 * self.target_gain * floor_prior)
            self.absent_penalty.copy_(2 * self.target_gain * floor_absent)
        if edge_penalty is not None:
            self.edge_penalty.fill_(edge_penalty)
        if absent_penalty is not None:
            self.absent_penalty.fill_(absent_penalty)

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        return {"x": tensors[KEYS.OUTCOME], "stratum": tensors[KEYS.STRATUM]}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        return inference_outputs

    @auto_move_data
    def inference(self, x: Tensor, stratum: Tensor) -> dict[str, Tensor]:
        """Return residuals from stratum means in units of their standard deviation, genes x cells, and covariates."""
        stratum = stratum.long().flatten()
        residual = (x - self.stratum_mean[stratum]) / self.scale
        return {"residual": residual.T.contiguous(), "covariates": self.covariates[stratum]}

    @auto_move_data
    def generative(
        self,
        residual: Tensor,
        covariates: Tensor,
        edges: Edges | None = None,
        logit: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor | None]:
        """Predict residuals from those of neighbours.

        Parameters
        ----------
        residual
            ``(n_genes, n_cells)``.
        covariates
            ``(n_cells, n_levels)``.
        edges
            Sampled edges; the active ones if None.
        logit
            Their logits, to be differentiated in; the stored ones if None.
        generator
            Of the expression to hide; nothing is hidden without it.

        Returns
        -------
        `prediction` ``(n_genes, n_cells)``; `scored` of that shape, true where the prediction is to be scored, or None.
        """
        edges = self.active_edges() if edges is None else edges
        logit = self.logit[edges.position] if logit is None else logit
        weight = edge_softmax(logit, edges, null_slot=self.null_slot)
        hidden = None
        if generator is not None and self.hidden_share > 0:
            hidden = (torch.rand(residual.shape, generator=generator) < self.hidden_share).to(residual.device)
            residual = residual.masked_fill(hidden, 0.0)
        state = F.elu(self._first_layer(residual, covariates, weight, edges), inplace=True)
        for matrix in self.hidden_weights:
            mixed = (self._scaled(matrix).T @ state.flatten(start_dim=1)).view_as(state)
            state = F.elu(sampled_product(weight, mixed, edges), inplace=True)
        return {"prediction": self._read_out(state), "scored": hidden}

    def _first_layer(self, residual: Tensor, covariates: Tensor, weight: Tensor, edges: Edges) -> Tensor:
        """Aggregate over neighbours before widening: products have a column per cell and feature, not per unit.

        Returns ``(n_hidden, n_genes, n_cells)``.
        """
        signed = weight * self.sign.index_select(0, edges.position) if self.signed else weight
        expression = self._aggregate_expression(residual, signed, edges)
        return self._widened(expression, sampled_product(weight, self._features_and_ones(), edges), covariates)

    def _features_and_ones(self) -> Tensor:
        """Features of genes, ``(n_genes, v + 1)``; aggregating the last column gives the sum of each row of weights."""
        return torch.cat([self.features, torch.ones_like(self.gene_bias)[:, None]], dim=1)

    def _widened(self, expression: Tensor, rows: Tensor, covariates: Tensor) -> Tensor:
        """First layer before its activation, of what was aggregated: expression, features with ones, and nothing else.

        Covariates are the same for all genes, so that the row sum is all that aggregation does to them.
        """
        n_features = self.features.shape[1]
        context = self._scaled(self.context_weight) / math.sqrt(max(1, len(self.context_weight)))
        of_genes, row_sum = rows[:, :n_features] @ context[:n_features], rows[:, n_features]
        of_cells = covariates @ context[n_features:]
        # A unit is the sum of two outer products and a multiple of expression: as products of matrices they take one
        # pass over the result each, forward and backward.
        genes = torch.stack([of_genes.T, row_sum.expand_as(of_genes.T)], dim=2)
        cells = torch.stack([torch.ones_like(of_cells.T), of_cells.T], dim=1)
        widened = self._scaled(self.expression_weight).T @ expression.reshape(1, -1)
        return torch.baddbmm(widened.view(-1, *expression.shape), genes, cells)

    def _read_out(self, state: Tensor) -> Tensor:
        """Prediction ``(n_genes, n_cells)`` from the last layer, ``(n_hidden, n_genes, n_cells)``."""
        prediction = (self._scaled(self.readout) @ state.flatten(start_dim=1)).view(state.shape[1:])
        if self.null_slot:
            prediction = prediction * self.target_gain[:, None]
        return prediction + self.gene_bias[:, None]

    def _aggregate_expression(self, residual: Tensor, weight: Tensor, edges: Edges) -> Tensor:
        """Sum messages over sources, ``(n_genes, n_cells)``."""
        if len(self.regulators) == 0:
            return sampled_product(weight, residual, edges)
        own = self.precision @ residual[self.regulators]
        message = residual.index_copy(0, self.regulators, own / self.own_scale[:, None])
        total = sampled_product(weight, message, edges)
        # For a target that is a regulator, take its own expression out of the others' messages: j's is then
        # u_j - u_i Theta_ji / Theta_ii, with u = Theta z; the second part is summed over j here.
        target, source = (self.regulator_place.index_select(0, genes) for genes in (edges.target, edges.source))
        among = ((target >= 0) & (source >= 0) & (target != source)).nonzero().flatten()
        target, source = target[among], source[among]
        share = self.precision[source, target] / (self.precision.diagonal()[target] * self.own_scale[source])
        back = torch.zeros_like(self.own_scale).index_add(0, target, weight.index_select(0, among) * share)
        return total.index_add(0, self.regulators, -back[:, None] * own)

    def _scaled(self, matrix: Tensor) -> Tensor:
        """Give each row of a weight matrix length 1 when the null slot is used: a free gain would undo it."""
        return F.normalize(matrix, dim=-1) if self.null_slot else matrix

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Any]
    ) -> LossOutput:
        """Mean squared error per gene, in units of the gene's variance within strata.

        The edge penalty is no part of it: the training plan applies its gradient to the logits directly.
        """
        error = (generative_outputs["prediction"] - inference_outputs["residual"]) ** 2
        scored = generative_outputs["scored"]
        per_cell = error.mean(dim=0)
        if scored is not None:
            per_cell = (error * scored).sum(dim=0) / scored.sum(dim=0).clamp(min=1)
        return LossOutput(loss=per_cell.mean(), reconstruction_loss=per_cell)


def _check_options(
    n_layers: int, n_hidden: int, probabilities: dict[str, float], penalties: dict[str, float | None], gain: float
) -> None:
    if n_layers < 1 or n_hidden < 1:
        msg = f"n_layers={n_layers} and n_hidden={n_hidden} must be at least 1."
        raise ValueError(msg)
    for name, value in probabilities.items():
        if not 0 < value <= 1:
            msg = f"{name}={value} must be a probability above 0."
            raise ValueError(msg)
    for name, penalty in penalties.items():
        if penalty is not None and not (math.isfinite(penalty) and penalty >= 0):
            msg = f"{name}={penalty} must be finite and not negative."
            raise ValueError(msg)
    if not (math.isfinite(gain) and gain > 0):
        msg = f"gain={gain} must be finite and positive."
        raise ValueError(msg)
