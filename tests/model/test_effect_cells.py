"""Memory that influence values of single cells take."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from scgraphvci.estimate import EffectSums, Groups, marginal_effects
from scgraphvci.estimate._leak_tests import _draws
from scgraphvci.estimate._multiplier import signs
from scgraphvci.model._effect_cells import _bytes_of_cells


@pytest.mark.parametrize("n_strata", [1, 3])
def test_memory_of_values_of_cells_is_what_the_guard_says(n_strata):
    """Few genes, so that most is what the leak test draws; strata differ in size, so that none is drawn twice."""
    rng = np.random.default_rng(0)
    size = 1200 + 20 * np.arange(n_strata)
    stratum = np.repeat(np.arange(n_strata), size)
    n, n_genes = len(stratum), 4
    _draws.cache_clear(), signs.cache_clear()
    tracemalloc.start()
    groups, group = Groups.of_cells(stratum)
    sums, treated = EffectSums(groups, n_genes), rng.random(n) < 0.5
    sums.update(*rng.normal(size=(3, n, n_genes)), treated, ~treated, group)
    marginal_effects([("a", sums)], strata=pd.DataFrame({"x": range(n_strata)}), genes=range(n_genes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    _draws.cache_clear(), signs.cache_clear()
    needed = _bytes_of_cells(n, size.max(), n_strata, 1, n_genes)
    assert 0.95 * peak <= needed <= 1.5 * peak
