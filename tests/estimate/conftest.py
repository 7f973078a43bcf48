from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from scgraphvci.estimate import EffectSums, Groups


@dataclass
class Cells:
    """A small data set, kept whole so that the naive computations of the tests can see every cell."""

    outcome: np.ndarray
    predicted: np.ndarray
    predicted_reference: np.ndarray
    treatment: np.ndarray  # 0 treated, 1 reference, 2 something else
    stratum: np.ndarray
    cluster: np.ndarray

    def sums(
        self,
        *,
        clustered: bool = False,
        with_reference: bool = True,
        batch_size: int = 1000,
        into: EffectSums | None = None,
    ) -> EffectSums:
        groups, group = Groups.from_codes(self.stratum, self.cluster if clustered else None)
        sums = EffectSums(groups, self.outcome.shape[1], with_reference=with_reference) if into is None else into
        for start in range(0, len(group), batch_size):
            batch = slice(start, start + batch_size)
            sums.update(
                self.outcome[batch],
                self.predicted[batch],
                self.predicted_reference[batch] if with_reference else None,
                self.treatment[batch] == 0,
                self.treatment[batch] == 1 if with_reference else None,
                group[batch],
            )
        return sums


@pytest.fixture
def make_cells() -> Callable[..., Cells]:
    def make(n_cells: int = 300, n_genes: int = 4, n_strata: int = 3, n_clusters: int = 5, seed: int = 0) -> Cells:
        rng = np.random.default_rng(seed)
        stratum = rng.integers(n_strata, size=n_cells)
        treatment = rng.choice(3, size=n_cells, p=[0.3, 0.4, 0.3])
        state = rng.normal(size=(n_cells, n_genes))
        outcome = (
            3.0 + stratum[:, None] + state + (treatment == 0)[:, None] * (1 + state) + rng.normal(size=state.shape)
        )
        return Cells(
            outcome=outcome,
            predicted=4.2 + stratum[:, None] + 1.5 * state + 0.3 * rng.normal(size=state.shape),
            predicted_reference=2.9 + stratum[:, None] + 0.8 * state + 0.2 * rng.normal(size=state.shape),
            treatment=treatment,
            stratum=stratum,
            cluster=rng.integers(n_clusters, size=n_cells),
        )

    return make
