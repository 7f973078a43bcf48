"""Latents and counterfactuals of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import anndata as ad
import numpy as np
import pandas as pd
import torch
from mudata import MuData
from scvi import settings
from scvi.model.base import BaseModelClass

from scgraphvci._compat import forget_manager
from scgraphvci._constants import KEYS, SLOTS
from scgraphvci.data import TreatmentTable
from scgraphvci.data._read import modality
from scgraphvci.model._checks import check_outcome
from scgraphvci.module._likelihood import is_count

if TYPE_CHECKING:
    from anndata import AnnData
    from torch import Tensor

    from scgraphvci.data._treatments import Dose

_Base: Any = BaseModelClass if TYPE_CHECKING else object

Source = Literal["control", "all"] | str
Library = Literal["standard", "observed"]


class EncodedBatch(NamedTuple):
    """Cells of one batch, encoded.

    Attributes
    ----------
    cells
        Indices of the cells.
    batch
        What the module made of the minibatch.
    qz
        Their posterior.
    genes
        Gene embeddings, or None without a network.
    """

    cells: np.ndarray
    batch: dict[str, Any]
    qz: torch.distributions.Normal
    genes: Tensor | None


class PredictionMixin(_Base):
    """Counterfactual predictions; needs `module` to be a GraphVCIModule and `treatments` to be a TreatmentTable."""

    _reordered: AnnData | MuData | None = None

    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Return the latent features of cells.

        Parameters
        ----------
        adata
            Data like those of the set-up; the latter if None.
        indices
            Cells; all if None.
        give_mean
            Return the mean of the posterior rather than a draw.
        batch_size
            Cells per batch.

        Returns
        -------
        Shape ``(n_cells, n_latent)``; store it in ``adata.obsm["X_scgraphvci"]``.
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        parts = [
            (encoded.qz.mean if give_mean else encoded.qz.sample()).cpu().numpy()
            for encoded in self._encoded(adata, self._cells(adata, indices), batch_size)
        ]
        return np.concatenate(parts)

    def predict(
        self,
        treatment: str,
        source: Source | None = None,
        indices: Sequence[int] | None = None,
        dose: Dose = None,
        adata: AnnData | MuData | None = None,
        library: Library = "standard",
        batch_size: int | None = None,
    ) -> AnnData:
        """Predict what cells would express on average had they received a treatment.

        Parameters
        ----------
        treatment
            A treatment of the screen, a combination of its perturbations, or the control.
        source
            Which cells to start from: "control" (the default; the registered control, whatever its name), "all", or a
            treatment. Each cell keeps its own covariates.
        indices
            Exactly these cells instead, in this order, whatever they received.
        dose
            Dose of the treatment, for combinations one per member as in "1+0.5"; the treatment's most frequent
            training dose if None.
        adata
            Data to take the cells from: genes are matched by name. The set-up's if None.
        library
            For counts: "standard" gives expected counts at the median training library, "observed" at each cell's own.
        batch_size
            Cells per batch.

        Returns
        -------
        AnnData of the source cells with predictions in `X`, their `obs` with `counterfactual_treatment`,
        `counterfactual_dose` where there is one, and `source_cell`, and `var` of the data.

        Raises
        ------
        ValueError
            If the treatment or its dose is unknown, both `source` and `indices` are given, or there are no such cells.

        Notes
        -----
        No cell but the source cells is read.
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        cells = self._source_cells(adata, source, indices)
        vector = self._vector(treatment, dose)
        predicted = np.empty((cells.size, self.summary_stats["n_vars"]), dtype=np.float32)
        position = 0
        for encoded in self._encoded(adata, cells, batch_size):
            block = self._counterfactual_mean(encoded, vector, library)
            predicted[position : position + len(block)] = block
            position += len(block)
        return self._to_adata(adata, cells, predicted, treatment, dose)

    def sample(
        self,
        treatment: str,
        n_samples: int = 1,
        source: Source | None = None,
        indices: Sequence[int] | None = None,
        dose: Dose = None,
        adata: AnnData | MuData | None = None,
        library: Library = "standard",
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> AnnData:
        """Draw from the distribution of counterfactual outcomes: latent and outcome are both drawn.

        Parameters
        ----------
        treatment, source, indices, dose, adata, library, batch_size
            As in :meth:`predict`.
        n_samples
            Draws per cell.
        seed
            Seed of the draws; ``scvi.settings.seed`` (0 if unset) if None.

        Returns
        -------
        AnnData like that of :meth:`predict` with `n_samples` rows per cell, draw by draw, numbered in `obs["sample"]`.
        """
        if n_samples < 1:
            msg = f"`n_samples` must be at least 1, not {n_samples}."
            raise ValueError(msg)
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        cells = self._source_cells(adata, source, indices)
        vector = self._vector(treatment, dose)
        draws = np.empty((n_samples, cells.size, self.summary_stats["n_vars"]), dtype=np.float32)
        position = 0
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed((settings.seed or 0) if seed is None else seed)
            for encoded in self._encoded(adata, cells, batch_size):
                n = len(encoded.cells)
                target = self._expand(vector, n)
                relative = _relative_library(encoded, library)
                for draw in draws:
                    parameters = self.module.decode(encoded.qz.sample(), target, encoded.batch["levels"], encoded.genes)
                    outcome = self.module.outcome_distribution(parameters, relative).sample()
                    draw[position : position + n] = outcome.cpu().numpy()
                position += n
        result = self._to_adata(adata, np.tile(cells, n_samples), draws.reshape(-1, draws.shape[-1]), treatment, dose)
        result.obs["sample"] = np.repeat(np.arange(n_samples), cells.size)
        if n_samples > 1:
            result.obs_names = [f"{name}-{k}" for name, k in zip(result.obs_names, result.obs["sample"], strict=True)]
        return result

    def add_counterfactuals(
        self,
        treatments: str | Sequence[str],
        indices: Sequence[int] | None = None,
        dose: Dose = None,
        adata: AnnData | MuData | None = None,
        library: Library = "standard",
        batch_size: int | None = None,
    ) -> None:
        """Write counterfactual expression of cells to layers, so that scanpy can plot it.

        Parameters
        ----------
        treatments
            One treatment or several.
        indices
            Cells to predict; all if None. The others get NaN.
        dose, adata, library, batch_size
            As in :meth:`predict`; `adata` must hold the model's genes in the model's order.

        Raises
        ------
        ValueError
            If a treatment is unknown, two of them would share a layer, or the data hold other genes.

        Notes
        -----
        Writes ``layers["counterfactual_<treatment>"]``, with ``@<dose>`` where a dose is given, shape
        ``(n_cells, n_genes)``, float32; and ``uns["counterfactuals"]``, which maps each layer to its treatment and
        dose. A '/' in a name, which no AnnData file can hold in a key, becomes '|'.
        """
        self._check_if_trained(warn=False)
        if adata is not None and self._genes(adata) != self._model_genes():
            msg = (
                "`add_counterfactuals` writes to the data it is given: they must hold the model's genes in its order. "
                "Use `predict(adata=...)`, or pass `adata[:, model.get_var_names()].copy()`."
            )
            raise ValueError(msg)
        data = self._validate_anndata(adata)
        names = [treatments] if isinstance(treatments, str) else list(treatments)
        vectors = {name: self._vector(name, dose) for name in names}
        table = self._table(data)
        known = dict(table.uns.get("counterfactuals", {}))
        entries = _layer_entries(names, dose, known)

        cells = self._cells(data, indices)
        layers = {key: np.full(table.shape, np.nan, dtype=np.float32) for key in entries}
        for encoded in self._encoded(data, cells, batch_size):
            for key, entry in entries.items():
                vector = vectors[entry["treatment"]]
                layers[key][encoded.cells] = self._counterfactual_mean(encoded, vector, library)
        for key, layer in layers.items():
            table.layers[key] = layer
        table.uns["counterfactuals"] = {**known, **entries}

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
            yield EncodedBatch(wanted, batch, qz, genes)

    @torch.inference_mode()
    def _counterfactual_mean(
        self, encoded: EncodedBatch, vector: np.ndarray, library: Library = "standard"
    ) -> np.ndarray:
        """Counterfactual means at the posterior mean of the latent, shape ``(n_cells, n_genes)``."""
        latent = encoded.qz.mean
        target = self._expand(vector, latent.shape[0])
        mean = self.module.mean(self.module.decode(latent, target, encoded.batch["levels"], encoded.genes))
        return (mean * _relative_library(encoded, library)).cpu().numpy()

    def _individuality(self, cells: np.ndarray) -> float:
        """Variance of reconstructions within strata and treatments, relative to that of the data."""
        predicted, observed, pair = [], [], []
        for encoded in self._encoded(self.adata, cells, None):
            with torch.inference_mode():
                parameters = self.module.decode(
                    encoded.qz.mean, encoded.batch["treatment"], encoded.batch["levels"], encoded.genes
                )
                predicted.append(self.module.mean(parameters).cpu().numpy())
            observed.append(encoded.batch["outcome"].cpu().numpy())
        manager = self.adata_manager
        for key in (KEYS.STRATUM, KEYS.TREATMENT):
            pair.append(np.asarray(manager.get_from_registry(key)).ravel()[cells])
        groups = pd.factorize(pd.MultiIndex.from_arrays(pair))[0]
        return _within_variance(np.concatenate(predicted), groups) / max(
            _within_variance(np.concatenate(observed), groups), 1e-12
        )

    def _vector(self, treatment: str, dose: Dose) -> np.ndarray:
        return self.treatments.vector(str(treatment), dose)

    def _expand(self, vector: np.ndarray, n: int) -> Tensor:
        return torch.as_tensor(vector, device=self.module.device).expand(n, -1)

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
        """Check data as scvi-tools does, after bringing genes to the model's order."""
        if adata is not None:
            adata = self._in_model_order(adata)
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

    def _cells(self, adata: AnnData | MuData, indices: Sequence[int] | None) -> np.ndarray:
        if indices is None:
            return np.arange(adata.n_obs)
        cells = np.asarray(indices)
        if cells.dtype == bool and cells.shape == (adata.n_obs,):
            cells = np.flatnonzero(cells)
        if cells.size == 0 or cells.ndim != 1:
            msg = f"`indices` must name at least one cell; got an array of shape {cells.shape}."
            raise ValueError(msg)
        if not np.issubdtype(cells.dtype, np.integer):
            msg = f"`indices` must be whole numbers or one boolean for each of {adata.n_obs} cells, not {cells.dtype}."
            raise TypeError(msg)
        if cells.min() < 0 or cells.max() >= adata.n_obs:
            msg = f"`indices` run from {cells.min()} to {cells.max()}, but there are {adata.n_obs} cells."
            raise ValueError(msg)
        return cells.astype(np.int64)

    def _source_cells(
        self, adata: AnnData | MuData, source: Source | None, indices: Sequence[int] | None
    ) -> np.ndarray:
        """Resolve `source` or `indices` to cells."""
        if indices is not None:
            if source is not None:
                msg = f"Give either `source` ({source!r}) or `indices`, not both."
                raise ValueError(msg)
            return self._cells(adata, indices)
        if source == "all":
            return np.arange(adata.n_obs)
        manager = self.get_anndata_manager(adata, required=True)
        table = TreatmentTable.from_state(manager.get_state_registry(KEYS.TREATMENT))
        wanted = table.control if source in (None, "control") else str(source)
        members = table.members(wanted)
        rows = [k for k, name in enumerate(table.names) if set(table.members(name)) == set(members)]
        if not members:
            rows = [0]
        codes = np.asarray(manager.get_from_registry(KEYS.TREATMENT)).ravel()
        cells = np.flatnonzero(np.isin(codes, rows))
        if cells.size == 0:
            msg = f"No cell received the source treatment {wanted!r}. Treatments here: {sorted(set(table.names))[:20]}."
            raise ValueError(msg)
        return cells

    def _to_adata(
        self, adata: AnnData | MuData, cells: np.ndarray, values: np.ndarray, treatment: str, dose: Dose
    ) -> AnnData:
        """Predictions as an AnnData that chains with scanpy."""
        table = self._table(adata)
        obs = table.obs.iloc[cells].drop(columns=[f"_{KEYS.TREATMENT}", f"_{KEYS.STRATUM}"], errors="ignore").copy()
        obs["source_cell"] = obs.index.to_numpy()
        obs[SLOTS.COUNTERFACTUAL_TREATMENT] = pd.Categorical([treatment] * len(obs))
        if self.treatments.max_dose is not None:
            used = self.treatments.usual_dose(treatment) if dose is None else dose
            obs["counterfactual_dose"] = str(used)
        if not obs.index.is_unique:
            obs.index = pd.Index([f"{name}-{k}" for k, name in enumerate(obs.index)])
        scale = "counts" if is_count(self.module.likelihood) else "outcome"
        return ad.AnnData(values, obs=obs, var=table.var.copy(), uns={"scgraphvci": {"scale": scale}})


def _relative_library(encoded: EncodedBatch, library: Library) -> Tensor | float:
    """Library size of the cells relative to the standard one, shape ``(n_cells, 1)``; 1 for the standard library."""
    if library not in get_args(Library):
        msg = f"Unknown library {library!r}. Choose one of {list(get_args(Library))}."
        raise ValueError(msg)
    return encoded.batch["library"] if library == "observed" else 1.0


def _layer_entries(names: list[str], dose: Dose, known: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Layer names of treatments, and what each holds.

    Raises
    ------
    ValueError
        If two treatments, new or stored before, would share a layer.
    """
    entries: dict[str, dict[str, str]] = {}
    for name in names:
        text = name if dose is None else f"{name}@{dose}"
        key = SLOTS.COUNTERFACTUAL + text.replace("/", "|")
        entry = {"treatment": name, "dose": "" if dose is None else str(dose)}
        other = entries.get(key) or known.get(key)
        if other is not None and dict(other) != entry:
            msg = f"Treatments {other['treatment']!r} and {name!r} would share layer {key!r}. Rename one of them."
            raise ValueError(msg)
        entries[key] = entry
    return entries


def _within_variance(values: np.ndarray, groups: np.ndarray) -> float:
    """Mean over genes of the variance within groups."""
    total = 0.0
    for group in np.unique(groups):
        member = values[groups == group]
        total += float(((member - member.mean(axis=0)) ** 2).sum())
    return total / values.size
