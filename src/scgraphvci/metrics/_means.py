"""Metrics on mean profiles: one predicted and one true mean per stratum and treatment."""

from __future__ import annotations

import numpy as np

from scgraphvci.metrics._arrays import correlation, same_shape


def r2(true: np.ndarray, predicted: np.ndarray) -> float:
    r"""Coefficient of determination over genes, :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`.

    For parity: the metric of Wu et al. (ICLR 2023). Range (-inf, 1]; no information gives the control mean's own value,
    often above .9, because differences *between genes* dominate: report it beside metrics of the shift, never alone.

    Parameters
    ----------
    true, predicted
        Mean profiles, shape ``(n_genes,)``.

    Returns
    -------
    NaN where the true profile is constant.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> r2(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0]))
    0.5
    """
    true, predicted = same_shape(1, true=true, predicted=predicted)
    spread = float(np.sum((true - true.mean()) ** 2))
    # A constant profile differs from its mean by rounding, which must not become the scale of the score.
    constant = spread <= 1e-24 * float(true @ true)
    return float("nan") if constant else float(1 - np.sum((true - predicted) ** 2) / spread)


def pearson_shift(true: np.ndarray, predicted: np.ndarray, reference: np.ndarray) -> float:
    r"""Pearson correlation over genes of predicted and true shift, :math:`\mathrm{corr}(\hat y - r, y - r)`.

    Range [-1, 1]; 0 for a constant prediction of no shift. The reference decides what it says. Against the control mean
    (for parity) a predictor earns the response that all treatments share. Against the mean over treatments of the
    stratum (primary; Systema, Nature Biotechnology 2025) only what tells treatments apart counts.

    Parameters
    ----------
    true, predicted, reference
        Mean profiles, shape ``(n_genes,)``. The reference is a *true* mean of the stratum, never a predicted one.

    Returns
    -------
    0 where the predicted shift is constant, NaN where the true shift is.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> control = np.zeros(3)
    >>> round(pearson_shift(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]), control), 6)
    1.0
    """
    true, predicted, reference = same_shape(1, true=true, predicted=predicted, reference=reference)
    return correlation(true - reference, predicted - reference)


def mse(true: np.ndarray, predicted: np.ndarray) -> float:
    r"""Mean squared error over genes, :math:`\frac{1}{G} \sum (y - \hat y)^2`.

    For parity. Range [0, inf), 0 best, in squared units of expression. No information has no fixed value: where few
    genes respond, the mean over treatments is close to optimal, so never report it alone.

    Parameters
    ----------
    true, predicted
        Mean profiles, shape ``(n_genes,)``.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> mse(np.array([0.0, 1.0]), np.array([0.0, 3.0]))
    2.0
    """
    true, predicted = same_shape(1, true=true, predicted=predicted)
    return float(np.mean((true - predicted) ** 2))


def mae(true: np.ndarray, predicted: np.ndarray) -> float:
    r"""Mean absolute error over genes, :math:`\frac{1}{G} \sum |y - \hat y|`.

    For parity: one of the three parts of the score of the Virtual Cell Challenge. Range [0, inf), 0 best, in units of
    expression; no information has no fixed value, as for :func:`mse`.

    Parameters
    ----------
    true, predicted
        Mean profiles, shape ``(n_genes,)``.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> mae(np.array([0.0, 1.0]), np.array([0.0, 3.0]))
    1.0
    """
    true, predicted = same_shape(1, true=true, predicted=predicted)
    return float(np.mean(np.abs(true - predicted)))
