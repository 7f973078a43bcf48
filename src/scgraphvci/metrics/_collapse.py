"""Monitors of collapse: predictions that are all alike, between cells or between treatments."""

from __future__ import annotations

import numpy as np

from scgraphvci.metrics._arrays import same_genes


def variance_ratio(true_cells: np.ndarray, predicted_cells: np.ndarray) -> float:
    r"""Median over genes of :math:`\mathrm{Var}(\hat y_g) / \mathrm{Var}(y_g)` between cells.

    A monitor. Range [0, inf); 1 is right, 0 means that every cell gets the same prediction. Predicted *means* of cells
    vary less than cells do: compare draws with the truth. Draws carry the noise of observations, so that their ratio
    can be near 1 for a model that gives every cell the same mean: see :func:`mean_variance_ratio`.

    Parameters
    ----------
    true_cells, predicted_cells
        Cells of one stratum and treatment, shapes ``(n_true, n_genes)`` and ``(n_predicted, n_genes)``.

    Returns
    -------
    Median over the genes that vary in the truth; NaN where none does, or with fewer than two cells in a set.

    Raises
    ------
    ValueError
        If the numbers of genes differ.

    Examples
    --------
    >>> import numpy as np
    >>> variance_ratio(np.array([[0.0, 3.0], [4.0, 3.0]]), np.array([[1.0, 1.0], [3.0, 9.0]]))
    0.25
    """
    true, predicted = same_genes(true_cells=true_cells, predicted_cells=predicted_cells)
    return _median_ratio(true, predicted, 0.0)


def mean_variance_ratio(
    true_cells: np.ndarray, predicted_means: np.ndarray, sampling_variance: np.ndarray | float = 0.0
) -> float:
    r"""Median over genes of :math:`(\mathrm{Var}(\hat\mu_g) - s_g) / \mathrm{Var}(y_g)` between cells.

    A monitor. Range [0, inf), of means of single cells without the noise of observations: well below 1 is right, near 0
    is a collapse to one prediction for all cells.

    Parameters
    ----------
    true_cells
        Cells of one stratum and treatment, shape ``(n_true, n_genes)``.
    predicted_means
        Predicted means of single cells, shape ``(n_predicted, n_genes)``.
    sampling_variance
        Variance :math:`s_g` of such a mean where it is one of draws, shape ``(n_genes,)``; 0 for exact means.

    Returns
    -------
    Median over the genes that vary in the truth, at least 0; NaN where none does, or with fewer than two cells in a
    set.

    Raises
    ------
    ValueError
        If the numbers of genes differ.

    Examples
    --------
    >>> import numpy as np
    >>> mean_variance_ratio(np.array([[0.0], [4.0]]), np.array([[1.0], [3.0]]), np.array([1.0]))
    0.125
    """
    true, predicted = same_genes(true_cells=true_cells, predicted_means=predicted_means)
    return _median_ratio(true, predicted, sampling_variance)


def _median_ratio(true: np.ndarray, predicted: np.ndarray, sampling_variance: np.ndarray | float) -> float:
    """Median over genes of the predicted variance, less that of sampling, over the true one; at least 0."""
    if min(len(true), len(predicted)) < 2:
        return float("nan")
    variance = true.var(axis=0, ddof=1)
    varies = variance > 0
    between = predicted.var(axis=0, ddof=1) - sampling_variance
    return max(0.0, float(np.median(between[varies] / variance[varies]))) if varies.any() else float("nan")


def mean_pairwise_correlation(shifts: np.ndarray) -> float:
    r"""Mean Pearson correlation between the shifts of two different treatments.

    A monitor. Range [-1 / (n - 1), 1]; compare the value of predicted shifts with that of true shifts: far above means
    that the predictor gives every treatment the same response, and 1 that it has collapsed.
    With unit vectors :math:`u_i` of centred shifts it is :math:`(\|\sum u_i\|^2 - n) / (n (n - 1))`.

    Parameters
    ----------
    shifts
        Mean shifts from the control mean, shape ``(n, n_genes)``: one row per treatment of one stratum. Constant rows
        have no direction and do not count.

    Returns
    -------
    NaN where fewer than two rows count.

    Raises
    ------
    ValueError
        If `shifts` is no matrix.

    Examples
    --------
    >>> import numpy as np
    >>> round(mean_pairwise_correlation(np.array([[1.0, 2.0, 3.0], [3.0, 5.0, 7.0]])), 6)
    1.0
    """
    (shifts,) = same_genes(shifts=shifts)
    centred = shifts - shifts.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    units = centred[norms > 1e-12] / norms[norms > 1e-12, None]
    n = len(units)
    return float((np.sum(units.sum(axis=0) ** 2) - n) / (n * (n - 1))) if n > 1 else float("nan")
