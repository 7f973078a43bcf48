"""What is known of treatments beforehand: descriptors, target genes, directions, and the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.model.base import BaseModelClass

from scgraphvci._constants import KEYS
from scgraphvci.data import Network
from scgraphvci.data._descriptor_field import SIGN

_Base: Any = BaseModelClass if TYPE_CHECKING else object


class KnowledgeMixin(_Base):
    """Looks up in the registry what is known of treatments."""

    def _described(self) -> dict[str, Any] | None:
        """Descriptors of treatments in the registry, if any."""
        if KEYS.DESCRIPTORS not in self.registry["field_registries"]:
            return None
        state = self.get_state_registry(KEYS.DESCRIPTORS)
        return state if state["values"] is not None else None

    def _features(self, names: Any) -> np.ndarray | None:
        """Descriptors of treatments, NaN for those without; None if there are no descriptors."""
        described = self._described()
        if described is None:
            return None
        row = {name: i for i, name in enumerate(described["names"])}
        values = np.asarray(described["values"], dtype=np.float64)
        found = [values[row[name]] if name in row else np.full(values.shape[1], np.nan) for name in names]
        return np.stack(found)

    def _gene(self, name: str) -> int:
        """Position of the gene that a treatment is named after, -1 if there is none."""
        genes = self._model_genes()
        return genes.index(name) if name in genes else -1

    def _sign(self, name: str, *, required: bool = False) -> float:
        """Direction of a perturbation, 0 where it is not said."""
        if KEYS.DESCRIPTORS not in self.registry["field_registries"]:
            return 0.0
        direction = self.get_state_registry(KEYS.DESCRIPTORS)["direction"]
        if direction is None or isinstance(direction, str):
            return SIGN.get(str(direction), 0.0)
        if required and name not in direction:
            msg = f"`perturbation_direction` says nothing of {name!r}. Name its direction at setup."
            raise ValueError(msg)
        return SIGN.get(direction.get(name, ""), 0.0)

    def _network(self) -> Network | None:
        """The registered network, if it has edges between different genes."""
        graph = self.get_state_registry(KEYS.GRAPH)
        if not graph:
            return None
        edges = np.asarray(graph["edge_index"])
        if not np.any(edges[0] != edges[1]):
            return None
        return Network(edges, np.asarray(graph["edge_weight"]))
