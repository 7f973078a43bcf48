"""The process along descriptors against conditional normal laws written out."""

from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.data._treatment_kernel import TreatmentKernel, descriptor_relevance

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


def test_relevance_is_the_share_of_variance_beyond_chance():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 4)), rng.normal(size=(12, 6))
    y += 3 * x[:, [1]]
    x = np.column_stack([x, np.ones(12)])
    total = ((y - y.mean(axis=0)) ** 2).sum()
    expected = []
    for column in x[:, :4].T:
        design = np.column_stack([np.ones(12), column])
        residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        expected.append(max(0, 1 - (residual**2).sum() / total - 1 / 11))
    relevance = descriptor_relevance(x, y)
    np.testing.assert_allclose(relevance, [*expected, 0], atol=1e-12)
    assert relevance.argmax() == 1


def test_relevance_stretches_descriptors():
    raw = np.random.default_rng(0).normal(size=(6, 3))
    relevance = np.array([0.5, 0.0, 2.0])
    kernel = TreatmentKernel.of(raw, "linear", 1.0, relevance)
    standard = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    np.testing.assert_allclose(kernel.features, standard * np.sqrt(relevance))


def test_constant_descriptors_count_for_nothing():
    raw = np.column_stack([np.arange(5.0), np.ones(5)])
    kernel = TreatmentKernel.of(raw, "radial", 1.0)
    assert kernel.nearest(np.array([2.0, 100.0])) == (2, 0.0)
