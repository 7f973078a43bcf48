"""Sums of one treatment of which `robust` uses other predictions than the model's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scgraphvci.estimate._accumulate import BoolArray, EffectSums, FloatArray
from scgraphvci.estimate._influence import Moments, stratum_moments


@dataclass(frozen=True)
class GuardedSums:
    """Sums with the predictions of a model, and with those that `robust` is made with.

    Parameters
    ----------
    model
        With the model's predictions: the plugin is their mean, and leaks of the model are looked for in them.
    made
        With predictions from states of cells (see `CellStates`) where these are known, else the model's.
    by_states
        Arms of which they are known, ``(n_strata, n_roles)``.
    unexpected
        Variance of what these take for states, ``(n_strata, n_genes)``.
    """

    model: EffectSums
    made: EffectSums
    by_states: BoolArray
    unexpected: FloatArray

    def moments(self, of_model: Moments, arm_variance: float, concentrated: FloatArray | None) -> Moments:
        """Moments of what `robust` is made with, given those of the model's predictions."""
        made = stratum_moments(self.made, arm_variance, concentrated, self.by_states)
        unexpected = self.unexpected if made.unexpected is None else self.unexpected + made.unexpected
        return replace(made, plugin=of_model.stratum_mean, unexpected=unexpected)
