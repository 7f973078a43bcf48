"""Metrics on mean profiles: one predicted and one true mean per stratum and treatment."""

from __future__ import annotations

import numpy as np


def r2(true: np.ndarray, predicted: np.ndarray) -> float:
    r"""Coefficient of determination over genes, :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`.

    The paper's metric. Range (-inf, 1]; no information gives the control mean's own value, often above .9, because
    differences *between genes* dominate: report it beside metrics of the shift, never alone.

    Parameters
    ----------
    true, predicted
        Mean profiles, shape ``(n_genes,)``.

    Returns
    -------
    NaN where the true profile is constant.

    Examples
    --------
    >>> import numpy as np
    >>> r2(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0]))
    0.5
    """
    spread = float(np.sum((true - true.mean()) ** 2))
    return float("nan") if spread == 0 else float(1 - np.sum((true - predicted) ** 2) / spread)


def pearson_shift(true: np.ndarray, predicted: np.ndarray, reference: np.ndarray) -> float:
    """Pearson correlation over genes of predicted and true shift from a reference profile.

    Range [-1, 1]; 0 for a constant prediction of no shift.

    Parameters
    ----------
    true, predicted, reference
        Mean profiles, shape ``(n_genes,)``; the reference is usually the true control mean of the stratum.

    Returns
    -------
    0 where the predicted shift is constant, NaN where the true shift is.

    Examples
    --------
    >>> import numpy as np
    >>> control = np.zeros(3)
    >>> round(pearson_shift(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]), control), 6)
    1.0
    """
    shift, guess = true - reference, predicted - reference
    shift, guess = shift - shift.mean(), guess - guess.mean()
    norm = float(np.linalg.norm(shift))
    if norm < 1e-12:
        return float("nan")
    length = float(np.linalg.norm(guess))
    return 0.0 if length < 1e-12 else float(shift @ guess / (norm * length))
