"""What models learn from the training cells before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scvi.model.base import BaseModelClass

from scgraphvci._constants import KEYS
from scgraphvci.data import Residuals, StratumMoments, cell_residuals, stratum_moments
from scgraphvci.data._moments import library_sizes
from scgraphvci.module._likelihood import is_count
from scgraphvci.train._embeddings import mean_embeddings

if TYPE_CHECKING:
    from torch import Tensor

_Base: Any = BaseModelClass if TYPE_CHECKING else object


class RegisteredCells(NamedTuple):
    """All cells of the registered data.

    Attributes
    ----------
    matrix
        Outcomes, cells x genes.
    stratum, condition
        Codes, shape ``(n_cells,)``.
    library
        Library sizes of counts, shape ``(n_cells,)``; None where outcomes are not counts.
    """

    matrix: Any
    stratum: np.ndarray
    condition: np.ndarray
    library: np.ndarray | None


class StatisticsMixin(_Base):
    """Moments, residuals and embeddings of registered cells, each in one or two passes over them."""

    def _moments(
        self, registered: RegisteredCells, cells: np.ndarray, library_size: float | None = None
    ) -> StratumMoments:
        """Moments of some cells."""
        return stratum_moments(
            registered.matrix,
            registered.stratum,
            registered.condition,
            n_strata=self.module.strata.shape[0],
            n_conditions=self.module.design.shape[0],
            cells=np.asarray(cells),
            library=registered.library,
            library_size=library_size if registered.library is not None else None,
        )

    def _residuals(self, registered: RegisteredCells, cells: np.ndarray, moments: StratumMoments) -> Residuals | None:
        """Residuals of some cells about their moments, where the module needs them."""
        if not self.module.needs_residuals:
            return None
        matrix, stratum, condition, library = registered
        return cell_residuals(matrix, stratum, condition, moments, np.asarray(cells), library)

    def _embeddings(self, registered: RegisteredCells, cells: np.ndarray, moments: StratumMoments) -> Tensor | None:
        """Mean Fourier features of some cells, where the module has such features."""
        if self.module.fourier is None:
            return None
        matrix, stratum, condition, library = registered
        return mean_embeddings(self.module, matrix, stratum, condition, moments, np.asarray(cells), library)

    def _registered_cells(self) -> RegisteredCells:
        """Read codes and, for counts, sum libraries: a pass over all cells, to be made once for a training."""
        manager = self.adata_manager
        matrix = manager.get_from_registry(KEYS.OUTCOME)
        library = None
        if is_count(self.module.likelihood):
            if KEYS.SIZE_FACTOR in manager.data_registry:
                library = np.asarray(manager.get_from_registry(KEYS.SIZE_FACTOR), dtype=np.float64).ravel()
            else:
                library = library_sizes(matrix)
        stratum, condition = (
            np.asarray(manager.get_from_registry(key)).ravel().astype(np.int64)
            for key in (KEYS.STRATUM, KEYS.TREATMENT)
        )
        return RegisteredCells(matrix, stratum, condition, library)
