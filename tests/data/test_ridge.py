from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.data._ridge import Ridge


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return rng.normal(size=(9, 3)), rng.uniform(0.5, 2, 9), rng.uniform(0.1, 1, 3), rng.normal(size=(9, 4))


def test_coefficients_equal_least_squares_with_the_prior_as_further_rows(problem):
    x, weight, penalty, y = problem
    rows = np.concatenate([np.sqrt(weight)[:, None] * x, np.diag(np.sqrt(penalty))])
    outcomes = np.concatenate([np.sqrt(weight)[:, None] * y, np.zeros((3, 4))])
    expected = np.linalg.lstsq(rows, outcomes)[0]
    np.testing.assert_allclose(Ridge(x, weight, penalty).coefficients(y), expected, rtol=1e-10)


def test_sampling_variance_is_that_of_refits_to_noise(problem):
    x, weight, penalty, _ = problem
    ridge, noise = Ridge(x, weight, penalty), np.linspace(0.1, 3, 9)
    draws = np.random.default_rng(1).normal(size=(9, 40_000)) * np.sqrt(noise)[:, None]
    np.testing.assert_allclose(ridge.sampling_variance(noise), ridge.coefficients(draws).var(axis=1), rtol=0.03)


def test_columns_that_cannot_be_told_apart_share_what_they_explain():
    found = Ridge(np.ones((5, 2)), np.ones(5), 1e-6).coefficients(np.full((5, 1), 3.0))
    np.testing.assert_allclose(found, 1.5, rtol=1e-5)


def test_more_columns_than_rows():
    found = Ridge(np.eye(2, 4), np.ones(2), 1.0).coefficients(np.array([[2.0], [4.0]]))
    np.testing.assert_allclose(found[:, 0], [1, 2, 0, 0])
