r"""How far the mean latents of a stratum's arms lie apart, beyond what drawing cells at random explains.

Treatments are given at random within strata, so the mean latent of an arm of :math:`n_a` cells differs from that of its
stratum of :math:`n` cells by chance alone: with latents scaled to unit variance within arms, by :math:`v = 1/n_a - 1/n`
in variance. What arms differ by beyond it, :math:`\tau^2`, is no feature of the cells drawn but a trace of what they
received: the part of the treatment's effect that the model does not expect, which its encoder takes for the cells' own.

The stratum's own mean holds the traces of all arms :math:`b`, each by its share :math:`\pi_b` of the cells. With
independent traces an arm differs from it by

.. math::
    v_a + \tau^2 f_a, \qquad f_a = (1 - \pi_a)^2 + \sum_{b \ne a} \pi_b^2 = 1 - 2 \pi_a + \sum_b \pi_b^2

in variance. With both normal, the share of an observed difference that is due to the cells drawn is
:math:`v_a / (v_a + \tau^2 f_a)` on average (the Wiener filter): that share of Eq. 4's correction is made
(:func:`trust`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scgraphvci.estimate._accumulate import FloatArray, membership
from scgraphvci.estimate._arm_moments import ArmMoments

N_STEPS = 20


def variance_between(arms: ArmMoments) -> float:
    """Return the variance between arms in units of that within, averaged over directions of the latent.

    By maximum likelihood (Fisher scoring) from the squared distances of arms with at least two cells to their strata,
    as if these were independent. 0 where no stratum has two such arms, or arms differ no more than by chance.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> condition = rng.integers(40, size=8000)
    >>> trace = 0.3 * rng.normal(size=(40, 5))  # of what a cell received, in its latent
    >>> arms = ArmMoments(np.zeros(8000, dtype=int), condition)
    >>> _ = arms.update(rng.normal(size=(8000, 5)) + trace[condition], np.arange(8000))
    >>> round(variance_between(arms), 2)
    0.09
    """
    if arms.n_within < 1:
        return 0.0
    directions = arms.unit_directions()
    if not directions.size:
        return 0.0
    seen = arms.count > 0
    count, stratum = arms.count[seen], np.unique(arms.stratum[seen], return_inverse=True)[1]
    mean = arms.mean[seen]
    to_stratum = membership(stratum, stratum.max() + 1).astype(np.float64)
    n_stratum = to_stratum @ count
    centre = (to_stratum @ (mean * count[:, None])) / n_stratum[:, None]
    distance = (mean - centre[stratum]) @ directions
    squared = (distance**2).mean(axis=1)
    by_chance = 1 / count - 1 / n_stratum[stratum]
    share = count / n_stratum[stratum]
    factor = trace_factor(share, (to_stratum @ share**2)[stratum])
    informative = (count > 1) & (by_chance > 0)
    return _excess(squared[informative], by_chance[informative], factor[informative])


def concentration(stratum: ArrayLike, condition: ArrayLike, n_strata: int) -> FloatArray:
    """Sum over the arms of each stratum of their squared shares of its cells, ``(n_strata,)``; 0 without cells.

    Examples
    --------
    >>> concentration([0, 0, 0, 0, 1], [0, 1, 2, 2, 0], 2).tolist()
    [0.375, 1.0]
    """
    stratum, condition = np.asarray(stratum, dtype=np.int64), np.asarray(condition, dtype=np.int64)
    count = np.zeros((n_strata, int(condition.max(initial=0)) + 1))
    np.add.at(count, (stratum, condition), 1.0)
    return np.asarray((count**2).sum(axis=1) / np.maximum(count.sum(axis=1), 1) ** 2)


def trace_factor(share: ArrayLike, concentrated: ArrayLike) -> FloatArray:
    """How much of the variance between arms is in the difference of an arm to its stratum.

    Parameters
    ----------
    share
        Of the stratum's cells that the arm has.
    concentrated
        Sum of squared shares of all arms, as `concentration` gives.

    Examples
    --------
    >>> trace_factor([0.5, 0.0], [0.5, 0.0]).tolist()  # of two equal arms, and of a small one among many small ones
    [0.5, 1.0]
    """
    return np.maximum(1 - 2 * np.asarray(share, dtype=np.float64) + np.asarray(concentrated, dtype=np.float64), 0.0)


def trust(n_arm: ArrayLike, n_stratum: ArrayLike, arm_variance: float, concentrated: ArrayLike) -> FloatArray:
    r"""Share of Eq. 4's correction to make, :math:`v / (v + \tau^2 f)` with :math:`v = 1/n_a - 1/n`.

    1 where `arm_variance` is 0, and for arms without cells, which have no correction. `concentrated` as in
    `trace_factor`.

    Examples
    --------
    >>> trust([10, 100, 0], [1000, 1000, 1000], arm_variance=0.01, concentrated=0.05).round(2).tolist()
    [0.91, 0.51, 1.0]
    """
    n_arm, n_stratum = np.asarray(n_arm, dtype=np.float64), np.asarray(n_stratum, dtype=np.float64)
    by_chance = 1 / np.maximum(n_arm, 1) - 1 / np.maximum(n_stratum, 1)
    total = by_chance + arm_variance * trace_factor(n_arm / np.maximum(n_stratum, 1), concentrated)
    share = np.divide(by_chance, total, out=np.ones_like(total), where=total > 0)
    return np.where(n_arm > 0, share, 1.0)


def _excess(squared: FloatArray, by_chance: FloatArray, factor: FloatArray) -> float:
    """Solve for the variance that, times factors and added to that of chance, makes squared distances most likely."""
    excess = 0.0
    for _ in range(N_STEPS if len(squared) else 0):
        weight = factor / (by_chance + factor * excess) ** 2
        excess = max(0.0, float(weight @ (squared - by_chance) / (weight @ factor)))
    return excess
