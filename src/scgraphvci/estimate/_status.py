"""What a row of a result can say of itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scgraphvci.estimate._accumulate import ARM, REFERENCE, BoolArray, IntArray

STATUS = ("ok", "extrapolated", "no_reference", "too_few_cells", "too_few_clusters", "leak_detected")
"""All of them."""


def status_of(
    n_used: IntArray,
    n_all: IntArray,
    covered: BoolArray,
    n_clusters: IntArray | None,
    min_cells: int,
    *,
    with_reference: bool,
) -> NDArray[np.object_]:
    """Status of every stratum, ``(n_strata,)``, before any leak is looked for.

    Parameters
    ----------
    n_used, n_all
        Cells the estimate averages over, and all cells, ``(n_strata, n_roles)``.
    covered
        Strata with the arms that an estimate needs, ``(n_strata,)``.
    n_clusters
        Clusters of each stratum, ``(n_strata,)``; `None` where errors are not clustered.
    min_cells
        Fewest cells in an arm.
    with_reference
        Whether there is a reference.
    """
    status = np.full(len(n_used), "ok", dtype=object)
    if n_clusters is not None:
        status[n_clusters < 2] = "too_few_clusters"
    arms = [ARM, REFERENCE] if with_reference else [ARM]
    status[(n_used[:, arms] < min_cells).any(axis=1)] = "too_few_cells"
    extrapolated = n_all[:, ARM] == 0
    status[extrapolated] = "extrapolated"
    if with_reference:
        # Also where the treated cells' strata lack the reference, though other strata have it.
        status[~covered & (~extrapolated | (n_all[:, REFERENCE] == 0))] = "no_reference"
    return status
