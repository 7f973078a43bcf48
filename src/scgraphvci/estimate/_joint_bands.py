"""Bands that hold all genes of a treatment and stratum together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import special

from scgraphvci.estimate._accumulate import FloatArray, IntArray
from scgraphvci.estimate._bands import N_DRAWS, SEED, joint_levels
from scgraphvci.estimate._skewness import reach

if TYPE_CHECKING:
    from scgraphvci.estimate._result import MarginalEffects


def joint_bands(
    effects: MarginalEffects, n_draws: int, seed: int
) -> tuple[FloatArray, FloatArray, NDArray[np.object_]]:
    """See `MarginalEffects.joint_bands`."""
    found = effects.bands
    if found is None or (n_draws, seed) != (N_DRAWS, SEED):
        influence = effects._kept_influence()
        found = joint_levels(influence, effects.std_error > 0, effects.params["alpha"], n_draws, seed)
    df = effects.df if effects.n_clusters.any() else np.minimum(effects.df, _fewest_cells(effects)[:, :, None] - 1.0)
    below = above = special.stdtrit(df, 1.0 - found.level[:, :, None] / 2.0)
    if effects.third_cumulant is not None:
        skewness = np.divide(
            effects.third_cumulant,
            effects.std_error**3,
            out=np.zeros_like(effects.estimate),
            where=effects.std_error > 0,
        )
        below, above = reach(below, skewness)
    low = effects.estimate - below * effects.std_error - effects._allowed_bias
    return low, effects.estimate + above * effects.std_error + effects._allowed_bias, found.method


def _fewest_cells(effects: MarginalEffects) -> IntArray:
    """Cells of the smaller arm."""
    if effects.params["reference"] is None:
        return effects.n_treated
    return np.minimum(effects.n_treated, effects.n_reference)
