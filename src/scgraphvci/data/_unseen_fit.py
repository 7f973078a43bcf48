"""Learning, from the treatments that were seen, to foretell responses to others."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np

from scgraphvci.data._edge_effects import N_HOPS, EdgeEffects, fit_edge_effects
from scgraphvci.data._expected_error import MIN_VARIANCE, ExpectedError, fit_expected_error
from scgraphvci.data._kriging import HETEROGENEITY
from scgraphvci.data._treatment_kernel import Kind, TreatmentKernel, descriptor_relevance
from scgraphvci.data._unseen import UnseenModel, knockdown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgraphvci.data._unseen import Genes, Seen

EDGE_SPREAD = (0.0, 0.1, 0.5)  # prior variance of what responses add to an edge's effect
KERNEL_SHARE = (0.25, 1.0, 4.0)  # variance along the descriptors, in variances of a response about the mean
PENALTY = 1e-3  # of pooled coefficients, relative to what the data say of them
WORTH = 0.005  # share of the left-out error by which a richer model must win
MAX_GROUPS = 100  # of treatments left out together of the relevance of descriptors
MAX_SOLVED = 3e9  # treatments cubed times groups


def fit_unseen(seen: Seen, genes: Genes, scale: np.ndarray, *, log: bool) -> UnseenModel:
    """Fit variants and return the one that best foretells seen treatments that were left out.

    Without use of targets and descriptors the model foretells the mean over seen treatments; anything else must win
    over that in leave-one-treatment-out errors, which are in closed form. Processes along descriptors are so many that
    one of them wins by chance: each must win by more than a standard error. Of those that do, the one is taken that
    best foretells where responses are large: the mean error is lowest for one that hardly dares.

    Parameters
    ----------
    seen
        The seen treatments, at least two.
    genes
        The genes.
    scale
        Standard deviations within strata, shape ``(n_genes,)``.
    log
        Whether the outcome is a log rate, from which a knock-down takes the same of every gene.
    """
    about_mean = seen.response - seen.response.mean(axis=0)
    excess = max(HETEROGENEITY[0], float((about_mean**2).mean() - seen.noise.mean()))
    plain = _start(seen, genes, scale, edges=None, falls=False)
    best = _assess(plain, seen, None, excess)
    mean_error, start = best.error, plain
    for variant in _variants(seen, genes, scale, log=log):
        candidate = _assess(variant, seen, None, excess)
        if candidate.error < (1 - WORTH) * best.error:
            best, start = candidate, variant
    without, lowest, weight = best, np.inf, 1 / (seen.noise + excess)
    for process in _processes(seen, excess):
        for variant in [plain] if start is plain else [plain, start]:
            candidate = _assess(variant, seen, process, excess)
            surely = _surely_less(candidate.losses, without.losses, weight)
            if surely and candidate.signal_error < lowest:
                best, lowest = candidate, candidate.signal_error
    edges = best.edges and replace(best.edges, correction=best.edges.correction[:0])
    return replace(best, edges=edges, mean_error=mean_error)


def _start(seen: Seen, genes: Genes, scale: np.ndarray, *, edges: EdgeEffects | None, falls: bool) -> UnseenModel:
    """A model without coefficients."""
    n_genes = seen.response.shape[1]
    score = genes.controls.score.astype(np.float64)
    nothing = ExpectedError(np.zeros(n_genes), np.zeros(0), 0.0, np.zeros((0, n_genes)))
    return UnseenModel(
        mean=np.zeros(n_genes), beta=np.zeros(0), falls=falls, axes=genes.controls.axes,
        covariance=score.T @ score / max(len(score), 1), fall=knockdown(genes), unit=genes.unit, edges=edges,
        kernel=None, scale=scale, errors=nothing, losses=np.zeros(0), error=np.inf, signal_error=np.inf,
        mean_error=np.inf,
    )  # fmt: skip


def _variants(seen: Seen, genes: Genes, scale: np.ndarray, *, log: bool) -> Iterator[UnseenModel]:
    """Yield the ways to use target genes."""
    if not (seen.gene >= 0).any():
        return
    routes: list[tuple[int, EdgeEffects | None]] = [(1, None), (2, None)]
    if genes.network is not None:
        for spread in EDGE_SPREAD:
            fitted = fit_edge_effects(genes.network, genes.controls, seen.response, seen.noise, seen.gene, spread)
            routes.append((2 + N_HOPS, fitted))
    for n_pairs, edges in routes:
        for falls in (False,) if log else (True, False):
            yield replace(_start(seen, genes, scale, edges=edges, falls=falls), beta=np.ones(n_pairs))


def _surely_less(losses: np.ndarray, others: np.ndarray, weight: np.ndarray) -> bool:
    """Whether the weighted mean of losses is lower by more than the standard error of the difference."""
    gain, share = others - losses, weight / weight.sum()
    mean = float(share @ gain)
    return mean > float(np.sqrt(share**2 @ (gain - mean) ** 2))


class _Process(NamedTuple):
    """A process along descriptors, also as groups of treatments see it that had no say in which descriptors count."""

    kernel: TreatmentKernel
    without: list[tuple[np.ndarray, TreatmentKernel]]


def _processes(seen: Seen, excess: float) -> Iterator[_Process]:
    """Yield the ways to use descriptors: all alike, or by how much each explains of the responses."""
    if seen.features is None:
        return
    x, y, n = seen.features, seen.response, len(seen.features)
    n_groups = min(n, MAX_GROUPS, max(5, int(MAX_SOLVED / n**3)))
    groups = [np.arange(k, n, n_groups) for k in range(n_groups)]
    relevance = descriptor_relevance(x, y)
    others = [descriptor_relevance(np.delete(x, group, axis=0), np.delete(y, group, axis=0)) for group in groups]
    for kind, share in product(get_args(Kind), KERNEL_SHARE):
        yield _Process(TreatmentKernel.of(x, kind, share * excess), [])
        if relevance.any():
            kernels = [TreatmentKernel.of(x, kind, share * excess, other) for other in others]
            kernel = TreatmentKernel.of(x, kind, share * excess, relevance)
            yield _Process(kernel, list(zip(groups, kernels, strict=True)))


def _assess(model: UnseenModel, seen: Seen, process: _Process | None, excess: float) -> UnseenModel:
    r"""Fit a variant, and leave every treatment out of it in closed form.

    With V the covariance of a gene's responses and P that of what a free mean leaves, the residual of a treatment left
    out is :math:`(P (y - F \beta))_t / P_{tt}`, and leaving it out of the normal equations of :math:`\beta` takes off
    :math:`(P F)_t^\top (P y)_t / P_{tt}`.
    """
    precision = _Precision(seen.noise, excess, process and process.kernel)
    y, diagonal = seen.response, precision.diagonal.copy()
    py = precision.apply(y)
    pairs, left_out, beta, rest = np.zeros((*y.shape, 0)), np.zeros((len(y), 0)), model.beta, y
    pf = pairs
    if beta.size:
        pairs = np.stack(
            [model.pairs(gene, sign, t) for t, (gene, sign) in enumerate(zip(seen.gene, seen.sign, strict=True))]
        )
        pf = np.stack([precision.apply(pairs[..., k]) for k in range(beta.size)], axis=-1)
        gram, product_ = np.einsum("tgk,tgl->kl", pairs, pf), np.einsum("tgk,tg->k", pf, y)
        ridge = PENALTY * np.diag(gram.diagonal() + MIN_VARIANCE)
        off = np.einsum("tgk,tgl->tkl", pf, pf) / diagonal[:, None, None]
        off_y = np.einsum("tgk,tg->tk", pf, py) / diagonal[:, None]
        left_out = np.linalg.solve(gram - off + ridge, (product_ - off_y)[..., None])[..., 0]
        beta = np.linalg.solve(gram + ridge, product_)
        rest = y - pairs @ beta
    residual = (py - np.einsum("tgk,tk->tg", pf, left_out)) / diagonal[:, None]
    for group, kernel in process.without if process else []:
        for t, row in zip(group, _Precision(seen.noise, excess, kernel).rows(group), strict=True):
            diagonal[t] = row[t]
            residual[t] = row @ (y - pairs @ left_out[t]) / row[t]
    foretold = np.einsum("tgk,tk->tg", pairs, left_out)
    weight = 1 / (seen.noise + excess)
    losses = (residual**2).mean(axis=1) - seen.noise
    signal = np.abs(y - y.mean(axis=0)) + MIN_VARIANCE
    relative = np.average(residual**2, axis=1, weights=signal) / (signal**2).mean(axis=1)
    mean, fitted = precision.mean(rest)
    model = replace(
        model, beta=beta, mean=mean, kernel=fitted, losses=losses, error=float(np.average(losses, weights=weight)),
        signal_error=float(np.average(relative, weights=weight)),
    )  # fmt: skip
    told = zip(foretold, seen.gene, seen.sign, strict=True)
    surprises = np.stack([model.surprises(along, gene, sign) for along, gene, sign in told])
    leverage = (1 / diagonal - seen.noise) / excess
    return replace(model, errors=fit_expected_error(residual, seen.noise, leverage, surprises))


class _Precision:
    """Inverse covariance of a gene's responses over treatments, less what a free mean takes.

    Parameters
    ----------
    noise
        Sampling variance of each treatment, shape ``(n_treatments,)``.
    excess
        Variance of a response about what is foretold.
    kernel
        The process along descriptors, or None: then nothing of size treatments x treatments is made.
    """

    def __init__(self, noise: np.ndarray, excess: float, kernel: TreatmentKernel | None) -> None:
        self._kernel, self._inverse = kernel, None
        self._weight = 1 / (noise + excess)
        self.excess = excess
        if kernel is not None:
            self._inverse = np.linalg.inv(kernel.matrix + np.diag(noise + excess))
            self._weight = self._inverse.sum(axis=1)
        own = self._weight if self._inverse is None else self._inverse.diagonal()
        self.diagonal = own - self._weight**2 / self._weight.sum()

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return P times values, shape ``(n_treatments, n)``."""
        centred = values - self._mean(values)
        return self._weight[:, None] * centred if self._inverse is None else self._inverse @ centred

    def rows(self, some: np.ndarray) -> np.ndarray:
        """Return rows of P, shape ``(n, n_treatments)``."""
        full = np.diag(self._weight) if self._inverse is None else self._inverse
        return full[some] - np.outer(self._weight[some], self._weight) / self._weight.sum()

    def mean(self, values: np.ndarray) -> tuple[np.ndarray, TreatmentKernel | None]:
        """Return the mean of values, and the process fitted to the rest."""
        mean = self._mean(values)
        if self._kernel is None or self._inverse is None:
            return mean, None
        return mean, self._kernel.fitted(self._inverse, self._inverse @ (values - mean), self.excess)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return self._weight @ values / self._weight.sum()
