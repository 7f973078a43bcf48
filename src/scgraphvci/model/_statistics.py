"""What models learn from the training cells before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


class StatisticsMixin(_Base):
    """Moments, residuals and embeddings of registered cells, each in one or two passes over them."""

    def _moments(self, cells: np.ndarray, library_size: float | None = None) -> StratumMoments:
        """Moments of some cells of the registered data."""
        matrix, stratum, condition, library = self._screen()
        return stratum_moments(
            matrix,
            stratum,
            condition,
            n_strata=self.module.strata.shape[0],
            n_conditions=self.module.design.shape[0],
            cells=np.asarray(cells),
            library=library,
            library_size=library_size if library is not None else None,
        )

    def _residuals(self, cells: np.ndarray, moments: StratumMoments) -> Residuals | None:
        """Residuals of some cells of the registered data about their moments, where the module needs them."""
        if not self.module.needs_residuals:
            return None
        matrix, stratum, condition, library = self._screen()
        return cell_residuals(matrix, stratum, condition, moments, np.asarray(cells), library)

    def _embeddings(self, cells: np.ndarray, moments: StratumMoments) -> Tensor | None:
        """Mean Fourier features of some cells of the registered data, where the module has such features."""
        if self.module.fourier is None:
            return None
        matrix, stratum, condition, library = self._screen()
        return mean_embeddings(self.module, matrix, stratum, condition, moments, np.asarray(cells), library)

    def _screen(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray | None]:
        """Return outcomes, strata, treatment vectors and, for counts, libraries of all cells of the registered data."""
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
        return matrix, stratum, condition, library
