"""Distances between sets of cells, unbiased: zero in expectation where both come from one distribution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scgraphvci.metrics._arrays import same_genes

_BLOCK = 1024  # rows of one block of distances
_N_MEDIAN = 2000  # cells that the median distance is taken over


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    r"""Energy distance, :math:`2\,E\|a - b\| - E\|a - a'\| - E\|b - b'\|`, Euclidean, as a U-statistic.

    Primary (Szekely and Rizzo, 2013). Pairs of a cell with itself are left out; where they are kept, as in
    pertpy, the distance grows as cells get fewer. 0 in expectation for cells of one distribution, and therefore at
    times negative; otherwise up to inf, in units of the coordinates. No information gives the value of control cells.
    Compare predictors in one fixed basis, such as principal components of the training cells.

    Parameters
    ----------
    a, b
        Cells, shapes ``(n_a, n_genes)`` and ``(n_b, n_genes)``.

    Returns
    -------
    NaN with fewer than two cells in a set.

    Raises
    ------
    ValueError
        If the numbers of genes differ.

    Examples
    --------
    >>> import numpy as np
    >>> energy_distance(np.array([[0.0], [1.0]]), np.array([[5.0], [7.0]]))
    8.0
    """
    a, b = _centred(a, b)
    if min(len(a), len(b)) < 2:
        return float("nan")
    return 2 * _mean_between(a, b, np.sqrt) - _mean_within(a, np.sqrt) - _mean_within(b, np.sqrt)


def mmd(a: np.ndarray, b: np.ndarray, bandwidth: float | None = None) -> float:
    r"""Squared maximum mean discrepancy, :math:`E\,k(a, a') + E\,k(b, b') - 2\,E\,k(a, b)`, as a U-statistic.

    The kernel is :math:`k(x, y) = \exp(-\|x - y\|^2 / 2 h^2)`. Primary (Gretton et al., 2012). 0 in expectation for
    cells of one distribution, and therefore at times negative; at most 2. No information gives the value of control
    cells.

    Parameters
    ----------
    a, b
        Cells, shapes ``(n_a, n_genes)`` and ``(n_b, n_genes)``.
    bandwidth
        :math:`h`, in units of the coordinates; the median distance among the cells of both sets if None. To compare
        predictors, give all of them the one of the true cells, ``median_distance(true)``: otherwise a bad prediction
        widens its own kernel.

    Returns
    -------
    NaN with fewer than two cells in a set, or a median distance of 0.

    Raises
    ------
    ValueError
        If the numbers of genes differ, or the bandwidth is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> round(mmd(np.array([[0.0], [0.0]]), np.array([[9.0], [9.0]]), bandwidth=1.0), 6)
    2.0
    """
    a, b = _centred(a, b)
    if min(len(a), len(b)) < 2:
        return float("nan")
    width = median_distance(np.concatenate([a, b])) if bandwidth is None else float(bandwidth)
    if bandwidth is None and width == 0:
        return float("nan")
    if not width > 0:
        msg = f"The bandwidth must be positive, got {bandwidth!r}. Pass None for the median distance."
        raise ValueError(msg)

    def kernel(squared: np.ndarray) -> np.ndarray:
        return np.exp(-squared / (2 * width**2))

    return _mean_within(a, kernel) + _mean_within(b, kernel) - 2 * _mean_between(a, b, kernel)


def median_distance(cells: np.ndarray) -> float:
    """Median Euclidean distance between two cells, the usual bandwidth of :func:`mmd`.

    Parameters
    ----------
    cells
        Cells, shape ``(n, n_genes)``; of more than 2,000, evenly spaced rows are used.

    Returns
    -------
    Distance in units of the coordinates; NaN with fewer than two cells.

    Raises
    ------
    ValueError
        If `cells` is no matrix.

    Examples
    --------
    >>> import numpy as np
    >>> round(median_distance(np.array([[0.0], [1.0], [3.0]])), 6)
    2.0
    """
    (cells,) = same_genes(cells=cells)
    if len(cells) < 2:
        return float("nan")
    cells = cells[:: -(-len(cells) // _N_MEDIAN)]
    cells = cells - cells.mean(axis=0)
    return float(np.median(np.sqrt(_squared_distances(cells, cells)[np.triu_indices(len(cells), k=1)])))


def _centred(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move both sets near the origin, where differences of squares keep their digits."""
    a, b = same_genes(a=a, b=b)
    if len(a) == 0 or len(b) == 0:
        return a, b
    centre = (a.mean(axis=0) + b.mean(axis=0)) / 2
    return a - centre, b - centre


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances of all pairs, ``(n_a, n_b)``, through one matrix product."""
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    squared -= 2 * (a @ b.T)
    return np.maximum(squared, 0, out=squared)


def _mean_between(a: np.ndarray, b: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean of a function of the squared distance over all pairs of a row of `a` and a row of `b`."""
    blocks = (a[start : start + _BLOCK] for start in range(0, len(a), _BLOCK))
    return float(sum(function(_squared_distances(block, b)).sum() for block in blocks) / (len(a) * len(b)))


def _mean_within(a: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean of a function of the squared distance over all pairs of two different rows of `a`."""
    total = 0.0
    for start in range(0, len(a), _BLOCK):
        values = function(_squared_distances(a[start : start + _BLOCK], a))
        rows = np.arange(len(values))
        values[rows, start + rows] = 0
        total += values.sum()
    return float(total / (len(a) * (len(a) - 1)))
