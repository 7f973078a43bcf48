"""How responses grow with the dose."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from scgraphvci.data._kriging import HETEROGENEITY, Kriging, Pairs, Variances, split_blocks

if TYPE_CHECKING:
    from scipy import sparse
    from torch import Tensor

    Amounts = TypeVar("Amounts", np.ndarray, Tensor)

SATURATION = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
STEEPNESS = (1.0, 2.0)


class DoseResponse(NamedTuple):
    r"""Hill curve of a dose relative to the largest, :math:`h(u) = u^n (1 + k) / (1 + k u^n)`.

    It is 0 for the control and 1 at the largest training dose, and increases throughout.

    Attributes
    ----------
    saturation
        k; 0 for none.
    steepness
        n; with no saturation and a steepness of 1 the response is proportional to the dose.
    """

    saturation: float = 0.0
    steepness: float = 1.0

    def __call__(self, amount: Amounts) -> Amounts:
        """Return the response to doses relative to the largest, over that to the largest."""
        power = amount**self.steepness
        return power * (1 + self.saturation) / (1 + self.saturation * power)


def bent(design: np.ndarray | sparse.csr_array, curve: DoseResponse) -> np.ndarray | sparse.csr_array:
    """Return treatment vectors with the response to each dose in its place."""
    if isinstance(design, np.ndarray):
        return curve(design)
    design = design.copy()
    design.data = curve(design.data)
    return design


def fit_dose_response(pairs: Pairs, design: sparse.csr_array) -> DoseResponse:
    """Return the curve, one for all perturbations and genes, that leaves least of the shifts unexplained.

    Perturbations that were given at one dose only say nothing of it; where all were, the response is proportional.

    Parameters
    ----------
    pairs
        Strata under treatments beside their control.
    design
        Treatment vectors, shape ``(n_conditions, n_perturbations)``.
    """
    best = DoseResponse()
    if np.isin(design.data, (0, 1)).all():
        return best
    blocks = [block for block in split_blocks(design, pairs.condition) if _has_doses(block.design)]
    some = Kriging(pairs, blocks, np.zeros((int(pairs.stratum.max(initial=0)) + 1, 0))).subset()
    if not blocks:
        return best
    variances, least = Variances(0.0, HETEROGENEITY[1]), np.inf
    for steepness, saturation in product(STEEPNESS, SATURATION):
        curve = DoseResponse(saturation, steepness)
        error = 0.0
        for block in some.blocks:
            curved, rows = block._replace(design=curve(block.design)), np.arange(block.rows.size)
            shift, columns = pairs.shift[block.rows], some.columns(curved, rows, variances)
            residual = shift - columns @ some.ridge(curved, rows, variances).coefficients(shift)
            error += float(((residual**2).sum(axis=1) / (pairs.noise[block.rows] + variances.heterogeneity)).sum())
        if error < least:
            best, least = curve, error
    return best


def _has_doses(design: np.ndarray) -> bool:
    """Whether a perturbation was given at several doses."""
    return any(np.unique(column[column > 0]).size > 1 for column in design.T)
