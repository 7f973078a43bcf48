from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from scgraphvci.metrics import mae, mse, pearson_shift, r2


@pytest.fixture
def profiles():
    rng = np.random.default_rng(0)
    true = rng.normal(1, 1, 50)
    return true, true + rng.normal(0, 0.4, 50), true + rng.normal(0, 0.7, 50)


def test_r2_is_one_minus_the_ratio_of_squares(profiles):
    true, predicted, _ = profiles
    residual = sum((y - p) ** 2 for y, p in zip(true, predicted, strict=True))
    spread = sum((y - true.mean()) ** 2 for y in true)
    assert r2(true, predicted) == pytest.approx(1 - residual / spread, rel=1e-12)
    assert r2(true, true) == 1.0
    assert r2(true, np.full(50, true.mean())) == pytest.approx(0, abs=1e-12)
    assert r2(true, -true) < 0


def test_r2_of_a_constant_truth_is_undefined():
    assert np.isnan(r2(np.ones(5), np.arange(5.0)))
    assert np.isnan(r2(np.full(7, 0.1), np.arange(7.0)))  # whose mean is not exactly .1


def test_pearson_shift_is_the_correlation_of_shifts(profiles):
    true, predicted, reference = profiles
    expected = stats.pearsonr(true - reference, predicted - reference).statistic
    assert pearson_shift(true, predicted, reference) == pytest.approx(expected, rel=1e-12)
    assert pearson_shift(true, true, reference) == pytest.approx(1)
    assert pearson_shift(true, 2 * reference - true, reference) == pytest.approx(-1)


def test_pearson_shift_ignores_the_size_of_the_shift(profiles):
    true, predicted, reference = profiles
    tripled = reference + 3 * (predicted - reference)
    assert pearson_shift(true, tripled, reference) == pytest.approx(pearson_shift(true, predicted, reference))


def test_no_shift_predicted_scores_zero_and_no_true_shift_is_undefined(profiles):
    true, predicted, reference = profiles
    assert pearson_shift(true, reference, reference) == 0.0
    assert pearson_shift(true, reference + 0.3, reference) == pytest.approx(0, abs=1e-6)
    assert np.isnan(pearson_shift(reference, predicted, reference))


def test_integers_and_float32(profiles):
    true, predicted, reference = (np.round(10 * profile) for profile in profiles)
    for dtype in (np.int64, np.float32):
        cast = [profile.astype(dtype) for profile in (true, predicted, reference)]
        assert r2(*cast[:2]) == pytest.approx(r2(true, predicted), rel=1e-5)
        assert pearson_shift(*cast) == pytest.approx(pearson_shift(true, predicted, reference), rel=1e-5)


def test_errors_and_r2_are_those_of_sklearn(profiles):
    true, predicted, _ = profiles
    assert r2(true, predicted) == pytest.approx(sklearn.r2_score(true, predicted), rel=1e-12)
    assert mse(true, predicted) == pytest.approx(sklearn.mean_squared_error(true, predicted), rel=1e-12)
    assert mae(true, predicted) == pytest.approx(sklearn.mean_absolute_error(true, predicted), rel=1e-12)
    assert mse(true, true) == mae(true, true) == 0


def test_the_order_of_genes_does_not_matter(profiles):
    order = np.random.default_rng(1).permutation(50)
    true, predicted, reference = profiles
    for metric in (r2, mse, mae):
        assert metric(true[order], predicted[order]) == pytest.approx(metric(true, predicted), rel=1e-12)
    shuffled = pearson_shift(true[order], predicted[order], reference[order])
    assert shuffled == pytest.approx(pearson_shift(true, predicted, reference), rel=1e-12)


@pytest.mark.parametrize("metric", [r2, mse, mae])
def test_profiles_of_other_genes_raise(metric):
    with pytest.raises(ValueError, match="same genes"):
        metric(np.ones(3), np.ones(4))
