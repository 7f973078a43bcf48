"""Marginal effects and their inference, on arrays: sums over cells, influence functions, multiplicity, results."""

from __future__ import annotations

from scgraphvci.estimate._accumulate import EffectSums, Groups
from scgraphvci.estimate._calibration import Calibration
from scgraphvci.estimate._marginal_effects import marginal_effects
from scgraphvci.estimate._multiplicity import adjust_p_values
from scgraphvci.estimate._repetitions import median_effects
from scgraphvci.estimate._result import MarginalEffects
from scgraphvci.estimate._tables import coarsen_strata

__all__ = [
    "Calibration",
    "EffectSums",
    "Groups",
    "MarginalEffects",
    "adjust_p_values",
    "coarsen_strata",
    "marginal_effects",
    "median_effects",
]
