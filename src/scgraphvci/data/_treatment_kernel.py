"""A normal process along descriptors of treatments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Kind = Literal["linear", "radial"]
TINY = 1e-12


@dataclass(frozen=True)
class TreatmentKernel:
    """Covariance of responses to treatments by their descriptors; linear, or radial with the median distance as width.

    Attributes
    ----------
    kind
        Which covariance.
    features
        Descriptors of seen treatments, standardised, shape ``(n_treatments, n_features)``.
    centre, spread
        What standardises descriptors, shape ``(n_features,)``; a spread is larger, the less the descriptor counts.
    width
        Mean squared norm (linear) or median squared distance (radial) of seen treatments.
    variance
        Prior variance of a seen treatment.
    weights
        What each seen treatment contributes to a prediction, shape ``(n_treatments, n_genes)``; none before the fit.
    inverse
        Inverse covariance of seen responses, shape ``(n_treatments, n_treatments)``; none before the fit.
    excess
        Variance that a leverage of 1 stands for.
    """

    kind: Kind
    features: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    width: float
    variance: float
    weights: np.ndarray
    inverse: np.ndarray
    excess: float = 1.0

    @classmethod
    def of(
        cls, features: np.ndarray, kind: Kind, variance: float, relevance: np.ndarray | None = None
    ) -> TreatmentKernel:
        """Build the covariance of seen treatments; descriptors that do not vary among them count for nothing.

        Parameters
        ----------
        features
            Descriptors of seen treatments, shape ``(n_treatments, n_features)``.
        kind
            Which covariance.
        variance
            Prior variance of a seen treatment.
        relevance
            How much the square of each standardised descriptor counts, shape ``(n_features,)``; all alike if None.
        """
        centre, spread = features.mean(axis=0), features.std(axis=0)
        if relevance is not None:
            spread = spread / np.sqrt(np.maximum(relevance, TINY))
            spread[relevance <= 0] = np.inf
        spread = np.where(spread > 0, spread, np.inf)
        standard = (features - centre) / spread
        distance = _squared_distances(standard, standard)
        apart = distance[np.triu_indices(len(distance), 1)]
        width = float((standard**2).sum(axis=1).mean()) if kind == "linear" else float(np.median(apart))
        none = np.zeros((len(features), 0))
        return cls(kind, standard, centre, spread, max(width, TINY), variance, none, none)

    @property
    def matrix(self) -> np.ndarray:
        """Covariance of seen treatments."""
        return self._between(self.features)

    def fitted(self, inverse: np.ndarray, weights: np.ndarray, excess: float) -> TreatmentKernel:
        """Return the process given seen responses."""
        return replace(self, inverse=inverse, weights=weights, excess=excess)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, float]:
        """Return what descriptors add to a response, shape ``(n_genes,)``, and the leverage of the prediction."""
        standard = ((features - self.centre) / self.spread)[None]
        shared = self._between(standard)[0]
        own = self.variance * (float((standard**2).sum()) / self.width if self.kind == "linear" else 1.0)
        total = self.inverse.sum()
        free = 1 - float(self.inverse.sum(axis=0) @ shared)
        left = own - float(shared @ self.inverse @ shared) + free**2 / total
        return shared @ self.weights, 1 + max(left, 0.0) / self.excess

    def nearest(self, features: np.ndarray) -> tuple[int, float]:
        """Return the nearest seen treatment and its distance, over the median distance among seen ones."""
        distance = np.sqrt(_squared_distances(((features - self.centre) / self.spread)[None], self.features)[0])
        among = _squared_distances(self.features, self.features)
        np.fill_diagonal(among, np.inf)
        usual = float(np.median(np.sqrt(among.min(axis=1))))
        nearest = int(distance.argmin())
        return nearest, float(distance[nearest] / usual) if usual > 0 else np.inf * float(distance[nearest] > 0)

    def _between(self, standard: np.ndarray) -> np.ndarray:
        """Covariance of treatments (rows) with seen ones (columns)."""
        if self.kind == "linear":
            return self.variance * (standard @ self.features.T) / self.width
        return self.variance * np.exp(-_squared_distances(standard, self.features) / self.width)


def descriptor_relevance(features: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Share of the variance of all responses that each descriptor explains alone, beyond the share chance gives it.

    With far more descriptors than treatments a regression cannot weigh them; one at a time, over all genes, they can
    be weighed.

    Parameters
    ----------
    features
        Descriptors, shape ``(n_treatments, n_features)``.
    response
        Responses, shape ``(n_treatments, n_genes)``.

    Returns
    -------
    Shape ``(n_features,)``; 0 for descriptors that explain no more than a random one.
    """
    x, y = features - features.mean(axis=0), response - response.mean(axis=0)
    gram = y @ y.T
    explained = (x * (gram @ x)).sum(axis=0) / np.maximum((x**2).sum(axis=0) * np.trace(gram), TINY)
    return np.maximum(explained - 1 / max(len(x) - 1, 1), 0)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distance = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(distance, 0)
