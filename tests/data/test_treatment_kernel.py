"""The process along descriptors against conditional normal laws written out."""

from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.data._treatment_kernel import TreatmentKernel

N, EXCESS = 9, 0.4


def covariance(kind, a, b, features):
    """Covariance of standardised descriptors of variance 2."""
    if kind == "linear":
        return 2 * a @ b.T / (features**2).sum(axis=1).mean()
    apart = [((x - y) ** 2).sum() for i, x in enumerate(features) for y in features[i + 1 :]]
    return 2 * np.exp(-np.array([[((x - y) ** 2).sum() for y in b] for x in a]) / np.median(apart))


@pytest.mark.parametrize("kind", ["linear", "radial"])
def test_prediction_is_the_conditional_mean(kind):
    rng = np.random.default_rng(0)
    raw, y, new = rng.normal(3, 2, size=(N, 4)), rng.normal(size=(N, 5)), rng.normal(3, 2, size=4)
    kernel = TreatmentKernel.of(raw, kind, 2.0)
    features = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    point = ((new - raw.mean(axis=0)) / raw.std(axis=0))[None]
    np.testing.assert_allclose(kernel.matrix, covariance(kind, features, features, features))
    inverse = np.linalg.inv(kernel.matrix + EXCESS * np.eye(N))
    one = np.ones(N)
    mean = one @ inverse @ y / (one @ inverse @ one)
    shared = covariance(kind, point, features, features)[0]
    along, leverage = kernel.fitted(inverse, inverse @ (y - mean), EXCESS).predict(new)
    np.testing.assert_allclose(along, shared @ inverse @ (y - mean))
    # Kriging with an unknown mean: the best linear unbiased prediction, from the bordered system.
    bordered = np.block([[kernel.matrix + EXCESS * np.eye(N), one[:, None]], [one[None], np.zeros((1, 1))]])
    weights = np.linalg.solve(bordered, np.append(shared, 1.0))
    own = covariance(kind, point, point, features)[0, 0]
    np.testing.assert_allclose(mean + along, weights[:N] @ y)
    np.testing.assert_allclose(leverage, 1 + (own - weights @ np.append(shared, 1.0)) / EXCESS)


def test_nearest_is_measured_by_how_near_seen_ones_are():
    raw = np.array([[0.0], [1.0], [2.0], [4.0]])
    kernel = TreatmentKernel.of(raw, "radial", 1.0)
    assert kernel.nearest(np.array([7.0])) == (3, pytest.approx(3.0))
    assert kernel.nearest(np.array([1.0])) == (1, 0.0)


def test_constant_descriptors_count_for_nothing():
    raw = np.column_stack([np.arange(5.0), np.ones(5)])
    kernel = TreatmentKernel.of(raw, "radial", 1.0)
    assert kernel.nearest(np.array([2.0, 100.0])) == (2, 0.0)
