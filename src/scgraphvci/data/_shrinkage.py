"""Empirical-Bayes shrinkage of many noisy effects."""

from __future__ import annotations

import numpy as np

N_COMPONENTS = 12
N_STEPS = 60


def probability_of_effect(effect: np.ndarray, variance: np.ndarray) -> np.ndarray:
    r"""Posterior probability that an effect is not zero, under a scale mixture of normals fitted to a family.

    Each row is a family: :math:`\hat\beta_g \sim N(\beta_g, s_g^2)` and
    :math:`\beta_g \sim \sum_k \pi_k N(0, \tau_k^2)` with :math:`\tau_0 = 0`. The weights maximise the marginal
    likelihood (EM), as in Stephens, Biostatistics 18:275 (2017); the result is one less the local false discovery
    rate. Effects are multiplied by it rather than replaced by posterior means: those would shrink the few large effects
    that make a treatment what it is.

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
    smallest = np.sqrt(np.median(variance)) / 10
    largest = max(2 * np.sqrt(max(float((effect**2 - variance).max()), 0.0)), 2 * smallest)
    scale = np.concatenate([[0.0], np.geomspace(smallest, largest, N_COMPONENTS)]) ** 2
    total = variance[:, None] + scale
    log_density = -0.5 * (np.log(total) + effect[:, None] ** 2 / total)
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    weight = np.full(scale.size, 1 / scale.size)
    for _ in range(N_STEPS):
        weight = (density * (weight / (density @ weight)[:, None])).mean(axis=0)
    posterior = density * weight
    return np.asarray(1 - posterior[:, 0] / posterior.sum(axis=1))
