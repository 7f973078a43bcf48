"""Whether a prediction finds the genes that a treatment moves, and moves them the right way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from scgraphvci.metrics._arrays import correlation, same_shape


class DERecovery(NamedTuple):
    """Recovery of significant genes; NaN where no gene is significant."""

    auprc: float
    """Average precision of the predicted absolute shift as a score for being significant; the share of significant
    genes without information."""
    spearman: float
    """Rank correlation of predicted and true shift over significant genes; 0 without information."""
    direction: float
    """Share of significant genes that are predicted to move the right way, no move counting half; .5 without
    information."""
    overlap: float
    """Share of significant genes among as many genes of largest predicted absolute shift, which is the DES of the
    Virtual Cell Challenge without a test of the prediction; the share of significant genes without information."""
    n: int
    """Number of significant genes; with few, the others are unstable."""


def de_recovery(true_shift: np.ndarray, predicted_shift: np.ndarray, significant: np.ndarray) -> DERecovery:
    """Recovery of the genes that respond significantly in the truth, from the predicted mean shift.

    For parity. Equal predicted shifts get the mean over their orders, so that the order of genes earns nothing. All
    parts range over [0, 1], but `spearman` over [-1, 1]; 1 is best.

    cell-eval differs in three points: `overlap` there ranks only genes that are significant in the prediction too,
    its precision-recall area ranks by p-values of predicted cells, and no predicted shift is a wrong direction.

    Parameters
    ----------
    true_shift, predicted_shift
        Mean shifts from the true control mean, shape ``(n_genes,)``.
    significant
        Which genes respond in the truth, boolean, shape ``(n_genes,)``.

    Returns
    -------
    `auprc`, `spearman`, `direction`, `overlap` and `n`. `spearman` is NaN with fewer than two significant genes.

    Raises
    ------
    ValueError
        If shapes differ, or `significant` is not boolean.

    Examples
    --------
    >>> import numpy as np
    >>> true, predicted = np.array([2.0, -1.0, 0.1, 0.0]), np.array([1.0, 0.2, -0.5, 0.0])
    >>> found = de_recovery(true, predicted, significant=np.array([True, True, False, False]))
    >>> round(found.auprc, 3), found.direction, found.overlap, found.n
    (0.833, 0.5, 0.5, 2)
    """
    significant = np.asarray(significant)
    if significant.dtype != bool:
        msg = f"`significant` must be boolean, one value per gene, got {significant.dtype}. Pass a mask, not positions."
        raise ValueError(msg)
    true, predicted, _ = same_shape(1, true_shift=true_shift, predicted_shift=predicted_shift, significant=significant)
    n = int(significant.sum())
    if n == 0 or not np.isfinite(predicted).all():
        nan = float("nan")
        return DERecovery(nan, nan, nan, nan, n)
    true_de, predicted_de = true[significant], predicted[significant]
    right = np.sign(true_de) == np.sign(predicted_de)
    return DERecovery(
        auprc=_average_precision(np.abs(predicted), significant),
        spearman=float("nan") if n < 2 else correlation(rankdata(true_de), rankdata(predicted_de)),
        direction=float(np.mean(np.where(predicted_de == 0, 0.5, right))),
        overlap=_top_share(np.abs(predicted), significant),
        n=n,
    )


def _average_precision(score: np.ndarray, positive: np.ndarray) -> float:
    """Sum over distinct scores of the recall gained there times the precision."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(positive[order])[last]
    return float(np.diff(hits, prepend=0) @ (hits / (last + 1)) / hits[-1])


def _top_share(score: np.ndarray, positive: np.ndarray) -> float:
    """Expected share of positives in the top, as many genes as there are positives, ties in random order."""
    n = int(positive.sum())
    threshold = np.partition(score, -n)[-n]
    above, tied = score > threshold, score == threshold
    return float((positive[above].sum() + (n - above.sum()) * positive[tied].mean()) / n)
