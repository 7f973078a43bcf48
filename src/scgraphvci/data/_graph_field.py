"""Registration of the gene regulatory network and gene features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgraphvci._constants import KEYS
from scgraphvci.data._rows import in_memory
from scgraphvci.data._screen_field import ScreenField, check_codes, check_equal, check_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData


class GraphField(ScreenField):
    """The GRN in `varp` and gene features in `varm`, kept in the registry and out of minibatches.

    New data need no network of their own: the model keeps the one it was set up with. scvi-tools slices var-axis
    arrays by cell when they are registered the ordinary way, hence the empty data registry.
    """

    _registry_key = KEYS.GRAPH
    _attr_name = "varp"

    def __init__(self, grn_key: str | None, gene_features_key: str | None = None, mod_key: str | None = None) -> None:
        super().__init__(mod_key)
        self._grn_key = grn_key
        self._features_key = gene_features_key

    @property
    def attr_key(self) -> str | None:
        """Key in `varp`."""
        return self._grn_key

    @property
    def is_empty(self) -> bool:
        """Whether neither a network nor features were given."""
        return self._grn_key is None and self._features_key is None

    def get_data_registry(self) -> dict[str, str]:
        """Return nothing, so that no minibatch loads the network."""
        return {}

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Return the network as an edge list, and the features."""
        table = self._table(adata)
        edge_index, edge_weight = np.empty((2, 0), dtype=np.int64), np.empty(0, dtype=np.float32)
        if self._grn_key is not None:
            edge_index, edge_weight = _edges(table, self._grn_key)
        features = None if self._features_key is None else _features(table, self._features_key)
        return {"edge_index": edge_index, "edge_weight": edge_weight, "features": features}

    def _check_state(self, state: Mapping[str, Any], registries: Mapping[str, Any]) -> None:
        n_genes, n_edges = len(registries[KEYS.OUTCOME]["state_registry"]["column_names"]), len(state["edge_weight"])
        check_equal(n_edges > 0, self._grn_key is not None)
        check_codes(state["edge_index"], 2, n_edges, n=n_genes)
        check_numbers(state["edge_weight"], n_edges)
        check_equal(state["features"] is None, self._features_key is None)
        if state["features"] is not None:
            check_numbers(state["features"], n_genes, np.shape(state["features"])[1])

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData | MuData, **kwargs: Any) -> dict:
        """Keep the saved network; gene names were checked with the expression."""
        return dict(state_registry)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return the number of edges."""
        return {"n_grn_edges": int(np.shape(state_registry["edge_weight"])[0]) if state_registry else 0}


def _edges(adata: AnnData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Edge list (source, target) and weights of a network in `varp`."""
    if key not in adata.varp:
        msg = f"`grn_key`: {key!r} not found in varp. Keys: {list(adata.varp)}. Add one with `scgraphvci.grn.add_grn`."
        raise KeyError(msg)
    network = sparse.csr_array(in_memory(adata.varp[key]), copy=True)
    network.sum_duplicates()
    network = network.tocoo()
    weight = network.data.astype(np.float32)
    if not np.all(np.isfinite(weight)):
        msg = f"varp[{key!r}] holds {int((~np.isfinite(weight)).sum())} NaN or infinite weights. Remove those edges."
        raise ValueError(msg)
    source, target = network.coords
    keep = weight != 0
    source, target, weight = source[keep], target[keep], weight[keep]
    if not np.any(source != target):
        what = "only self-loops" if weight.size else "no edges"
        msg = f"varp[{key!r}] holds {what}. Use another network, or `grn_key=None` for the model without a graph."
        raise ValueError(msg)
    return np.stack([source, target]).astype(np.int64), weight


def _features(adata: AnnData, key: str) -> np.ndarray:
    """Gene features, shape ``(n_genes, n_features)``, standardised by column."""
    if key not in adata.varm:
        msg = f"`gene_features_key`: {key!r} not found in varm. Keys: {list(adata.varm)}. None goes without."
        raise KeyError(msg)
    stored = in_memory(adata.varm[key])
    dense = stored.toarray() if sparse.issparse(stored) else stored
    values = np.asarray(dense, dtype=np.float32)
    if values.ndim != 2 or not np.all(np.isfinite(values)):
        msg = f"varm[{key!r}] must be a finite matrix of shape (n_genes, n_features); got shape {values.shape}."
        raise ValueError(msg)
    sd = values.std(axis=0)
    return ((values - values.mean(axis=0)) / np.where(sd > 0, sd, 1.0)).astype(np.float32)
