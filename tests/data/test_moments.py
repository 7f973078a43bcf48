from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from scgraphvci.data import StratumMoments, _moments, stratum_moments
from scgraphvci.data._moments import library_sizes

FORMATS = {
    "dense": np.asarray,
    "float64": lambda x: np.asarray(x, dtype=np.float64),
    "integer": lambda x: np.asarray(x, dtype=np.int32),
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
}
N_STRATA, N_CONDITIONS = 3, 4


@pytest.fixture
def cells():
    """Counts, codes (stratum 2 never met condition 3), and cells that count, in no order."""
    rng = np.random.default_rng(0)
    n = 150
    stratum, condition = rng.integers(N_STRATA, size=n), rng.integers(N_CONDITIONS, size=n)
    condition[(stratum == 2) & (condition == 3)] = 1
    counts = rng.poisson(2.0, (n, 6)).astype(np.float32)
    counts[7] = 0  # an empty cell
    return counts, stratum, condition, rng.permutation(n)[:100]


def moments_of(matrix, cells, **kwargs):
    _, stratum, condition, chosen = cells
    return stratum_moments(matrix, stratum, condition, N_STRATA, N_CONDITIONS, chosen, **kwargs)


def check_against_groups(moments, values, inputs, cells):
    """Compare with a loop over pairs."""
    _, stratum, condition, chosen = cells
    member = np.isin(np.arange(len(stratum)), chosen)
    seen = 0
    for x in range(N_STRATA):
        for t in range(N_CONDITIONS):
            group = member & (stratum == x) & (condition == t)
            row = moments.row[x, t]
            if not group.any():
                assert row == -1
                continue
            seen += 1
            assert moments.n_cells[row] == group.sum()
            np.testing.assert_allclose(moments.mean[row], values[group].mean(axis=0), rtol=1e-6)
            np.testing.assert_allclose(moments.variance[row], values[group].var(axis=0), rtol=1e-5, atol=1e-6)
    assert seen == len(moments.mean) == len(moments.variance) == N_STRATA * N_CONDITIONS - 1
    np.testing.assert_array_equal(moments.condition_frequency, np.bincount(condition[member], minlength=N_CONDITIONS))
    np.testing.assert_allclose(moments.input_mean, inputs[member].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.gene_mean, values[member].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("block_values", [6, 100, 10**6])
@pytest.mark.parametrize("form", FORMATS)
def test_expression_as_it_is(monkeypatch, cells, form, block_values):
    monkeypatch.setattr(_moments, "BLOCK_VALUES", block_values)
    counts = cells[0]
    moments = moments_of(FORMATS[form](counts), cells)
    check_against_groups(moments, counts, counts, cells)
    assert moments.library_size == 1.0
    assert moments.mean.dtype == moments.variance.dtype == np.float32


@pytest.mark.parametrize("form", FORMATS)
def test_counts_are_scaled_to_the_median_training_library(monkeypatch, cells, form):
    monkeypatch.setattr(_moments, "BLOCK_VALUES", 100)
    counts, *_, chosen = cells
    library = np.maximum(counts.sum(axis=1), 1)
    moments = moments_of(FORMATS[form](counts), cells, library=library)
    scaled = counts / library[:, None] * np.median(library[chosen])
    check_against_groups(moments, scaled, np.log1p(scaled), cells)
    assert moments.library_size == np.median(library[chosen])
    fixed = moments_of(FORMATS[form](counts), cells, library=library, library_size=10.0)
    check_against_groups(fixed, counts / library[:, None] * 10, np.log1p(counts / library[:, None] * 10), cells)


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_backed_files_give_the_same(monkeypatch, tmp_path, cells, form):
    monkeypatch.setattr(_moments, "BLOCK_VALUES", 100)
    counts, *_, chosen = cells
    ad.AnnData(FORMATS[form](counts)).write_h5ad(tmp_path / "screen.h5ad")
    matrix = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r").X
    library = library_sizes(matrix)
    np.testing.assert_array_equal(library, np.maximum(counts.sum(axis=1), 1))
    moments = moments_of(matrix, cells, library=library)
    scaled = counts / library[:, None] * np.median(library[chosen])
    check_against_groups(moments, scaled, np.log1p(scaled), cells)


@pytest.mark.parametrize("form", FORMATS)
def test_library_sizes(monkeypatch, cells, form):
    monkeypatch.setattr(_moments, "BLOCK_VALUES", 100)
    library = library_sizes(FORMATS[form](cells[0]))
    np.testing.assert_array_equal(library, np.where(np.arange(150) == 7, 1, cells[0].sum(axis=1)))


def test_cells_that_do_not_count_are_never_read(cells):
    counts, *_, chosen = cells
    before = moments_of(counts, cells, library=np.maximum(counts.sum(axis=1), 1))
    other = np.setdiff1d(np.arange(150), chosen)
    changed = counts.copy()
    changed[other] = np.nan
    library = np.maximum(counts.sum(axis=1), 1)
    library[other] = 1e9
    after = moments_of(changed, cells, library=library)
    for name in ("row", "n_cells", "mean", "variance", "input_mean"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.library_size == before.library_size


def test_order_of_cells_does_not_matter(cells):
    counts, stratum, condition, chosen = cells
    first = moments_of(counts, cells)
    second = moments_of(counts, (counts, stratum, condition, np.sort(chosen)))
    np.testing.assert_array_equal(first.mean, second.mean)


def test_variance_of_large_values_does_not_cancel():
    values = np.array([[1e4], [1e4 + 1]], dtype=np.float32)
    moments = stratum_moments(values, np.zeros(2, int), np.zeros(2, int), 1, 1, np.arange(2))
    assert moments.variance[0, 0] == pytest.approx(0.25, rel=1e-4)
    constant = stratum_moments(np.full((3, 1), 1e4), np.zeros(3, int), np.zeros(3, int), 1, 1, np.arange(3))
    assert constant.variance[0, 0] == 0


def test_variance_shrinks_toward_the_treatment_as_if_by_cells():
    moments = StratumMoments(
        row=np.array([[0, 1], [2, -1]]),
        n_cells=np.array([2, 5, 8]),
        mean=np.zeros((3, 1), np.float32),
        variance=np.array([[1.0], [3.0], [6.0]], np.float32),
        input_mean=np.zeros(1, np.float32),
        library_size=1.0,
    )
    pooled = (2 * 1 + 8 * 6) / 10  # rows 0 and 2 are of one treatment
    expected = [(2 * 1 + 20 * pooled) / 22, 3.0, (8 * 6 + 20 * pooled) / 28]
    np.testing.assert_allclose(moments.shrunken_variance(np.array([0, 1, 0]))[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(moments.shrunken_variance(np.array([0, 1, 0]), 0.0), moments.variance, rtol=1e-6)
    np.testing.assert_allclose(moments.within_variance, [(2 * 1 + 5 * 3 + 8 * 6) / 15])
    np.testing.assert_array_equal(moments.condition_frequency, [10, 5])


def test_log_means_are_as_if_one_more_count_had_been_seen():
    """Gene 0 is frequent, gene 1 rare, gene 2 was never seen."""
    mean = np.array([[4.0, 0.0, 0.0], [6.0, 0.02, 0.0]], np.float32)
    moments = StratumMoments(np.array([[0, 1]]), np.array([10, 90]), mean, np.ones((2, 3), np.float32), mean[0], 1.0)
    typical = [5.8, 0.018, 1 / 100]
    expected = [[np.log((n * m + 1) / (n + 1 / g)) for m, g in zip(row, typical, strict=True)] for n, row in
                zip([10, 90], mean, strict=True)]  # fmt: skip
    np.testing.assert_allclose(moments.log_mean, expected, rtol=1e-6)
    # Ten cells without a count say next to nothing of a rare gene.
    assert abs(moments.log_mean[0, 1] - np.log(0.018)) < 0.2
    np.testing.assert_allclose(moments.log_within_variance, [5.8 / 5.8**2, 1 / 0.018**2, 1 / 0.01**2], rtol=1e-6)


@pytest.mark.parametrize("rate", [0.5, 3.0, 50.0])
def test_log_moments_of_poisson_counts(rate):
    rng = np.random.default_rng(0)
    n_strata, n_cells = 4000, 30
    mean = rng.poisson(rate * n_cells, (n_strata, 1)) / n_cells
    row = np.arange(n_strata)[:, None]
    moments = StratumMoments(row, np.full(n_strata, n_cells), mean, np.full_like(mean, rate), mean[0], 1.0)
    assert moments.log_mean.mean() == pytest.approx(np.log(rate), abs=0.04)
    assert moments.log_mean.var() == pytest.approx(moments.log_within_variance[0] / n_cells, rel=0.1)
