from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scgraphvci.metrics import bound_discrimination_score, dynamic_range_fraction, interval_coverage


def test_coverage_and_width_of_known_intervals():
    true = np.array([0.0, 1.0, 2.0, 3.0])
    low, high = np.array([-1.0, 1.0, 2.5, 0.0]), np.array([1.0, 2.0, 3.0, 2.5])
    assert interval_coverage(true, low, high) == (0.5, 1.5)


def test_normal_intervals_cover_at_their_level():
    rng = np.random.default_rng(0)
    mean, n = rng.normal(size=40_000), 40_000
    half = stats.norm.ppf(0.975) * 0.5
    estimate = mean + rng.normal(0, 0.5, n)
    found = interval_coverage(mean, estimate - half, estimate + half)
    assert found.coverage == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / n))
    assert found.width == pytest.approx(2 * half)


def test_entries_without_an_interval_do_not_count():
    nan = np.nan
    found = interval_coverage(np.array([0.0, 0.0, nan]), np.array([-1.0, nan, -1.0]), np.array([1.0, 1.0, 1.0]))
    assert found == (1, 2)
    assert np.isnan(interval_coverage(*np.full((3, 2), nan))).all()


def test_intervals_that_end_before_they_start_raise():
    with pytest.raises(ValueError, match="1 intervals have `low` above `high`"):
        interval_coverage(np.zeros(2), np.array([1.0, 0.0]), np.array([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("duplicate", "baseline", "perfect", "expected"),
    [
        (0.75, 0.5, 1.0, 0.5),  # higher is better
        (0.2, 0.8, 0.0, 0.75),  # lower is better
        (0.5, 0.5, 1.0, 0.0),
        (1.0, 0.5, 1.0, 1.0),
        (-9.0, 0.5, 1.0, -1.0),  # clipped
        (-0.1, 0.8, 0.0, 1.0),  # an unbiased distance may fall below perfect
        (5e-7, 1e-6, 0.0, 0.5),  # as large as the constant of the published formula
    ],
)
def test_dynamic_range(duplicate, baseline, perfect, expected):
    assert dynamic_range_fraction(duplicate, baseline, perfect) == pytest.approx(expected)


def test_dynamic_range_is_the_published_one_where_errors_are_large():
    rng = np.random.default_rng(1)
    for duplicate, baseline in rng.uniform(0.1, 0.9, (20, 2)):
        published = np.clip((duplicate - baseline) / (1 - baseline + 1e-6), -1, 1)
        assert dynamic_range_fraction(duplicate, baseline, 1.0) == pytest.approx(published, abs=1e-4)


def test_a_perfect_baseline_leaves_no_range():
    assert np.isnan(dynamic_range_fraction(0.9, 1.0, 1.0))
    assert np.isnan(dynamic_range_fraction(np.nan, 0.5, 1.0))


def test_bound_discrimination_counts_wins_and_half_of_ties():
    positive, negative = np.array([3.0, 1.0, 2.0, np.nan]), np.array([1.0, 2.0, 2.0, 0.0])
    assert bound_discrimination_score(positive, negative, higher_is_better=True) == 0.5
    positive[1] = 9.0
    assert bound_discrimination_score(positive, negative, higher_is_better=True) == pytest.approx(2.5 / 3)
    assert bound_discrimination_score(positive, negative, higher_is_better=False) == pytest.approx(0.5 / 3)
    assert np.isnan(bound_discrimination_score(positive[3:], negative[3:], higher_is_better=True))
    with pytest.raises(ValueError, match="one shape"):
        bound_discrimination_score(positive, negative[1:], higher_is_better=True)
