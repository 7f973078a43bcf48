"""Responses to treatments that no training cell received, foretold from those to the treatments that were seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
from scipy.optimize import nnls

from scgraphvci.data._edge_effects import N_HOPS, EdgeEffects, fit_edge_effects
from scgraphvci.data._kriging import HETEROGENEITY
from scgraphvci.data._treatment_kernel import Kind, TreatmentKernel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scgraphvci.data._coexpression import Residuals
    from scgraphvci.data._gene_regression import Network

MIN_SEEN = 5  # treatments: fewer cannot say what tells treatments apart
EDGE_SPREAD = (0.0, 0.1, 0.5)  # prior variance of what responses add to an edge's effect
KERNEL_SHARE = (0.25, 1.0, 4.0)  # variance along the descriptors, in variances of a response about the mean
PENALTY = 1e-3  # of pooled coefficients, relative to what the data say of them
WORTH = 0.005  # share of the left-out error by which a richer model must win
MIN_VARIANCE = 1e-6
RANK_TOLERANCE = 1e-9
MIN_SHARE = 0.1  # of a gene's left-out variance that stays whatever else makes errors large


class Seen(NamedTuple):
    """Responses to seen treatments, and what is known of these treatments.

    Attributes
    ----------
    response
        Shifts from control pooled over strata, in standard deviations within strata, ``(n_treatments, n_genes)``.
    noise
        Their sampling variances, shape ``(n_treatments,)``.
    gene
        The gene that each targets, -1 for none, shape ``(n_treatments,)``.
    sign
        Direction in which it is moved: -1 or 1, 0 where that is unknown, shape ``(n_treatments,)``.
    features
        Descriptors, shape ``(n_treatments, n_features)``; None without.
    """

    response: np.ndarray
    noise: np.ndarray
    gene: np.ndarray
    sign: np.ndarray
    features: np.ndarray | None = None


class Genes(NamedTuple):
    """What control cells say of genes.

    Attributes
    ----------
    level
        How far each gene can fall: its mean under control, in standard deviations within strata, ``(n_genes,)``.
    unit
        One unit of the outcome's scale, in standard deviations within strata, shape ``(n_genes,)``.
    controls
        Residuals of control cells.
    network
        The registered network, or None.
    """

    level: np.ndarray
    unit: np.ndarray
    controls: Residuals
    network: Network | None


class Effect(NamedTuple):
    """A foretold response.

    Attributes
    ----------
    shift
        Shift from control pooled over strata, shape ``(n_genes,)``.
    sd
        Standard deviation that is expected of its error, shape ``(n_genes,)``.
    nearest
        Position of the seen treatment with the nearest descriptors, -1 without descriptors.
    distance
        Distance to it, over the median distance of seen treatments to their nearest; NaN without descriptors.
    """

    shift: np.ndarray
    sd: np.ndarray
    nearest: int = -1
    distance: float = np.nan


@dataclass(frozen=True)
class UnseenModel:
    r"""Response to a treatment, :math:`r_{tj} = \mu_j + \sum_k \beta_k F_{tjk} + f_j(d_t)`, in sd within strata.

    F are pairs of a treatment's target gene and an outcome gene: the target itself, coexpression of control cells, and
    one, two and three steps along the network; f is a normal process along the descriptors d.

    Attributes
    ----------
    mean
        mu, shape ``(n_genes,)``.
    beta
        Coefficients, pooled over genes and treatments, shape ``(n_pairs,)``; empty if the target tells nothing.
    falls
        Whether a target moves in proportion to its level, rather than by the same amount whatever the gene.
    axes, covariance, level, unit
        Coexpression of control cells along some axes, and what :class:`Genes` says.
    edges
        Effects along the network, or None.
    kernel
        The process along descriptors, or None.
    scale
        Standard deviations within strata, shape ``(n_genes,)``.
    own_variance, extra_variance
        Variance of left-out responses at a leverage of 1, shape ``(n_genes,)``, and what is added for a large shift
        foretold from the target and for uncertain edges, shape ``(2,)``.
    usual_sd
        Root mean square of the foretold sd of seen treatments that were left out.
    scores
        Left-out residuals of seen treatments over their foretold sd, absolute and in ascending order for each gene,
        shape ``(n_treatments, n_genes)``.
    error, mean_error
        Left-out squared error, less noise, of this model and of the mean over the other treatments.
    """

    mean: np.ndarray
    beta: np.ndarray
    falls: bool
    axes: np.ndarray
    covariance: np.ndarray
    level: np.ndarray
    unit: np.ndarray
    edges: EdgeEffects | None
    kernel: TreatmentKernel | None
    scale: np.ndarray
    own_variance: np.ndarray
    extra_variance: np.ndarray
    usual_sd: float
    scores: np.ndarray
    error: float
    mean_error: float

    def predict(self, gene: int = -1, sign: float = 0.0, features: np.ndarray | None = None) -> Effect:
        """Foretell the response to a treatment, on the outcome's scale.

        Parameters
        ----------
        gene
            The gene it targets, -1 for none.
        sign
            Direction: -1, 1, or 0 for that of the screen.
        features
            Its descriptors, shape ``(n_features,)``.
        """
        shift, leverage, nearest, distance = self.mean.copy(), 1 + 1 / len(self.scores), -1, np.nan
        along_pairs = self.pairs(gene, sign) @ self.beta if self.beta.size else np.zeros_like(shift)
        shift += along_pairs
        if self.kernel is not None and features is not None:
            along, leverage = self.kernel.predict(features)
            shift += along
            nearest, distance = self.kernel.nearest(features)
        variance = leverage * self.own_variance + self._extra(along_pairs, gene, sign) @ self.extra_variance
        return Effect(shift * self.scale, np.sqrt(variance) * self.scale, nearest, distance)

    def margin(self, alpha: float) -> np.ndarray:
        """Return how many foretold sd an interval reaches to either side, shape ``(n_genes,)``.

        Conformal: the score of a new treatment is as likely to take any rank among those of seen ones. Between ranks
        the quantile is interpolated.

        Raises
        ------
        ValueError
            If so high a level cannot be had from so few seen treatments.
        """
        n = len(self.scores)
        rank = (1 - alpha) * (n + 1)
        if not 0 < alpha < 1 or rank > n + RANK_TOLERANCE:
            msg = (
                f"alpha={alpha} must be between 1 / (n + 1) = {1 / (n + 1):.3g} and 1: intervals are calibrated on n = "
                f"{n} seen treatments. Take a larger `alpha`."
            )
            raise ValueError(msg)
        return np.quantile(self.scores, np.clip((rank - 1) / max(n - 1, 1), 0, 1), axis=0)

    def to_state(self) -> dict[str, Any]:
        """Return plain data, to be saved."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> UnseenModel:
        """Rebuild the model from what `to_state` returned."""
        parts = dict(state)
        for name, part in (("edges", EdgeEffects), ("kernel", TreatmentKernel)):
            parts[name] = None if parts[name] is None else part(**parts[name])
        return cls(**parts)

    def pairs(self, gene: int, sign: float, without: int | None = None) -> np.ndarray:
        """Features of a target gene with every gene, one for each coefficient, shape ``(n_genes, n_pairs)``."""
        direct = self._direct(gene, sign)
        along = np.zeros_like(direct)
        if gene >= 0:
            row = self.axes[gene] @ self.covariance @ self.axes.T
            along = direct[gene] * row / max(row[gene], MIN_VARIANCE)
            along[gene] = 0
        parts = [direct[:, None], along[:, None]][: self.beta.size]
        if self.edges is not None:
            parts.append(self.edges.hops(direct, without))
        return np.concatenate(parts, axis=1)

    def _direct(self, gene: int, sign: float) -> np.ndarray:
        direct = np.zeros_like(self.unit)
        if gene >= 0:
            direct[gene] = (sign or -1.0) * (self.level if self.falls else self.unit)[gene]
        return direct

    def _extra(self, along_pairs: np.ndarray, gene: int, sign: float) -> np.ndarray:
        """What makes errors larger: a large shift foretold from the target, and uncertain edges; ``(n_genes, 2)``."""
        uncertain = np.zeros_like(along_pairs)
        if self.beta.size and self.edges is not None:
            uncertain = self.edges.uncertainty(self._direct(gene, sign))
        return np.column_stack([along_pairs**2, uncertain])


def fit_unseen(seen: Seen, genes: Genes, scale: np.ndarray, *, log: bool) -> UnseenModel:
    """Fit variants and return the one that best foretells seen treatments that were left out.

    Without use of targets and descriptors the model foretells the mean over seen treatments; anything else must win
    over that in leave-one-treatment-out errors, which are in closed form.

    Parameters
    ----------
    seen
        The seen treatments, at least two.
    genes
        The genes.
    scale
        Standard deviations within strata, shape ``(n_genes,)``.
    log
        Whether the outcome's scale is logarithmic, so that no gene has a level to fall to.
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
    if seen.features is not None:
        for kind, share in product(get_args(Kind), KERNEL_SHARE):
            kernel = TreatmentKernel.of(seen.features, kind, share * excess)
            for variant in [plain] if start is plain else [plain, start]:
                candidate = _assess(variant, seen, kernel, excess)
                if candidate.error < (1 - WORTH) * best.error:
                    best = candidate
    edges = best.edges and replace(best.edges, correction=best.edges.correction[:0])
    return replace(best, edges=edges, mean_error=mean_error)


def _start(seen: Seen, genes: Genes, scale: np.ndarray, *, edges: EdgeEffects | None, falls: bool) -> UnseenModel:
    """A model without coefficients."""
    n_genes = seen.response.shape[1]
    score = genes.controls.score.astype(np.float64)
    return UnseenModel(
        mean=np.zeros(n_genes), beta=np.zeros(0), falls=falls, axes=genes.controls.axes,
        covariance=score.T @ score / max(len(score), 1), level=genes.level, unit=genes.unit, edges=edges, kernel=None,
        scale=scale, own_variance=np.zeros(n_genes), extra_variance=np.zeros(2), usual_sd=0.0,
        scores=np.zeros((0, n_genes)), error=np.inf, mean_error=np.inf,
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


def _assess(model: UnseenModel, seen: Seen, kernel: TreatmentKernel | None, excess: float) -> UnseenModel:
    r"""Fit a variant, and leave every treatment out of it in closed form.

    With V the covariance of a gene's responses and P that of what a free mean leaves, the residual of a treatment left
    out is :math:`(P (y - F \beta))_t / P_{tt}`, and leaving it out of the normal equations of :math:`\beta` takes off
    :math:`(P F)_t^\top (P y)_t / P_{tt}`.
    """
    precision = _Precision(seen.noise, excess, kernel)
    foretold = np.zeros_like(seen.response)
    y, n_pairs = seen.response, model.beta.size
    py = precision.apply(y)
    if n_pairs:
        pairs = np.stack(
            [model.pairs(gene, sign, t) for t, (gene, sign) in enumerate(zip(seen.gene, seen.sign, strict=True))]
        )
        pf = np.stack([precision.apply(pairs[..., k]) for k in range(n_pairs)], axis=-1)
        gram, product_ = np.einsum("tgk,tgl->kl", pairs, pf), np.einsum("tgk,tg->k", pf, y)
        ridge = PENALTY * np.diag(gram.diagonal() + MIN_VARIANCE)
        off = np.einsum("tgk,tgl->tkl", pf, pf) / precision.diagonal[:, None, None]
        off_y = np.einsum("tgk,tg->tk", pf, py) / precision.diagonal[:, None]
        left_out = np.linalg.solve(gram - off + ridge, (product_ - off_y)[..., None])[..., 0]
        residual = (py - np.einsum("tgk,tk->tg", pf, left_out)) / precision.diagonal[:, None]
        foretold = np.einsum("tgk,tk->tg", pairs, left_out)
        beta = np.linalg.solve(gram + ridge, product_)
        rest = y - pairs @ beta
    else:
        residual, beta, rest = py / precision.diagonal[:, None], model.beta, y
    weight = 1 / (seen.noise + excess)
    error = float(np.average((residual**2).mean(axis=1) - seen.noise, weights=weight))
    mean, fitted = precision.mean(rest)
    model = replace(model, beta=beta, mean=mean, kernel=fitted, error=error)
    return _with_errors(model, seen, residual, foretold, precision)


def _with_errors(
    model: UnseenModel, seen: Seen, residual: np.ndarray, foretold: np.ndarray, precision: _Precision
) -> UnseenModel:
    """Add how large errors are, and the scores that intervals are calibrated by."""
    leverage = (1 / precision.diagonal - seen.noise) / precision.excess
    excess = residual**2 - seen.noise[:, None]
    own = (excess / leverage[:, None]).mean(axis=0)
    own = np.maximum((own + own.mean()) / 2, seen.noise.mean() / len(excess) + MIN_VARIANCE)
    targets = zip(foretold, seen.gene, seen.sign, strict=True)
    extra = np.stack([model._extra(along, gene, sign) for along, gene, sign in targets])
    columns = np.concatenate([(leverage[:, None] * own)[..., None], extra], axis=2).reshape(-1, 3)
    share, *slopes = nnls(columns.T @ columns, columns.T @ np.maximum(excess, 0).ravel())[0]
    own, rest = own * max(share, MIN_SHARE), np.asarray(slopes)
    variance = leverage[:, None] * own + extra @ rest
    scores = np.sort(np.abs(residual) / np.sqrt(variance + seen.noise[:, None]), axis=0).astype(np.float32)
    usual = float(np.sqrt(variance.mean()))
    return replace(model, own_variance=own, extra_variance=rest, usual_sd=usual, scores=scores)


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

    def mean(self, values: np.ndarray) -> tuple[np.ndarray, TreatmentKernel | None]:
        """Return the mean of values, and the process fitted to the rest."""
        mean = self._mean(values)
        if self._kernel is None or self._inverse is None:
            return mean, None
        return mean, self._kernel.fitted(self._inverse, self._inverse @ (values - mean), self.excess)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return self._weight @ values / self._weight.sum()
