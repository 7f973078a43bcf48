"""Registration of what is known of treatments beforehand: descriptors, and the direction of perturbations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from scgraphvci._constants import KEYS
from scgraphvci.data._fields import training_cells
from scgraphvci.data._read import require_text
from scgraphvci.data._screen_field import ScreenField, check_equal, check_names, check_numbers
from scgraphvci.data._treatments import split_combination

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

Direction = Literal["knockout", "interference", "activation"]
SIGN: dict[str, float] = {"knockout": -1.0, "interference": -1.0, "activation": 1.0}


class DescriptorField(ScreenField):
    """Descriptors of seen and unseen treatments, kept in the registry and out of minibatches.

    Parameters
    ----------
    features
        Treatments x features, or the name of such a frame in `uns`.
    direction
        One direction for all perturbations, or one for each by name.
    perturbation_key, control, combination_sep, split_key
        As in :meth:`scgraphvci.GraphVCI.setup_anndata`.
    """

    _registry_key = KEYS.DESCRIPTORS
    _attr_name = "uns"

    def __init__(
        self,
        features: pd.DataFrame | str | None,
        direction: str | Mapping[str, str] | None,
        perturbation_key: str,
        control: str,
        combination_sep: str | None,
        split_key: str | None,
        mod_key: str | None = None,
    ) -> None:
        super().__init__(mod_key)
        self._features, self._direction = features, direction
        self._perturbation_key, self._control, self._sep = perturbation_key, str(control), combination_sep
        self._split_key = split_key

    def get_data_registry(self) -> dict[str, str]:
        """Return nothing, so that no minibatch loads descriptors."""
        return {}

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Check descriptors against the treatments of the training cells and return them."""
        table = self._table(adata)
        column = require_text(table, self._perturbation_key, "perturbation_key")
        levels = column[training_cells(table, self._split_key)].unique()
        seen = sorted({member for level in levels for member in split_combination(level, self._control, self._sep)})
        state: dict[str, Any] = {"names": [], "columns": [], "values": None, "direction": None}
        if self._features is not None:
            frame = checked_features(self._features, table, seen, self._control)
            state["names"] = [str(name) for name in frame.index]
            state["columns"] = [str(name) for name in frame.columns]
            state["values"] = frame.to_numpy(dtype=np.float64)
        if self._direction is not None:
            state["direction"] = checked_direction(self._direction, seen)
        return state

    def _check_state(self, state: Mapping[str, Any], registries: Mapping[str, Any]) -> None:
        for names in (state["names"], state["columns"]):
            check_names(names, unique=True)
        check_equal(state["values"] is None, self._features is None)
        if state["values"] is not None:
            check_numbers(state["values"], len(state["names"]), len(state["columns"]))
        check_equal(state["direction"] is None, self._direction is None)
        if state["direction"] is not None:
            checked_direction(state["direction"], [])

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData | MuData, **kwargs: Any) -> dict:
        """Keep the saved descriptors."""
        return dict(state_registry)


def checked_features(features: Any, table: AnnData, seen: list[str], control: str) -> pd.DataFrame:
    """Return descriptors as a frame of finite numbers, one row per treatment, the control's left out.

    Raises
    ------
    KeyError
        If there is no such frame in `uns`.
    TypeError
        If they are no frame.
    ValueError
        If a name or column occurs twice, a seen treatment is missing, or a value is not a finite number.
    """
    if isinstance(features, str):
        if features not in table.uns:
            msg = f"`treatment_features`: {features!r} not found in uns. Keys: {list(table.uns)[:20]}. Pass a frame."
            raise KeyError(msg)
        features = table.uns[features]
    if not isinstance(features, pd.DataFrame):
        msg = (
            f"`treatment_features` must be a DataFrame (treatments x features, treatment names as index) or the name "
            f"of one in uns, not {type(features).__name__}."
        )
        raise TypeError(msg)
    frame = features.set_axis(features.index.astype(str), axis=0)
    for what, names in (("treatments", frame.index), ("features", frame.columns)):
        repeated = sorted({str(name) for name in names[names.duplicated()]})
        if repeated:
            msg = f"`treatment_features` names the {what} {repeated[:10]} more than once. Keep one of each."
            raise ValueError(msg)
    if not frame.shape[1]:
        msg = "`treatment_features` has no columns. Give at least one feature, or leave it out."
        raise ValueError(msg)
    missing = [name for name in seen if name not in frame.index]
    if missing:
        msg = (
            f"`treatment_features` has no row for {missing[:10]} ({len(missing)} of {len(seen)} treatments of the "
            "training cells). Add them: the model learns from seen treatments what descriptors mean."
        )
        raise ValueError(msg)
    numbers = frame.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    wrong = ~np.isfinite(numbers.to_numpy())
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        msg = (
            f"`treatment_features` holds {str(frame.iloc[row, column])!r} for {frame.index[row]!r}, feature "
            f"{frame.columns[column]!r}; all {wrong.sum()} such values must be finite numbers. Fill or drop them."
        )
        raise ValueError(msg)
    return numbers.drop(index=control, errors="ignore")


def checked_direction(direction: Any, seen: list[str]) -> str | dict[str, str]:
    """Return the direction of all perturbations, or of each.

    Raises
    ------
    ValueError
        If a word is not among those allowed, or a seen treatment has none.
    """
    given = {str(key): value for key, value in direction.items()} if isinstance(direction, Mapping) else direction
    words = list(given.values()) if isinstance(given, dict) else [given]
    wrong = [word for word in words if word not in SIGN]
    if wrong:
        msg = f"Unknown perturbation_direction {wrong[0]!r}. Choose one of {list(get_args(Direction))}."
        raise ValueError(msg)
    missing = [name for name in seen if name not in given] if isinstance(given, dict) else []
    if missing:
        msg = f"`perturbation_direction` says nothing of {missing[:10]}. Name a direction for every treatment."
        raise ValueError(msg)
    return given
