"""Ridge regression on principal components of genes and treatments."""

from __future__ import annotations

from typing import Any

import numpy as np

from scgraphvci.baselines._simple import ContextShift

N_COMPONENTS = 10
PENALTY = 0.1


class RidgePCA(ContextShift):
    r"""Ridge regression of shifts between principal components of genes and of treatments.

    The model :math:`Y \approx G W P^\top + b` of Ahlmann-Eltze, Huber & Anders (Nat Methods 22:1657, 2025), with its
    ten components and its penalty of .1, restated for strata. Every training pair of a stratum and a treatment is a
    column of Y: its shift from the stratum's control. G holds the first principal axes of Y over genes, b the mean of
    Y. A row of P is the pair's context shift (what the treatment does in the *other* strata, see
    :class:`ContextShift`) on those axes, beside the first principal components of the stratum's control mean, both
    centred. With :math:`G^\top G = I`,

    .. math:: W = \frac{1}{1 + \lambda} G^\top (Y - b)\, P\, (P^\top P + \lambda I)^{-1}.

    The regression is thus fitted on the task it is used for, to foretell a treatment in a stratum from what it does
    elsewhere. A combination that was never observed is embedded by the sum of its members' shifts.

    Parameters are those of :class:`Baseline`.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci.baselines import RidgePCA
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=4, seed=0)
    >>> ridge = RidgePCA(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> ridge.predict(adata.obs["perturbation"].cat.categories[1], indices=[0, 1]).shape
    (2, 40)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        strata, conditions, shifts = self._means.pairs()
        self._is_fitted = strata.size > 0  # not if no stratum has both arms
        if self._is_fitted:
            self._fit(strata, self._codes.table.design[conditions], shifts)

    def _fit(self, strata: np.ndarray, vectors: np.ndarray, shifts: np.ndarray) -> None:
        """Fit the regression to the shifts of training pairs."""
        controls = np.stack([self._means.control(stratum) for stratum in range(len(self._codes.strata))])
        self._control_mean = controls.mean(axis=0)
        self._control_axes = _principal_axes(controls - self._control_mean)
        self._mean_shift = shifts.mean(axis=0)
        self._axes = _principal_axes(shifts - self._mean_shift)

        features = np.stack([self._features(s, v) for s, v in zip(strata, vectors, strict=True)])
        self._feature_mean = features.mean(axis=0)
        features -= self._feature_mean
        gram = features.T @ features + PENALTY * np.eye(features.shape[1])
        scores = (shifts - self._mean_shift) @ self._axes
        self._weights = np.linalg.solve(gram, features.T @ scores) / (1 + PENALTY)

    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the control mean plus the shift of the regression."""
        control = self._means.control(stratum)
        if not self._is_fitted:
            return control
        scores = (self._features(stratum, vector) - self._feature_mean) @ self._weights
        return control + self._mean_shift + self._axes @ scores

    def _features(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Embedding of a treatment and of a stratum, side by side."""
        control = self._means.control(stratum) - self._control_mean
        return np.concatenate([self._context_shift(stratum, vector) @ self._axes, control @ self._control_axes])

    def _context_shift(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        members = np.flatnonzero(vector)
        if members.size > 1 and not self._means.is_known(vector):
            alone = np.eye(len(vector))[members] * vector
            return np.sum([self._context_shift(stratum, member) for member in alone], axis=0)
        return super()._context_shift(stratum, vector)


def _principal_axes(centred: np.ndarray) -> np.ndarray:
    """First principal axes of rows of mean 0, shape ``(n_columns, at most N_COMPONENTS)``."""
    return np.linalg.svd(centred, full_matrices=False)[2][:N_COMPONENTS].T
