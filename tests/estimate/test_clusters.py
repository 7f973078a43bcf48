"""Clusters that an average rests on."""

from __future__ import annotations

import numpy as np

from scgraphvci.estimate._clusters import Clusters


def test_effective_clusters_are_those_of_equal_size():
    cells = np.zeros((2, 4, 3), dtype=int)
    cells[0, :, 0], cells[0, :, 1] = 10, [10, 10, 10, 0]
    cells[1, :, 0], cells[1, :, 1] = [5, 5, 60, 0], 20
    clusters = Clusters(cells, with_reference=True, independent=False)
    np.testing.assert_allclose(clusters.effective, [3, 70**2 / (5**2 + 5**2 + 60**2)])
    np.testing.assert_array_equal(clusters.n, [3, 3])
    np.testing.assert_allclose(Clusters(cells, with_reference=False, independent=False).effective[0], 4)
    np.testing.assert_array_equal(Clusters(cells, with_reference=True, independent=True).effective, [3, 3])


def test_variance_is_that_of_totals_with_the_small_sample_factor():
    cells = np.zeros((2, 4, 3), dtype=int)
    cells[0, :, :2], cells[1, 2, :2] = 10, 7  # four equal clusters, and a single one
    totals = np.random.default_rng(0).normal(size=(2, 4, 5))
    found = Clusters(cells, with_reference=True, independent=False).variance_of(totals)
    np.testing.assert_allclose(found[0], 4 * totals[0].var(axis=0, ddof=1) + 4 / 3 * 4 * totals[0].mean(axis=0) ** 2)
    np.testing.assert_allclose(found[1], np.square(totals[1]).sum(axis=0))
