"""How shifts travel along the edges of a network, learned from control cells and from seen responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scgraphvci.data._gene_regression import MAX_VALUES, RIDGE, RegulatorRegression, Regulators
from scgraphvci.data._kriging import HETEROGENEITY

if TYPE_CHECKING:
    from scgraphvci.data._coexpression import Residuals
    from scgraphvci.data._gene_regression import Network

N_HOPS = 3


@dataclass(frozen=True)
class EdgeEffects:
    """Effect of a regulator's shift on its target, all in standard deviations within strata.

    Attributes
    ----------
    source, target
        Genes, shape ``(n_edges,)``.
    effect
        Effect of each edge, shape ``(n_edges,)``.
    correction
        What each seen treatment's own response added, shape ``(n_treatments, n_edges)``; no rows once fitted for good.
    """

    source: np.ndarray
    target: np.ndarray
    effect: np.ndarray
    correction: np.ndarray

    def hops(self, shift: np.ndarray, without: int | None = None) -> np.ndarray:
        """Return a shift after one, two and three steps along the network, shape ``(n_genes, 3)``.

        Parameters
        ----------
        shift
            Direct shift of genes, shape ``(n_genes,)``.
        without
            A seen treatment whose own response is not to be used.
        """
        effect = self.effect if without is None else self.effect - self.correction[without]
        steps = np.empty((shift.size, N_HOPS))
        for k in range(N_HOPS):
            shift = np.bincount(self.target, shift[self.source] * effect, minlength=shift.size)
            steps[:, k] = shift
        return steps

    def reach(self, shift: np.ndarray) -> np.ndarray:
        """Return the sum of squared shifts of every gene's regulators, whatever edges carry, shape ``(n_genes,)``."""
        return np.bincount(self.target, shift[self.source] ** 2, minlength=shift.size)


def fit_edge_effects(
    network: Network, controls: Residuals, response: np.ndarray, noise: np.ndarray, gene: np.ndarray, spread: float
) -> EdgeEffects:
    r"""Regress every gene on its regulators, over control cells first and then over the responses of seen treatments.

    If effects travel along linear regulation, a response obeys :math:`r = d + r A` with d the direct effect. A has the
    prior :math:`A_{gj} \sim N(b\, C_{gj}, \tau w_{gj})` with C the ridge regression of genes on their regulators over
    control cells, b one slope that carries what measurement noise attenuates, and w the weight of the edge. The
    responses of seen treatments update it; the row of a treatment that targets gene j itself tells nothing of what
    regulates j and is left out.

    Parameters
    ----------
    network
        The network.
    controls
        Residuals of control cells: they carry no treatment's effect.
    response
        Responses of seen treatments, in standard deviations within strata, shape ``(n_treatments, n_genes)``.
    noise
        Their sampling variances, shape ``(n_treatments,)``.
    gene
        The gene that each treatment targets, -1 for none, shape ``(n_treatments,)``.
    spread
        Prior variance tau; 0 leaves the responses out.
    """
    n_genes = response.shape[1]
    regulators = Regulators(network, n_genes)
    regression = RegulatorRegression(
        controls.axes, controls.score.T.astype(np.float64) @ controls.score, len(controls.score), regulators
    )
    known = regression.coefficients(RIDGE[0])
    foretold = np.asarray(response @ known)
    hit = np.flatnonzero(gene >= 0)
    foretold[hit, gene[hit]] = 0
    centred = foretold - foretold.mean(axis=0)
    centred[hit, gene[hit]] = 0
    slope = max(0.0, float((centred * response).sum() / max((centred**2).sum(), 1e-12)))
    parts = [
        _posterior(genes[part], of_gene[part], scale[part], slope * known, response, noise, gene, spread)
        for genes, of_gene, scale in regulators.batches
        for part in _parts(genes.size, response.shape[0] * of_gene.shape[1])
    ]
    source, target, effect, correction = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return EdgeEffects(source, target, effect, correction)


def _parts(n: int, size: int) -> list[slice]:
    step = max(1, MAX_VALUES // max(size, 1))
    return [slice(start, start + step) for start in range(0, n, step)]


def _posterior(
    genes: np.ndarray,
    of_gene: np.ndarray,
    scale: np.ndarray,
    prior: np.ndarray,
    response: np.ndarray,
    noise: np.ndarray,
    gene: np.ndarray,
    spread: float,
) -> tuple[np.ndarray, ...]:
    """Edges into a batch of genes with equally many regulators, and the closed-form change from leaving a row out."""
    where = of_gene.ravel(), np.repeat(genes, of_gene.shape[1])
    mean = np.asarray(prior[where]).reshape(of_gene.shape)
    if not spread:
        nothing = np.zeros((len(response), mean.size), dtype=np.float32)
        return *where, mean.ravel(), nothing
    counts = gene[:, None] != genes
    x = response[:, of_gene] * counts[..., None]  # (n_treatments, n_genes, n_regulators)
    y = response[:, genes] * counts - np.einsum("tgr,gr->tg", x, mean)
    x *= scale
    weight = 1 / (noise + HETEROGENEITY[0])
    gram = np.einsum("t,tgr,tgs->grs", weight, x, x, optimize=True) + np.eye(of_gene.shape[1]) / spread
    covariance = np.linalg.inv(gram)
    gain = np.einsum("grs,tgs->tgr", covariance, x) * weight[:, None, None]
    update = np.einsum("tgr,tg->gr", gain, y)
    left = y - np.einsum("tgr,gr->tg", x, update)
    leverage = np.einsum("tgr,tgr->tg", gain, x)
    correction = scale * gain * (left / (1 - leverage))[..., None]
    return *where, (mean + scale * update).ravel(), correction.reshape(len(response), -1).astype(np.float32)
