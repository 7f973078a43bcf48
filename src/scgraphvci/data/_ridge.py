"""Weighted ridge regression."""

from __future__ import annotations

import numpy as np


class Ridge:
    """Regression of many outcomes on the same few columns, each with a normal prior about 0.

    Parameters
    ----------
    x
        Columns, shape ``(n, n_columns)``.
    weight
        Inverse variance of each row, shape ``(n,)``.
    penalty
        Inverse prior variance of each coefficient, shape ``(n_columns,)`` or one number; positive, so that columns that
        the rows cannot tell apart share what they explain.

    Attributes
    ----------
    gram
        Precision of the coefficients, shape ``(n_columns, n_columns)``.
    """

    def __init__(self, x: np.ndarray, weight: np.ndarray, penalty: np.ndarray | float) -> None:
        self._weighted = x.T * weight
        self.gram = self._weighted @ x
        self.gram[np.diag_indices_from(self.gram)] += penalty

    def coefficients(self, y: np.ndarray) -> np.ndarray:
        """Coefficients of outcomes (n, n_outcomes); shape ``(n_columns, n_outcomes)``."""
        return np.linalg.solve(self.gram, self._weighted @ y)

    def sampling_variance(self, noise: np.ndarray) -> np.ndarray:
        """Variance of each coefficient that comes from noise of variance (n,) in an outcome; shape ``(n_columns,)``."""
        return np.linalg.solve(self.gram, self._weighted) ** 2 @ noise
