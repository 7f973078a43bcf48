"""Registration of interventions on genes: which gene of the data each cell's treatment is named by."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pandas as pd

from scgraphvci._constants import KEYS
from scgraphvci.data._edge_evidence import CONTROL, OTHER
from scgraphvci.data._read import require_text
from scgraphvci.data._screen_field import ScreenField, check_equal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData

logger = logging.getLogger(__name__)


class InterventionField(ScreenField):
    """Treatments that are named by genes: one code per cell, the gene's position, or that of control or of others."""

    _registry_key = KEYS.INTERVENTION

    def __init__(self, perturbation_key: str | None, control: str = "control", mod_key: str | None = None) -> None:
        super().__init__(mod_key)
        self._perturbation_key = perturbation_key
        self._control = control

    @property
    def is_empty(self) -> bool:
        """Whether no key was given."""
        return self._perturbation_key is None

    def validate_field(self, adata: AnnData | MuData) -> None:
        """Check that the column is there and that the control has cells."""
        column = self._column(adata)
        if not (column == self._control).any():
            msg = (
                f"Control {self._control!r} has no cells in obs[{self._perturbation_key!r}]. "
                f"Set `control` to one of {sorted(column.unique())[:20]}."
            )
            raise ValueError(msg)

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Write the code of each cell."""
        self.validate_field(adata)
        column = self._column(adata)
        treatments = pd.Index(column.unique())
        codes = self._table(adata).var_names.astype(str).get_indexer(treatments)
        codes[codes < 0] = OTHER
        codes[treatments == self._control] = CONTROL
        if not (codes >= 0).any():
            logger.warning(
                "No treatment in obs[%r] is the name of a gene of the data, so none is evidence for edges: %s, ...",
                self._perturbation_key,
                ", ".join(map(repr, treatments[treatments != self._control][:3])),
            )
        self._write(adata, codes[treatments.get_indexer(column)])
        return {"perturbation_key": self._perturbation_key, "control": self._control}

    def _check_state(self, state: Mapping[str, Any], registries: Mapping[str, Any]) -> None:
        check_equal(state["perturbation_key"], self._perturbation_key)
        check_equal(state["control"], self._control)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return nothing: sizes do not depend on treatments."""
        return {}

    def _column(self, adata: AnnData | MuData) -> pd.Series:
        return require_text(self._table(adata), str(self._perturbation_key), "perturbation_key")
