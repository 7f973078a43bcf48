from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_squared_error, r2_score

from scgraphvci.metrics import signal_weights, weighted_mse, weighted_r2


@pytest.fixture
def profiles():
    rng = np.random.default_rng(0)
    true, reference = rng.normal(1, 1, (2, 40))
    return true, true + rng.normal(0, 0.4, 40), reference, signal_weights(rng.normal(0, 3, 40))


def naive_weights(t_scores):
    """Loop over genes, as the formula reads."""
    size = [abs(t) for t in t_scores]
    squares = [((value - min(size)) / (max(size) - min(size))) ** 2 for value in size]
    return [value / sum(squares) for value in squares]


def test_weights_follow_the_formula():
    t_scores = np.random.default_rng(1).normal(0, 2, 30)
    weights = signal_weights(t_scores)
    np.testing.assert_allclose(weights, naive_weights(t_scores), rtol=1e-12)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(signal_weights(-3 * t_scores), weights, rtol=1e-12)


def test_equal_scores_weigh_equally_and_nan_is_no_signal():
    np.testing.assert_array_equal(signal_weights(np.zeros(4)), np.full(4, 0.25))
    np.testing.assert_array_equal(signal_weights(np.array([2.0, -2.0])), [0.5, 0.5])
    np.testing.assert_allclose(signal_weights(np.array([np.nan, 1.0, 2.0])), [0, 0.2, 0.8])


def test_infinite_scores_and_no_genes_raise():
    with pytest.raises(ValueError, match="1 of them infinite"):
        signal_weights(np.array([1.0, -np.inf]))
    with pytest.raises(ValueError, match="at least one gene"):
        signal_weights(np.array([]))


def test_weighted_metrics_are_those_of_sklearn(profiles):
    true, predicted, reference, weights = profiles
    expected = mean_squared_error(true, predicted, sample_weight=weights)
    assert weighted_mse(true, predicted, weights) == pytest.approx(expected, rel=1e-12)
    expected = r2_score(true - reference, predicted - reference, sample_weight=weights)
    assert weighted_r2(true, predicted, reference, weights) == pytest.approx(expected, rel=1e-12)


def test_the_scale_of_weights_and_the_order_of_genes_do_not_matter(profiles):
    order = np.random.default_rng(2).permutation(40)
    true, predicted, reference, weights = profiles
    other = [array[order] for array in profiles]
    assert weighted_mse(*other[:2], 7 * other[3]) == pytest.approx(weighted_mse(true, predicted, weights), rel=1e-12)
    assert weighted_r2(*other[:3], 7 * other[3]) == pytest.approx(weighted_r2(*profiles), rel=1e-12)


def test_genes_without_weight_do_not_count(profiles):
    true, predicted, reference, _ = profiles
    weights = np.repeat([0.0, 1.0], 20)
    wrong = np.where(weights == 0, 99.0, predicted)
    assert weighted_mse(true, wrong, weights) == weighted_mse(true, predicted, weights)
    assert weighted_r2(true, wrong, reference, weights) == weighted_r2(true, predicted, reference, weights)


def test_the_reference_itself_scores_zero_or_less(profiles):
    true, _, reference, weights = profiles
    shift = true - reference
    mean = weights @ shift
    expected = -(mean**2) / (weights @ (shift - mean) ** 2)
    assert weighted_r2(true, reference, reference, weights) == pytest.approx(expected, rel=1e-10)
    assert expected <= 0


def test_one_shift_for_all_genes_has_no_scale():
    weights = np.full(7, 1 / 7)
    reference = np.linspace(0, 1, 7)
    assert np.isnan(weighted_r2(reference + 0.1, np.zeros(7), reference, weights))
    alone = np.eye(7)[3]
    assert np.isnan(weighted_r2(reference + np.arange(7), np.zeros(7), reference, alone))


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_weights_that_are_none_raise(weights):
    true = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match="signal_weights"):
        weighted_mse(true, true, np.array(weights))
    with pytest.raises(ValueError, match="signal_weights"):
        weighted_r2(true, true, true, np.array(weights))
