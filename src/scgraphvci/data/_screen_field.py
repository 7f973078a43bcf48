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
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError
            If there is none, or it is not one that this field has written.
        """
        state = registries[self.registry_key]["state_registry"]
        if self.is_empty:
            check_equal(state, {})
        else:
            self._check_state(state, registries)

    def _check_state(self, state: Mapping[str, Any], registries: Mapping[str, Any]) -> None:
        """Read a state, beside those of all fields; what that raises is taken for damage."""

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


def check_equal(found: Any, expected: Any) -> None:
    """Check that a saved value is the one that the arguments of the set-up imply.

    Raises
    ------
    ValueError
        If it is another.
    """
    if type(found) is not type(expected) or found != expected:
        msg = f"{expected!r:.50} expected, found {found!r:.50}"
        raise ValueError(msg)


def check_names(values: Any, *, unique: bool = False) -> None:
    """Check that a saved value is a sequence of texts.

    Raises
    ------
    TypeError
        If it is not.
    ValueError
        If a text comes twice where each must be there once.
    """
    if not isinstance(values, (list, tuple, np.ndarray)) or not all(isinstance(value, str) for value in values):
        msg = f"{values!r:.50} is no list of names"
        raise TypeError(msg)
    if unique and len(set(values)) < len(values):
        msg = f"{values!r:.50} holds a name twice"
        raise ValueError(msg)


def check_numbers(values: Any, *shape: int, above: float = -np.inf) -> None:
    """Check that a saved value is an array of finite numbers of some shape.

    Raises
    ------
    TypeError
        If it holds no numbers.
    ValueError
        If it has another shape, or holds NaN, infinite numbers or some that are not above `above`.
    """
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iuf":
        msg = f"numbers expected, found {values!r:.50}"
        raise TypeError(msg)
    if array.shape != shape or not np.isfinite(array).all() or np.any(array <= above):
        msg = f"finite numbers above {above} of shape {shape} expected, found {array.shape}: {values!r:.50}"
        raise ValueError(msg)


def check_codes(values: Any, *shape: int, n: int) -> None:
    """Check that a saved value is an array of whole numbers, from 0 to `n` - 1, of some shape.

    Raises
    ------
    TypeError
        If it holds anything but whole numbers.
    ValueError
        If it has another shape, or a number is out of range.
    """
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        msg = f"whole numbers expected, found {values!r:.50}"
        raise TypeError(msg)
    if array.shape != shape or np.any(array < 0) or np.any(array >= n):
        msg = f"codes below {n} of shape {shape} expected, found {array.shape}: {values!r:.50}"
        raise ValueError(msg)
