"""How well scores of candidate edges recover a known network."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

METRICS = ("auprc", "auprc_ratio", "early_precision", "early_precision_ratio", "auroc")


def recovery(score: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Score a ranking of candidate edges, all of which count.

    Candidates that a network does not list have score 0, and so tie with one another: they are part of the ranking.

    Parameters
    ----------
    score
        Non-negative score of each candidate, shape ``(n,)``.
    true
        Whether it is true, shape ``(n,)``.

    Returns
    -------
    `n_candidates`, `n_true`, `n_edges` (candidates with a score above 0), `density` (`n_true / n_candidates`) and
    :data:`METRICS`, NaN where there is no true or no false candidate. Their definitions are those of BEELINE (Pratapa
    et al., Nature Methods 17:147, 2020) but for ties: in AUPRC tied candidates enter together
    (:func:`sklearn.metrics.average_precision_score`); of those tied at the end of the early edges the expected share
    counts, as if their order were random, where BEELINE takes all and leaves out those with score 0.
    """
    n, n_true = score.size, int(true.sum())
    density = n_true / n if n else np.nan
    found = {"n_candidates": n, "n_true": n_true, "n_edges": int((score > 0).sum()), "density": density}
    if n_true in (0, n):
        return {**found, **dict.fromkeys(METRICS, np.nan)}
    label, value, weight = _collapse(score, true)
    auprc = float(average_precision_score(label, value, sample_weight=weight))
    early = early_precision(score, true)
    auroc = float(roc_auc_score(label, value, sample_weight=weight))
    return {**found, **dict(zip(METRICS, (auprc, auprc / density, early, early / density, auroc), strict=True))}


def early_precision(score: np.ndarray, true: np.ndarray) -> float:
    """Share of true ones among the k best candidates, k their number; expected over random orders of ties."""
    k = int(true.sum())
    last = -np.partition(-score, k - 1)[k - 1]
    above, tied = score > last, score == last
    return float((true[above].sum() + (k - above.sum()) * true[tied].mean()) / k)


def curve(score: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at every threshold, from recall 0 to 1; both empty where nothing is true."""
    if not true.any():
        return np.empty(0), np.empty(0)
    label, value, weight = _collapse(score, true)
    precision, recall, _ = precision_recall_curve(label, value, sample_weight=weight)
    return recall[::-1], precision[::-1]


def keep_top(score: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Set all but the `n` largest scores to 0; ties are broken at random. Any shape."""
    flat = score.ravel()
    listed = np.flatnonzero(flat)
    if listed.size <= n:
        return score
    shuffled = np.random.default_rng(seed).permutation(listed)
    kept = shuffled[np.argsort(-flat[shuffled], kind="stable")[:n]]
    out = np.zeros_like(flat)
    out[kept] = flat[kept]
    return out.reshape(score.shape)


def _collapse(score: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and weights in which unlisted candidates, often nearly all, are two rows: true and false ones."""
    listed = score > 0
    n_true = int((true & ~listed).sum())
    n_false = int((~listed).sum()) - n_true
    label = np.append(true[listed], [True, False])
    weight = np.append(np.ones(int(listed.sum())), [n_true, n_false])
    value = np.append(score[listed], [0.0, 0.0])
    return label[weight > 0], value[weight > 0], weight[weight > 0]
