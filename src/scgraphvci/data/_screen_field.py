"""What the package's scvi-tools fields share.

Every field takes `mod_key`, the MuData modality that holds its data, so that one class serves AnnData and MuData.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data.fields import BaseAnnDataField

from scgraphvci.data._read import modality

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from rich.table import Table


class ScreenField(BaseAnnDataField):
    """What our fields share: a modality, and a plain registry entry."""

    _registry_key: str
    _attr_name: str = "obs"

    def __init__(self, mod_key: str | None = None) -> None:
        super().__init__()
        self._mod_key = mod_key

    @property
    def registry_key(self) -> str:
        """Key in the registry and in minibatches."""
        return self._registry_key

    @property
    def attr_name(self) -> str:
        """AnnData attribute that minibatches read."""
        return self._attr_name

    @property
    def attr_key(self) -> str | None:
        """Key in that attribute."""
        return f"_{self._registry_key}"

    @property
    def mod_key(self) -> str | None:
        """MuData modality."""
        return self._mod_key

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be registered."""
        return False

    def validate_field(self, adata: AnnData | MuData) -> None:
        """Check the input; nothing is written before this has passed."""

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Validate, write codes, return the state."""
        self.validate_field(adata)
        return {}

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData | MuData, **kwargs: Any) -> dict:
        """Validate and code new data against the saved state; levels are never extended."""
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return sizes for the model."""
        return {}

    def view_state_registry(self, state_registry: dict[str, Any]) -> Table | None:
        """Return nothing: the summary statistics say it all."""
        return None

    def _table(self, adata: AnnData | MuData) -> AnnData:
        return modality(adata, self._mod_key)

    def _write(self, adata: AnnData | MuData, codes: np.ndarray) -> None:
        self._table(adata).obs[self.attr_key] = codes.astype(np.int32)
