"""What the package's scvi-tools fields share.

Every field takes `mod_key`, the MuData modality that holds its data, so that one class serves AnnData and MuData.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data.fields import BaseAnnDataField

from scgraphvci.data._read import modality

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData
    from rich.table import Table


class DamagedStateError(ValueError):
    """A saved state is not one of its field."""


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

    def check_saved(self, registries: Mapping[str, Any]) -> None:
        """Check the state that a file holds of this field.

        Raises
        ------
        DamagedStateError
            If there is none, or it is not one that this field has written.
        """
        if self.is_empty:
            return
        try:
            self._check_state(registries[self.registry_key]["state_registry"])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            msg = f"its registry of {self.registry_key!r} is damaged ({type(error).__name__}: {error})"
            raise DamagedStateError(msg) from error

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Read a state; what that raises is taken for damage."""

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


def check_names(values: Any) -> None:
    """Check that a saved value is a sequence of texts.

    Raises
    ------
    TypeError
        If it is not.
    """
    if not isinstance(values, (list, tuple, np.ndarray)) or not all(isinstance(value, str) for value in values):
        msg = f"{values!r:.50} is no list of names"
        raise TypeError(msg)


def check_shape(values: Any, *shape: int) -> None:
    """Check that a saved value is an array of finite numbers of some shape.

    Raises
    ------
    TypeError
        If it holds no numbers.
    ValueError
        If it has another shape or holds NaN or infinite numbers.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        msg = f"finite numbers of shape {shape} expected, found {array.shape}"
        raise ValueError(msg)
