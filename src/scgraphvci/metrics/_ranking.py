"""Metrics that ask whether a prediction is nearer to its own truth than to those of other treatments."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

from scgraphvci.metrics._arrays import same_genes, same_shape

Distance = Literal["l1", "l2", "cosine"]
_MINKOWSKI = {"l1": "cityblock", "l2": "euclidean"}


def centroid_accuracy(true: np.ndarray, predicted: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
    r"""Share of other true centroids that are farther from the prediction than its own true centroid is.

    :math:`\frac{1}{m} \sum_j \mathbf{1}[\|c_j - \hat y_i\| > \|y_i - \hat y_i\|]` over the :math:`m` candidates
    :math:`c_j` other than :math:`y_i`, Euclidean, equal distances counting half. Primary (Systema, Nature Biotechnology
    2025; one less the rank of PerturBench). Range [0, 1]; .5 without information, in particular where all predictions
    are the same, so it shows collapse that errors do not.

    Parameters
    ----------
    true, predicted
        Mean profiles, shape ``(n, n_genes)``: one row per treatment of one stratum.
    candidates
        True centroids to tell apart, shape ``(n_candidates, n_genes)``, say of all treatments of the stratum; `true` if
        None. A candidate equal to the own true centroid is not another one and does not count.

    Returns
    -------
    Shape ``(n,)``; NaN where there is no other centroid or the prediction is not finite.

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> true = np.array([[0.0, 1.0], [1.0, 0.0], [3.0, 3.0]])
    >>> centroid_accuracy(true, np.array([[0.0, 0.9], [0.0, 1.0], [2.0, 2.0]]))
    array([1. , 0.5, 1. ])
    """
    true, predicted = same_shape(2, true=true, predicted=predicted)
    (candidates,) = (true,) if candidates is None else same_genes(true=true, candidates=candidates)[1:]
    scores = np.full(len(true), np.nan)
    for row, (own, guess) in enumerate(zip(true, predicted, strict=True)):
        others = candidates[(candidates != own).any(axis=1)]
        if len(others) and np.isfinite(guess).all():
            scores[row] = _n_farther(_distances(others, guess, "l2"), _distances(own[None], guess, "l2")[0]) / len(
                others
            )
    return scores


def discrimination_score(
    true_shifts: np.ndarray,
    predicted_shifts: np.ndarray,
    metric: Distance = "l1",
    target_genes: np.ndarray | None = None,
) -> np.ndarray:
    r"""Perturbation discrimination score (PDS) of the Virtual Cell Challenge, :math:`1 - \mathrm{rank}_i / n`.

    The rank of the own true shift among all :math:`n` true shifts by distance from the predicted shift, nearest 0,
    equal distances counting half. For parity with cell-eval. Range [1 / n, 1]; 1 / 2 + 1 / (2 n) without information.
    "l1" and "l2" depend on the size of the predicted shifts and rise when it is inflated; report "cosine" beside them.

    Parameters
    ----------
    true_shifts, predicted_shifts
        Mean shifts from the control mean, shape ``(n, n_genes)``: one row per treatment of one stratum.
    metric
        Distance: "l1", "l2" or "cosine", where a shift of zero is at distance 1 from everything.
    target_genes
        Position of the gene to leave out for each row, shape ``(n,)``, usually the one that the treatment targets; -1
        for none. The challenge leaves the target out.

    Returns
    -------
    Shape ``(n,)``; NaN where there is one treatment only or the prediction is not finite.

    Raises
    ------
    ValueError
        If shapes do not fit, or the distance is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> true = np.array([[0.0, 1.0], [1.0, 0.0], [3.0, 3.0]])
    >>> discrimination_score(true, np.array([[0.0, 0.9], [0.0, 1.0], [2.0, 2.0]])).round(2)
    array([1.  , 0.67, 1.  ])
    """
    true, predicted = same_shape(2, true_shifts=true_shifts, predicted_shifts=predicted_shifts)
    if metric not in (*_MINKOWSKI, "cosine"):
        msg = f"Unknown metric {metric!r}. Choose 'l1', 'l2' or 'cosine'."
        raise ValueError(msg)
    targets = np.full(len(true), -1) if target_genes is None else np.asarray(target_genes)
    if targets.shape != (len(true),):
        msg = f"Expected one target gene for each of {len(true)} rows, got shape {targets.shape}. Use -1 for none."
        raise ValueError(msg)
    scores = np.full(len(true), np.nan)
    for row, (guess, target) in enumerate(zip(predicted, targets, strict=True)):
        if len(true) > 1 and np.isfinite(guess).all():
            kept = slice(None) if target < 0 else np.arange(true.shape[1]) != target
            distances = _distances(true[:, kept], guess[kept], metric)
            # Farther ones, and itself: the rank among all counts from the other end.
            scores[row] = (_n_farther(np.delete(distances, row), distances[row]) + 1) / len(true)
    return scores


def _distances(centroids: np.ndarray, profile: np.ndarray, metric: Distance) -> np.ndarray:
    """Distances of centroids, ``(n, n_genes)``, from one profile."""
    if metric == "cosine":
        norms = np.linalg.norm(centroids, axis=1) * np.linalg.norm(profile)
        return 1 - np.divide(centroids @ profile, norms, out=np.zeros(len(centroids)), where=norms > 0)
    return cdist(centroids, profile[None], _MINKOWSKI[metric])[:, 0]


def _n_farther(distances: np.ndarray, own: float) -> float:
    """Return how many distances exceed the own one, equal ones counting half."""
    return float(np.sum(distances > own) + np.sum(distances == own) / 2)
