"""Accuracy of predicted stratum means on validation cells, gathered over the batches of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgraphvci.metrics import pearson_shift, r2

if TYPE_CHECKING:
    from torch import Tensor

    from scgraphvci.data import StratumMoments

MIN_CELLS = 5  # pairs with fewer validation cells have no truth worth scoring against


class ShiftMetrics:
    """Mean counterfactuals per stratum and treatment against the observed means of validation cells.

    Every predicted mean comes from cells that received *another* treatment, so that nothing is scored on having seen
    the answer.
    """

    def __init__(self, truth: StratumMoments) -> None:
        self._row = torch.as_tensor(truth.row)
        self._truth = truth
        self._sum = torch.empty(0)
        self._count = torch.empty(0)

    def reset(self, device: torch.device) -> None:
        """Start an epoch."""
        self._row = self._row.to(device)
        self._sum = torch.zeros(self._truth.mean.shape, device=device)
        self._count = torch.zeros(self._truth.mean.shape[0], device=device)

    def update(self, predicted: Tensor, stratum: Tensor, condition: Tensor) -> None:
        """Add counterfactual means of cells, shape ``(n_cells, n_genes)``."""
        row = self._row[stratum, condition]
        known = row >= 0
        self._sum.index_add_(0, row[known], predicted[known].float())
        self._count.index_add_(0, row[known], torch.ones_like(row[known], dtype=self._count.dtype))

    def compute(self, strategy: Any) -> dict[str, float]:
        """Return R2 and Pearson correlation of the shift, averaged over strata and treatments other than control."""
        total = strategy.reduce(self._sum, reduce_op="sum").cpu().numpy()
        count = strategy.reduce(self._count, reduce_op="sum").cpu().numpy()
        truth = self._truth
        scores: dict[str, list[float]] = {"r2": [], "pearson_shift": []}
        for stratum, condition in zip(*np.nonzero(truth.row >= 0), strict=True):
            row, control = truth.row[stratum, condition], truth.row[stratum, 0]
            if condition == 0 or control < 0 or count[row] == 0 or truth.n_cells[row] < MIN_CELLS:
                continue
            predicted = total[row] / count[row]
            scores["r2"].append(r2(truth.mean[row], predicted))
            scores["pearson_shift"].append(pearson_shift(truth.mean[row], predicted, truth.mean[control]))
        return {name: float(np.nanmean(values)) for name, values in scores.items() if not np.all(np.isnan(values))}
