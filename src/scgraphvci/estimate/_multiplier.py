"""Multiplier bootstrap over clusters: the joint distribution of the t statistics of all genes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from scgraphvci.estimate._accumulate import FloatArray
from scgraphvci.estimate._kernels import largest_sums

MIN_CLUSTERS = 12
"""Fewest clusters for a bootstrap of the largest statistic; Bonferroni's bound is taken below."""

_BLOCK_OF_GENES = 512  # draws x genes of a block stay in the cache
_ALL_THE_SAME = 1e-3  # length of centred multipliers below which they have one sign


@lru_cache(maxsize=8)
def signs(n_clusters: int, n_draws: int, seed: int) -> NDArray[np.float32]:
    """Rademacher multipliers, ``(n_draws, n_clusters)``, float32; all sign vectors where there are not more of them.

    A vector and its negative give the same statistic, so the first sign is always plus; the first vector is all plus.
    """
    if n_clusters <= np.log2(max(n_draws, 1)) + 1:
        bits = np.arange(2 ** max(n_clusters - 1, 0))[:, None] >> np.arange(max(n_clusters - 1, 0))
        drawn = 1.0 - 2.0 * (bits & 1)
        return _fixed(np.column_stack([np.ones(len(drawn)), drawn]).astype(np.float32)[:, :n_clusters])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 2, size=(n_draws, n_clusters)).astype(np.float32) * 2 - 1
    drawn[0] = 1.0
    return _fixed(drawn)


def _fixed(array: NDArray[np.float32]) -> NDArray[np.float32]:
    array.flags.writeable = False  # every caller gets the same
    return array


def largest_statistics(totals: FloatArray, multipliers: NDArray[np.float32]) -> FloatArray:
    """Largest absolute t statistic over genes in every draw, ``(n_draws,)``; n - 2 degrees of freedom for n clusters.

    A draw multiplies the totals of whole clusters, so genes keep their correlation. Every statistic is divided by the
    standard error of its own draw. Totals sum to zero over clusters, and so multiplying by signs and dividing by the
    error amounts to the two-sample t-test between clusters of either sign, whose distribution is known for normal
    totals however few. It grows with the correlation of signs and totals, of which only the largest has to be found.

    Parameters
    ----------
    totals
        Influence totals, ``(n_clusters, n_genes)``, clusters without cells left out.
    multipliers
        As `signs` gives, ``(n_draws, n_clusters)``.
    """
    unit = _unit_columns(totals)
    # To centre the totals is to centre the multipliers, which stay signs.
    largest = largest_sums(unit - unit.mean(axis=0, dtype=np.float64).astype(np.float32), multipliers)
    length = np.sqrt(len(totals) - multipliers.sum(axis=1, dtype=np.float64) ** 2 / len(totals))
    varied = length > _ALL_THE_SAME
    correlation = np.minimum(largest[varied] / length[varied], 1.0 - 1e-12)
    return correlation * np.sqrt((len(totals) - 2) / (1.0 - correlation**2))


def joint_level(totals: FloatArray, alpha: float, multipliers: NDArray[np.float32]) -> float:
    """Level of the pointwise intervals of genes that together cover all genes with probability ``1 - alpha``.

    The (1 - alpha) quantile of the largest t statistic, read as a two-sided p-value: genes whose own degrees of freedom
    differ get bands of their own width at the same level.
    """
    quantile = np.quantile(largest_statistics(totals, multipliers), 1.0 - alpha, method="higher")
    return float(min(2.0 * special.stdtr(len(totals) - 2, -quantile), alpha))


def romano_wolf(p_value: FloatArray, totals: FloatArray, multipliers: NDArray[np.float32]) -> FloatArray:
    """Step-down p-values that control the family-wise error and use the correlation of genes.

    Romano and Wolf (Econometrica 2005), in the form of Westfall and Young's smallest p-value: a gene's p-value is
    compared with the smallest among the genes not yet rejected, in every draw.

    Parameters
    ----------
    p_value
        P-values, ``(n_genes,)``; NaN is passed on and not counted.
    totals, multipliers
        As in `largest_statistics`.

    Returns
    -------
    Adjusted p-values, ``(n_genes,)``.
    """
    tested = np.flatnonzero(np.isfinite(p_value))
    order = tested[np.argsort(p_value[tested], kind="stable")[::-1]]  # largest first
    unit, directions = _unit_columns(totals[:, order]), _directions(multipliers)
    # The correlation of a draw that is as rare as the observed p-value.
    t = special.stdtrit(len(totals) - 2, np.maximum(p_value[order], np.finfo(float).tiny) / 2.0)
    observed = np.abs(t) / np.sqrt(len(totals) - 2 + t**2)
    at_least = np.empty(len(order))
    largest = np.zeros(len(directions), dtype=np.float32)
    for start in range(0, len(order), _BLOCK_OF_GENES):
        drawn = np.abs(directions @ unit[:, start : start + _BLOCK_OF_GENES])
        np.maximum(drawn[:, 0], largest, out=drawn[:, 0])
        np.maximum.accumulate(drawn, axis=1, out=drawn)
        largest = drawn[:, -1].copy()
        here = slice(start, start + drawn.shape[1])
        at_least[here] = (drawn >= observed[here] * (1 - 1e-6)).sum(axis=0)
    raw = (at_least + 1.0) / (len(directions) + 1.0)
    result = np.full(len(p_value), np.nan)
    # No gene is rejected before one with a smaller p-value, and none with less than its own.
    result[order[::-1]] = np.maximum(np.maximum.accumulate(raw[::-1]), p_value[order[::-1]])
    return result


def _unit_columns(totals: FloatArray) -> NDArray[np.float32]:
    totals = totals.astype(np.float64, copy=False)
    length = np.sqrt(np.einsum("cg,cg->g", totals, totals))
    return np.divide(totals, length, out=np.zeros(totals.shape), where=length > 0).astype(np.float32)


def _directions(multipliers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centred multipliers of unit length; those that are all the same are left out."""
    centred = multipliers - multipliers.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1))
    return (centred[length > _ALL_THE_SAME] / length[length > _ALL_THE_SAME, None]).astype(np.float32)
