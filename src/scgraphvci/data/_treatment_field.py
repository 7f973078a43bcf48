"""Registration of treatments with scvi-tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgraphvci._constants import KEYS
from scgraphvci.data._fields import training_cells
from scgraphvci.data._read import require_column, require_text
from scgraphvci.data._screen_field import ScreenField, check_equal, check_names, check_numbers
from scgraphvci.data._treatments import TreatmentTable, build_treatment_table, extend_treatment_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


class TreatmentField(ScreenField):
    """Treatment: one code per cell into a table of multi-hot vectors times dose."""

    _registry_key = KEYS.TREATMENT

    def __init__(
        self,
        perturbation_key: str,
        control: str,
        dose_key: str | None = None,
        combination_sep: str | None = None,
        split_key: str | None = None,
        mod_key: str | None = None,
    ) -> None:
        super().__init__(mod_key)
        self._perturbation_key = perturbation_key
        self._control = str(control)
        self._dose_key = dose_key
        self._combination_sep = combination_sep
        self._split_key = split_key

    def validate_field(self, adata: AnnData | MuData) -> None:
        """Check that the columns exist and that some cells are controls and some are not."""
        if len(self.require_control(adata)) < 2:
            msg = (
                f"obs[{self._perturbation_key!r}] holds only the control {self._control!r}; a screen has treatments. "
                "Check `perturbation_key`, or add cells that were treated."
            )
            raise ValueError(msg)

    def require_control(self, adata: AnnData | MuData) -> list[str]:
        """Return the levels of the treatment; raise if the control is not among them."""
        levels = sorted(self._treatments(adata).unique())
        if self._control not in levels:
            msg = (
                f"Control {self._control!r} has no cells in obs[{self._perturbation_key!r}]. "
                f"Levels: {levels[:20]}. Name one of them with `control=`."
            )
            raise ValueError(msg)
        return levels

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Build the treatment table and write the codes."""
        self.validate_field(adata)
        table, codes = build_treatment_table(
            self._treatments(adata), self._doses(adata), self._train(adata), self._control, self._combination_sep
        )
        if table.design.shape[0] < 2:
            msg = (
                f"No cell has a dose above 0 in obs[{self._dose_key!r}]; a screen needs a treatment. Check that "
                "column, or leave `dose_key` out."
            )
            raise ValueError(msg)
        self._write(adata, codes)
        trained = np.any(table.design[np.unique(codes[self._train(adata)])] != 0, axis=0)
        untrained = [name for name, seen in zip(table.perturbations, trained, strict=True) if not seen]
        return {**table.to_state(), "perturbation_key": self._perturbation_key, "untrained": untrained}

    def _check_state(self, state: Mapping[str, Any], registries: Mapping[str, Any]) -> None:
        table = TreatmentTable.from_state(state)
        for name, given in (
            ("perturbation_key", self._perturbation_key), ("control", self._control),
            ("combination_sep", self._combination_sep),
        ):  # fmt: skip
            check_equal(state[name], given)
        for name in ("perturbations", "untrained"):
            check_names(state[name], unique=True)
        check_names(state["names"])
        check_names(state["doses"])
        check_equal(len(table.doses), len(table.names))
        check_numbers(state["design"], len(table.names), len(table.perturbations))
        check_equal(table.max_dose is None, self._dose_key is None)
        if table.max_dose is not None:
            check_numbers(state["max_dose"], len(table.perturbations), above=0.0)
        for name, dose in table.default_dose.items():
            check_names([name, dose])
            table.vector(name, dose)

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData | MuData, **kwargs: Any) -> dict:
        """Code new data against the saved perturbations; new doses and combinations of them are fine."""
        saved = TreatmentTable.from_state(state_registry)
        table, codes = extend_treatment_table(saved, self._treatments(adata_target), self._doses(adata_target))
        self._write(adata_target, codes)
        return {**state_registry, **table.to_state()}

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return the number of single perturbations."""
        return {"n_perturbations": len(state_registry["perturbations"])}

    def _treatments(self, adata: AnnData | MuData) -> pd.Series:
        return require_text(self._table(adata), self._perturbation_key, "perturbation_key")

    def _doses(self, adata: AnnData | MuData) -> pd.Series | None:
        if self._dose_key is None:
            return None
        return require_column(self._table(adata), self._dose_key, "dose_key", allow_missing=True)

    def _train(self, adata: AnnData | MuData) -> np.ndarray:
        return training_cells(self._table(adata), self._split_key)
