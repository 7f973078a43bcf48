from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scgraphvci.estimate import adjust_p_values

P = np.random.default_rng(0).uniform(size=(3, 4, 50)) ** 3


def holm_naive(p: np.ndarray) -> np.ndarray:
    """Step down, one hypothesis at a time."""
    adjusted, largest = np.empty_like(p), 0.0
    for step, index in enumerate(np.argsort(p)):
        largest = max(largest, min(1.0, p[index] * (len(p) - step)))
        adjusted[index] = largest
    return adjusted


def test_bh_equals_scipy():
    np.testing.assert_allclose(adjust_p_values(P, "fdr_bh"), stats.false_discovery_control(P, axis=-1), rtol=1e-12)


def test_holm_equals_the_step_down_procedure():
    np.testing.assert_allclose(adjust_p_values(P, "holm"), np.apply_along_axis(holm_naive, -1, P), rtol=1e-12)


def test_bonferroni_multiplies():
    np.testing.assert_allclose(adjust_p_values(P, "bonferroni"), np.minimum(1, P * 50))


def test_none_changes_nothing():
    np.testing.assert_array_equal(adjust_p_values(P, None), P)


@pytest.mark.parametrize("method", ["fdr_bh", "holm", "bonferroni", None])
def test_nan_is_no_test(method):
    row = P[0, 0]
    with_nan = np.insert(row, [0, 7, 50], np.nan)
    adjusted = adjust_p_values(with_nan, method)
    kept = ~np.isnan(with_nan)
    np.testing.assert_allclose(adjusted[kept], adjust_p_values(row, method))
    assert np.isnan(adjusted[~kept]).all()


@pytest.mark.parametrize("method", ["fdr_bh", "holm", "bonferroni"])
def test_nothing_but_nan(method):
    assert np.isnan(adjust_p_values([np.nan, np.nan], method)).all()


def test_ties_get_the_same_value():
    assert adjust_p_values([0.02, 0.02, 0.5], "fdr_bh").tolist() == pytest.approx([0.03, 0.03, 0.5])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="'bh'"):
        adjust_p_values([0.1], "bh")
    with pytest.raises(ValueError, match="1.5"):
        adjust_p_values([0.1, 1.5])
