"""What is foretold of treatments that no training cell received; :mod:`._unseen_fit` learns it from those seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scgraphvci.data._edge_effects import EdgeEffects
from scgraphvci.data._expected_error import MIN_VARIANCE, ExpectedError
from scgraphvci.data._treatment_kernel import TreatmentKernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgraphvci.data._coexpression import Residuals
    from scgraphvci.data._gene_regression import Network

LEFT_OVER = 0.2  # share of a gene's expression that a knock-down leaves: that of most guides in use
MIN_SEEN = 5  # treatments: fewer cannot say what tells treatments apart


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
        Mean of each gene under control, in standard deviations within strata, shape ``(n_genes,)``.
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


def knockdown(genes: Genes) -> np.ndarray:
    r"""What a knock-down that leaves a fifth of a gene takes of its mean, in standard deviations within strata.

    Counts fall by a factor and the outcome is :math:`\log(1 + x)`, so that the fall of a mean m,
    :math:`m - \log((4 + e^m) / 5)`, grows with the level of weak genes and is bounded for strong ones.
    """
    mean = genes.level / genes.unit
    return (mean - np.logaddexp(np.log(1 - LEFT_OVER), np.log(LEFT_OVER) + mean)) * genes.unit


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
        Whether a target moves as :func:`knockdown` says, rather than by the same amount whatever the gene.
    axes, covariance
        Coexpression of control cells along some axes.
    fall, unit
        What a knock-down takes of each gene, and one unit of the outcome's scale, in standard deviations within strata.
    edges
        Effects along the network, or None.
    kernel
        The process along descriptors, or None.
    scale
        Standard deviations within strata, shape ``(n_genes,)``.
    errors
        How large errors are expected to be, and those of seen treatments that were left out.
    error, mean_error
        Left-out squared error, less noise, of this model and of the mean over the other treatments.
    losses
        Left-out squared error, less noise, of each seen treatment, shape ``(n_treatments,)``.
    signal_error
        Left-out squared error over the mean square of a treatment's response, genes weighted by their response.
    """

    mean: np.ndarray
    beta: np.ndarray
    falls: bool
    axes: np.ndarray
    covariance: np.ndarray
    fall: np.ndarray
    unit: np.ndarray
    edges: EdgeEffects | None
    kernel: TreatmentKernel | None
    scale: np.ndarray
    errors: ExpectedError
    error: float
    losses: np.ndarray
    signal_error: float
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
        shift, leverage, nearest, distance = self.mean.copy(), 1 + 1 / len(self.errors.scores), -1, np.nan
        along_pairs = self.pairs(gene, sign) @ self.beta if self.beta.size else np.zeros_like(shift)
        shift += along_pairs
        if self.kernel is not None and features is not None:
            along, leverage = self.kernel.predict(features)
            shift += along
            nearest, distance = self.kernel.nearest(features)
        sd = self.errors.sd(leverage, self.surprises(along_pairs, gene, sign))
        return Effect(shift * self.scale, sd * self.scale, nearest, distance)

    def margin(self, alpha: float) -> np.ndarray:
        """Return how many foretold sd an interval reaches to either side, see :meth:`ExpectedError.margin`."""
        return self.errors.margin(alpha, "seen treatments")

    def to_state(self) -> dict[str, Any]:
        """Return plain data, to be saved."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> UnseenModel:
        """Rebuild the model from what `to_state` returned."""
        parts = dict(state)
        for name, part in (("edges", EdgeEffects), ("kernel", TreatmentKernel), ("errors", ExpectedError)):
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
            direct[gene] = (sign or -1.0) * (self.fall if self.falls else self.unit)[gene]
        return direct

    def surprises(self, along_pairs: np.ndarray, gene: int, sign: float) -> np.ndarray:
        """What makes errors larger: a large shift foretold from the target, and being one of its own; (n_genes, 2)."""
        reached = np.zeros_like(along_pairs)
        if self.beta.size and self.edges is not None:
            reached = self.edges.reach(self._direct(gene, sign))
        return np.column_stack([along_pairs**2, reached])
