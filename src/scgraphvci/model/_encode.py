"""Cells into latents, batch by batch, and data into the shape the model was set up with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import torch
from mudata import MuData
from scvi import settings
from scvi.model.base import BaseModelClass

from scgraphvci._compat import forget_manager
from scgraphvci._constants import KEYS
from scgraphvci.data._read import modality
from scgraphvci.model._checks import check_outcome

if TYPE_CHECKING:
    from anndata import AnnData
    from torch import Tensor

_Base: Any = BaseModelClass if TYPE_CHECKING else object


class EncodedBatch(NamedTuple):
    """Cells of one batch, encoded.

    Attributes
    ----------
    cells
        Indices of the cells.
    position
        Where they stand among the cells asked for.
    batch
        What the module made of the minibatch.
    qz
        Their posterior.
    genes
        Gene embeddings, or None without a network.
    """

    cells: np.ndarray
    position: slice
    batch: dict[str, Any]
    qz: torch.distributions.Normal
    genes: Tensor | None


class EncodingMixin(_Base):
    """Encodes cells of the registered or of new data; needs `module` to be a GraphVCIModule."""

    _reordered: AnnData | MuData | None = None

    @torch.inference_mode()
    def _encoded(self, adata: AnnData | MuData, cells: np.ndarray, batch_size: int | None) -> Iterator[EncodedBatch]:
        """Encode cells batch by batch; the graph is encoded once."""
        manager = self.get_anndata_manager(adata, required=True)
        design = torch.as_tensor(np.asarray(manager.get_state_registry(KEYS.TREATMENT)["design"], dtype=np.float32))
        strata = torch.as_tensor(np.asarray(manager.get_state_registry(KEYS.STRATUM)["strata"]))
        module, device = self.module, self.module.device
        module.eval()
        design, strata = design.to(device), strata.to(device)
        genes = module.embed_genes()
        dataset = manager.create_torch_dataset()
        size = batch_size or max(settings.batch_size, 512)
        for start in range(0, cells.size, size):
            wanted = cells[start : start + size]
            # Sorted and without repeats, as files demand; scvi-tools' loader returns cells of a file in another order.
            stored, row = np.unique(wanted, return_inverse=True)
            tensors = {key: torch.as_tensor(value[row]).to(device) for key, value in dataset[stored].items()}
            batch = module.unpack(tensors, design, strata)
            qz = module.encode(batch["outcome"], batch["treatment"], batch["levels"], batch["continuous"], genes)
            yield EncodedBatch(wanted, slice(start, start + wanted.size), batch, qz, genes)

    def _table(self, adata: AnnData | MuData) -> AnnData:
        """The AnnData with expression."""
        return modality(adata, self._modality)

    @property
    def _modality(self) -> str | None:
        return self.registry["setup_args"].get("modality")

    def _model_genes(self) -> list[str]:
        return list(self.get_state_registry(KEYS.OUTCOME)["column_names"])

    def _genes(self, adata: AnnData | MuData) -> list[str]:
        return [str(name) for name in self._table(adata).var_names]

    def _validate_anndata(self, adata: AnnData | MuData | None = None, copy_if_view: bool = True) -> AnnData | MuData:
        """Check data as scvi-tools does, after bringing genes to the model's order.

        Data other than the set-up's are registered anew each time: scvi-tools would not notice that obs was edited.
        """
        if adata is None and self.adata is None:
            msg = "The model holds no data. Pass `adata=`, or load the model with data."
            raise ValueError(msg)
        if adata is not None:
            adata = self._in_model_order(adata)
            if adata is not self.adata:
                forget_manager(self, adata)
        validated = super()._validate_anndata(adata, copy_if_view)
        if adata is not None:
            manager = self.get_anndata_manager(validated, required=True)
            check_outcome(manager.get_state_registry(KEYS.OUTCOME), self.module.likelihood)
        return validated

    def _in_model_order(self, adata: AnnData | MuData) -> AnnData | MuData:
        """Return data with the model's genes in its order: the same object where they are so already."""
        expected, found = self._model_genes(), self._genes(adata)
        table = self._table(adata)
        if table.isbacked and table.is_view:  # scvi-tools copies views, which this one does not allow
            table = table.to_memory()
        if found != expected and set(expected) <= set(found) and len(set(found)) == len(found):
            table = table[:, expected]
            table = table.to_memory() if table.isbacked else table.copy()
        if table is self._table(adata):
            return adata  # as it should be, or refused when it is registered
        if not isinstance(adata, ad.AnnData):
            table = MuData({name: table if name == self._modality else mod for name, mod in adata.mod.items()})
        # scvi-tools keeps all data a model has seen; of these copies the latest is enough.
        if self._reordered is not None and self._reordered is not self.adata:
            forget_manager(self, self._reordered)
        self._reordered = table
        return table
