"""Empirical-Bayes shrinkage of many noisy effects."""

from __future__ import annotations

import numpy as np

N_COMPONENTS = 8
N_STEPS = 200


def probability_of_effect(effect: np.ndarray, variance: np.ndarray) -> np.ndarray:
    r"""Posterior probability that an effect is not zero, under a scale mixture of normals fitted to a family.

    Each row is a family: :math:`\hat\beta_g \sim N(\beta_g, s_g^2)` and
    :math:`\beta_g \sim \sum_k \pi_k N(0, \tau_k^2)` with :math:`\tau_0 = 0`. The weights maximise the marginal
    likelihood (EM), as in Stephens, Biostatistics 18:275 (2017); the result is one less the local false discovery
    rate. The other :math:`\tau_k` start at the median standard error: effects much smaller than that cannot be told
    from none, and would take the weight of those that are.

    Parameters
    ----------
    effect, variance
        Estimates and their sampling variances, shape ``(n_families, n_effects)``; the variance must be positive.

    Returns
    -------
    Shape ``(n_families, n_effects)``.
    """
    return np.stack([_probability(x, v) for x, v in zip(effect, variance, strict=True)])


def _probability(effect: np.ndarray, variance: np.ndarray) -> np.ndarray:
    smallest = np.sqrt(np.median(variance))
    largest = max(2 * np.sqrt(max(float((effect**2 - variance).max()), 0.0)), 2 * smallest)
    scale = np.concatenate([[0.0], np.geomspace(smallest, largest, N_COMPONENTS)]) ** 2
    total = variance + scale[:, None]
    log_density = -0.5 * (np.log(total) + effect**2 / total)
    density = np.exp(log_density - log_density.max(axis=0))  # (n_components, n_effects)
    weight = np.full(scale.size, 1 / scale.size)
    for _ in range(N_STEPS):
        weight *= density @ (1 / (weight @ density)) / effect.size
    return np.asarray(1 - weight[0] * density[0] / (weight @ density))
