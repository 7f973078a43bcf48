"""Registration of expression with scvi-tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgraphvci._constants import KEYS
from scgraphvci.data._read import finite_blocks, require_unique_names
from scgraphvci.data._screen_field import ScreenField, check_equal, check_names, check_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData


RAW_COUNTS_FROM = 30  # log1p of normalised expression stays far below; whole numbers above this are raw counts


def looks_like_counts(state: Mapping[str, Any]) -> bool:
    """Whether what :meth:`OutcomeField.register_field` returned is of raw counts rather than log-normalised values."""
    return bool(state["integer"] and state["min"] >= 0 and state["max"] > RAW_COUNTS_FROM)


class OutcomeField(ScreenField):
    """Expression: `X` or a layer, dense or sparse, in memory or backed."""

    _registry_key = KEYS.OUTCOME

    def __init__(self, layer: str | None, mod_key: str | None = None) -> None:
        super().__init__(mod_key)
        self._layer = layer
        self._attr_name = "X" if layer is None else "layers"

    @property
    def attr_key(self) -> str | None:
        """Layer name, or None for `X`."""
        return self._layer

    def validate_field(self, adata: AnnData | MuData) -> None:
        """Check shape and names; values are checked while their statistics are taken."""
        table = self._table(adata)
        require_unique_names(table)
        if self._layer is not None and self._layer not in table.layers:
            layers = [key for key in table.layers if key is not None]  # anndata from 0.13 lists X under None
            msg = f"Layer {self._layer!r} not found. Layers: {layers}; `layer=None` uses X."
            raise KeyError(msg)
        if self._layer is None and table.X is None:
            msg = "`adata.X` is None. Name the layer that holds expression with `layer=`."
            raise ValueError(msg)

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Return gene names and what the values look like."""
        self.validate_field(adata)
        table = self._table(adata)
        integer, smallest, largest = True, np.inf, -np.inf
        name = "X" if self._layer is None else f"layer {self._layer!r}"
        for block in finite_blocks(self.get_field_data(adata), name):
            integer = integer and bool(np.all(block == np.round(block)))
            smallest, largest = min(smallest, float(block.min())), max(largest, float(block.max()))
        return {
            "column_names": [str(name) for name in table.var_names],  # the name under which scvi-tools looks them up
            "n_obs": int(table.n_obs),
            "n_vars": int(table.n_vars),
            "integer": integer,
            "min": smallest,
            "max": largest,
        }

    def _check_state(self, state: Mapping[str, Any], registries: Mapping[str, Any]) -> None:
        check_names(state["column_names"], unique=True)
        check_equal(state["n_vars"], len(state["column_names"]))
        check_numbers([state["n_obs"], state["min"], state["max"]], 3)
        check_equal(state["integer"], bool(state["integer"]))

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData | MuData, **kwargs: Any) -> dict:
        """Register new data; genes must be the same, in the same order."""
        expected = list(state_registry["column_names"])
        found = [str(name) for name in self._table(adata_target).var_names]
        if found != expected:
            missing = sorted(set(expected) - set(found))
            if missing:
                msg = (
                    f"{len(missing)} of {len(expected)} genes of the model are missing, such as {missing[:5]}. Take "
                    "data with all of `model.get_var_names()`, under the same names."
                )
            else:
                msg = (
                    "The data hold other genes, or in another order, than the model. "
                    "Pass `adata[:, model.get_var_names()].copy()`."
                )
            raise ValueError(msg)
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return numbers of genes and cells."""
        return {"n_vars": state_registry["n_vars"], "n_cells": state_registry["n_obs"]}
