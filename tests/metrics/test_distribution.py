from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from scgraphvci.metrics import _distribution as module
from scgraphvci.metrics import energy_distance, median_distance, mmd


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (35, 6)), rng.normal(0.5, 1.3, (28, 6))


def naive(a, b, kernel):
    """Twice the mean between sets, less the means within: loops over pairs of different cells."""
    between = np.mean([kernel(x, y) for x in a for y in b])
    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    return 2 * between - sum(within)


def test_energy_distance_is_that_of_a_loop(cells):
    expected = naive(*cells, lambda x, y: np.sqrt(np.sum((x - y) ** 2)))
    assert energy_distance(*cells) == pytest.approx(expected, rel=1e-12)
    assert energy_distance(*cells[::-1]) == pytest.approx(expected, rel=1e-12)


def test_energy_distance_in_one_dimension_is_that_of_scipy(cells):
    a, b = cells[0][:, 0], cells[1][:, 0]
    # scipy's is the square root of the version that counts pairs of a cell with itself.
    biased = stats.energy_distance(a, b) ** 2
    itself = [cdist(s[:, None], s[:, None]).mean() / (len(s) - 1) for s in (a, b)]
    assert energy_distance(a[:, None], b[:, None]) == pytest.approx(biased - sum(itself), rel=1e-10)


@pytest.mark.parametrize("bandwidth", [0.3, 2.0, None])
def test_mmd_is_that_of_a_loop(cells, bandwidth):
    width = np.median(pdist(np.concatenate(cells))) if bandwidth is None else bandwidth
    expected = -naive(*cells, lambda x, y: np.exp(-np.sum((x - y) ** 2) / (2 * width**2)))
    assert mmd(*cells, bandwidth=bandwidth) == pytest.approx(expected, rel=1e-10)
    assert mmd(*cells[::-1], bandwidth=bandwidth) == pytest.approx(expected, rel=1e-10)


def test_closed_form_of_shifted_points():
    a, b = np.zeros((4, 3)), np.full((5, 3), 2.0)
    assert energy_distance(a, b) == pytest.approx(2 * np.sqrt(12))
    assert mmd(a, b, bandwidth=3.0) == pytest.approx(2 - 2 * np.exp(-12 / 18))


def test_both_are_zero_in_expectation_for_one_distribution():
    rng = np.random.default_rng(3)
    draws = np.array([[energy_distance(a, b), mmd(a, b)] for a, b in rng.normal(size=(3000, 2, 6, 4))])
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0)) < 3.5 * error).all()
    assert (error < 0.02).all()
    assert (draws.min(axis=0) < 0).all()


def test_the_expectation_does_not_depend_on_the_number_of_cells():
    rng = np.random.default_rng(4)

    def mean_and_error(n):
        values = [energy_distance(rng.normal(size=(n, 2)), rng.normal(1, 1, (n, 2))) for _ in range(1500)]
        return np.mean(values), np.std(values) / np.sqrt(1500)

    (few, error_few), (many, error_many) = mean_and_error(4), mean_and_error(20)
    assert abs(few - many) < 3.5 * np.hypot(error_few, error_many)


def test_moving_both_sets_changes_nothing(cells):
    a, b = cells
    far = 1e5
    assert energy_distance(a + far, b + far) == pytest.approx(energy_distance(a, b), abs=1e-8)
    assert mmd(a + far, b + far) == pytest.approx(mmd(a, b), abs=1e-8)


def test_blocks_change_nothing(cells, monkeypatch):
    whole = energy_distance(*cells), mmd(*cells)
    monkeypatch.setattr(module, "_BLOCK", 8)
    assert (energy_distance(*cells), mmd(*cells)) == pytest.approx(whole, rel=1e-12)


def test_the_order_of_cells_and_genes_does_not_matter(cells):
    rng = np.random.default_rng(5)
    genes = rng.permutation(6)
    other = [rng.permutation(s)[:, genes] for s in cells]
    assert energy_distance(*other) == pytest.approx(energy_distance(*cells), rel=1e-10)
    assert mmd(*other) == pytest.approx(mmd(*cells), rel=1e-10)


def test_median_distance_is_that_of_all_pairs(cells, monkeypatch):
    assert median_distance(cells[0]) == pytest.approx(np.median(pdist(cells[0])), rel=1e-12)
    monkeypatch.setattr(module, "_N_MEDIAN", 10)
    assert median_distance(cells[0]) == pytest.approx(np.median(pdist(cells[0][::4])), rel=1e-12)


def test_memory_stays_below_pairs_times_genes():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 1500, 200))
    tracemalloc.start()
    energy_distance(a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1500 * 1500 * 200 * 8 / 20


def test_undefined_with_fewer_than_two_cells(cells):
    a, b = cells
    for few in (a[:1], a[:0]):
        assert np.isnan(energy_distance(few, b))
        assert np.isnan(mmd(b, few))
        assert np.isnan(median_distance(few))
    assert np.isnan(mmd(np.zeros((3, 2)), np.zeros((3, 2))))  # no distance, no bandwidth


def test_what_does_not_fit_raises(cells):
    a, b = cells
    for metric in (energy_distance, mmd):
        with pytest.raises(ValueError, match="same genes"):
            metric(a, b[:, 1:])
    for bandwidth in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="bandwidth must be positive"):
            mmd(a, b, bandwidth=bandwidth)
