from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scgraphvci.metrics._arrays import correlation, same_genes, same_shape


def test_arrays_become_float64_in_order():
    first, second = same_shape(1, a=np.array([1, 2]), b=np.array([3, 4], dtype=np.float32))
    assert first.dtype == second.dtype == np.float64
    assert (first.tolist(), second.tolist()) == ([1, 2], [3, 4])
    assert [matrix.shape for matrix in same_genes(a=np.ones((2, 3)), b=np.ones((5, 3)))] == [(2, 3), (5, 3)]


def test_other_shapes_raise_and_are_named():
    with pytest.raises(ValueError, match=r"'a': \(2,\), 'b': \(3,\).*same genes"):
        same_shape(1, a=np.ones(2), b=np.ones(3))
    with pytest.raises(ValueError, match=r"\(n, n_genes\)"):
        same_shape(2, a=np.ones(2))
    for other in (np.ones((2, 4)), np.ones(3)):
        with pytest.raises(ValueError, match="same genes"):
            same_genes(a=np.ones((2, 3)), b=other)


def test_correlation_of_constants():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    assert correlation(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, rel=1e-12)
    assert correlation(a, np.full(30, 0.1)) == 0
    assert np.isnan(correlation(np.full(30, 0.1), b))
