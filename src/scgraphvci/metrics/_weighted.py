"""Errors that weigh genes by how strongly the treatment moves them."""

from __future__ import annotations

import numpy as np

from scgraphvci.metrics._arrays import same_shape


def signal_weights(t_scores: np.ndarray) -> np.ndarray:
    r"""Weights of genes, :math:`w_g \propto \left( \frac{|t_g| - \min |t|}{\max |t| - \min |t|} \right)^2`.

    The weights of Mejia et al. ("Diversity by Design", 2025) and Miller et al. (2025), scaled to sum to one.

    Parameters
    ----------
    t_scores
        Statistics of the treatment's *true* cells against those of the other treatments, shape ``(n_genes,)``. NaN, as
        of a gene that never varies, is no signal and counts as 0.

    Returns
    -------
    Weights of shape ``(n_genes,)``; all equal where all ``|t|`` are.

    Raises
    ------
    ValueError
        If there is no gene, or a score is infinite.

    Examples
    --------
    >>> import numpy as np
    >>> signal_weights(np.array([0.0, -2.0, 4.0])).round(2)
    array([0. , 0.2, 0.8])
    """
    (size,) = same_shape(1, t_scores=np.abs(t_scores))
    if size.size == 0 or np.isinf(size).any():
        msg = (
            f"Expected finite t scores of at least one gene, got {size.size}, {np.isinf(size).sum()} of them infinite. "
            "Add a small constant to the standard errors."
        )
        raise ValueError(msg)
    size = np.nan_to_num(size, nan=0.0)
    size -= size.min()
    if size.max() == 0:
        return np.full(size.size, 1 / size.size)
    weights = (size / size.max()) ** 2
    return weights / weights.sum()


def weighted_mse(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    r"""Weighted mean squared error over genes, :math:`\sum w_g (y_g - \hat y_g)^2 / \sum w_g`.

    Primary, of errors (Mejia et al., 2025): genes that do not respond no longer hide those that do. Range [0, inf), 0
    best, in squared units of expression; no information has no fixed value, compare with the baselines'.

    Parameters
    ----------
    true, predicted
        Mean profiles, shape ``(n_genes,)``.
    weights
        Weights of genes from the truth, as of :func:`signal_weights`, shape ``(n_genes,)``.

    Raises
    ------
    ValueError
        If shapes differ, or weights are negative, not finite or all zero.

    Examples
    --------
    >>> import numpy as np
    >>> weighted_mse(np.array([0.0, 1.0]), np.array([5.0, 3.0]), weights=np.array([0.0, 1.0]))
    4.0
    """
    true, predicted, weights = same_shape(1, true=true, predicted=predicted, weights=weights)
    return float(_shares(weights) @ (true - predicted) ** 2)


def weighted_r2(true: np.ndarray, predicted: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> float:
    r"""Weighted coefficient of determination of the shift from a reference.

    :math:`1 - \sum w (\delta - \hat\delta)^2 / \sum w (\delta - \bar\delta)^2` with :math:`\delta = y - r`,
    :math:`\hat\delta = \hat y - r` and :math:`\bar\delta` the weighted mean of :math:`\delta` over genes.
    Primary (Mejia et al., 2025). Range (-inf, 1]; predicting the reference gives 0 or less.

    Parameters
    ----------
    true, predicted
        Mean profiles, shape ``(n_genes,)``.
    reference
        Mean profile over the treatments of the stratum, shape ``(n_genes,)``.
    weights
        Weights of genes from the truth, as of :func:`signal_weights`, shape ``(n_genes,)``.

    Returns
    -------
    NaN where the true shift is the same in all genes with weight.

    Raises
    ------
    ValueError
        If shapes differ, or weights are negative, not finite or all zero.

    Examples
    --------
    >>> import numpy as np
    >>> true, predicted = np.array([1.0, -1.0, 9.0]), np.array([1.0, 0.0, 0.0])
    >>> weighted_r2(true, predicted, reference=np.zeros(3), weights=np.array([0.5, 0.5, 0.0]))
    0.5
    """
    true, predicted, reference, weights = same_shape(
        1, true=true, predicted=predicted, reference=reference, weights=weights
    )
    share, shift = _shares(weights), true - reference
    spread = float(share @ (shift - share @ shift) ** 2)
    # Equal shifts differ by rounding, which must not become the scale of the score.
    return (
        float("nan")
        if spread <= 1e-24 * float(share @ shift**2)
        else float(1 - share @ (true - predicted) ** 2 / spread)
    )


def _shares(weights: np.ndarray) -> np.ndarray:
    """Weights scaled to sum to one."""
    total = weights.sum()
    if not np.isfinite(total) or (weights < 0).any() or total == 0:
        msg = "Weights must be finite, not negative and not all zero. Take them from `signal_weights`."
        raise ValueError(msg)
    return weights / total
