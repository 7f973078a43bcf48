"""Latents and counterfactuals of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from scvi import settings

from scgraphvci._constants import KEYS, SLOTS
from scgraphvci.data import TreatmentTable
from scgraphvci.data._sources import as_counterfactual, checked_cells, source_cells
from scgraphvci.data._store import checked_store, new_layers, new_store, open_store, write_rows, write_uns
from scgraphvci.model._encode import EncodedBatch, EncodingMixin
from scgraphvci.model._unseen import Target, UnseenMixin
from scgraphvci.module._likelihood import is_count

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from torch import Tensor

    from scgraphvci.data._treatments import Dose

Source = Literal["control", "all"] | str
Library = Literal["standard", "observed"]


class PredictionMixin(UnseenMixin, EncodingMixin):
    """Counterfactual predictions; needs `module` to be a GraphVCIModule and `treatments` to be a TreatmentTable."""

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
            for encoded in self._encoded(adata, checked_cells(indices, adata.n_obs), batch_size)
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
        store: str | Path | None = None,
    ) -> AnnData:
        """Predict what cells would express on average had they received a treatment.

        Parameters
        ----------
        treatment
            A treatment of the screen, a combination of its perturbations, or the control. Perturbations that no
            training cell received must be named after a gene or described at setup; see :meth:`unseen_effect`.
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
        store
            Path of an .h5ad or .zarr to make: predictions are written to it batch by batch and stay there.

        Returns
        -------
        AnnData of the source cells with predictions in `X`, their `obs` with `counterfactual_treatment`,
        `counterfactual_dose` where there is one, and `source_cell`, and `var` of the data. With `store`, `X` is on
        disk: the AnnData is backed by the .h5ad file, or holds the array of the .zarr.

        Raises
        ------
        ValueError
            If the treatment or its dose is unknown, both `source` and `indices` are given, there are no such cells, or
            `store` ends neither in .h5ad nor in .zarr.
        FileExistsError
            If there is something at `store`.

        Notes
        -----
        No cell but the source cells is read.
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        path = None if store is None else checked_store(store)
        cells = self._source(adata, source, indices)
        target = self._vector(treatment, dose)

        def fill(predicted: Any) -> None:
            position = 0
            for encoded in self._encoded(adata, cells, batch_size):
                block = self._counterfactual_mean(encoded, target, library)
                predicted[position : position + len(block)] = block
                position += len(block)

        if path is not None:
            with new_store(path, self._to_adata(adata, cells, None, treatment, dose)) as predicted:
                fill(predicted)
            return open_store(path)
        predicted = np.empty((cells.size, self.summary_stats["n_vars"]), dtype=np.float32)
        fill(predicted)
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
            Seed of the draws, the same for the same `batch_size`; ``scvi.settings.seed`` (0 if unset) if None.

        Returns
        -------
        AnnData like that of :meth:`predict` with `n_samples` rows per cell, draw by draw, numbered in `obs["sample"]`.
        """
        if n_samples < 1:
            msg = f"`n_samples` must be at least 1, not {n_samples}."
            raise ValueError(msg)
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        cells = self._source(adata, source, indices)
        target = self._vector(treatment, dose)
        draws = np.empty((n_samples, cells.size, self.summary_stats["n_vars"]), dtype=np.float32)
        position = 0
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed((settings.seed or 0) if seed is None else seed)
            for encoded in self._encoded(adata, cells, batch_size):
                n = len(encoded.cells)
                relative = _relative_library(encoded, library)
                for draw in draws:
                    parameters = self._decode(encoded.qz.sample(), encoded, target)
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

        Writes ``layers["counterfactual_<treatment>"]``, with ``@<dose>`` where a dose is given, shape
        ``(n_cells, n_genes)``, float32; and ``uns["counterfactuals"]``, which maps each layer to its treatment and
        dose. A ``/`` in a name, which no AnnData file can hold in a key, becomes ``|``.

        Of data backed by a file that was opened with ``backed="r+"`` the layers are written to the file, batch by
        batch, and `layers` holds them without reading them; `uns` is written to the file too.

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
            If a treatment is unknown, two of them would share a layer, the data hold other genes, or they are backed
            by a file that was opened for reading only.
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
        targets = {name: self._vector(name, dose) for name in names}
        table = self._table(data)
        known = dict(table.uns.get("counterfactuals", {}))
        entries = _layer_entries(names, dose, known)

        cells = np.unique(checked_cells(indices, data.n_obs))

        def fill(layers: dict[str, Any]) -> None:
            for encoded in self._encoded(data, cells, batch_size):
                for key, entry in entries.items():
                    target = targets[entry["treatment"]]
                    write_rows(layers[key], encoded.cells, self._counterfactual_mean(encoded, target, library))

        if table.isbacked:
            with new_layers(table, list(entries)) as layers:
                fill(layers)
            write_uns(table, "counterfactuals", {**known, **entries})
            return
        layers = {key: np.full(table.shape, np.nan, dtype=np.float32) for key in entries}
        fill(layers)
        for key, layer in layers.items():
            table.layers[key] = layer
        table.uns["counterfactuals"] = {**known, **entries}

    @torch.inference_mode()
    def _counterfactual_mean(self, encoded: EncodedBatch, target: Target, library: Library = "standard") -> np.ndarray:
        """Counterfactual means at the posterior mean of the latent, shape ``(n_cells, n_genes)``."""
        mean = self.module.mean(self._decode(encoded.qz.mean, encoded, target))
        return (mean * _relative_library(encoded, library)).cpu().numpy()

    def _decode(self, latent: Tensor, encoded: EncodedBatch, target: Target) -> list[Tensor]:
        """Parameters of the counterfactual outcome."""
        levels = encoded.batch["levels"]
        arguments = (latent, self._expand(target, len(latent)), levels, encoded.genes)
        response = self._unseen_response(target, levels)
        return self.module.decode(*arguments) if response is None else self.module.decode(*arguments, response)

    def _individuality(self, cells: np.ndarray) -> float:
        """Variance of reconstructions within strata and treatments, relative to the data's; NaN if they have none."""
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
        total = _within_variance(np.concatenate(observed), groups)
        return _within_variance(np.concatenate(predicted), groups) / total if total > 0 else float("nan")

    def _expand(self, target: Target, n: int) -> Tensor:
        return torch.as_tensor(target.vector, device=self.module.device).expand(n, -1)

    def _source(self, adata: AnnData | MuData, source: Source | None, indices: Sequence[int] | None) -> np.ndarray:
        """Resolve `source` or `indices` to cells."""
        manager = self.get_anndata_manager(adata, required=True)
        table = TreatmentTable.from_state(manager.get_state_registry(KEYS.TREATMENT))
        return source_cells(table, np.asarray(manager.get_from_registry(KEYS.TREATMENT)).ravel(), source, indices)

    def _to_adata(
        self, adata: AnnData | MuData, cells: np.ndarray, values: np.ndarray | None, treatment: str, dose: Dose
    ) -> AnnData:
        """Predictions as an AnnData that chains with scanpy."""
        used = None
        if self.treatments.max_dose is not None:
            used = str((self._usual_dose(treatment) or "") if dose is None else dose)
        scale = "counts" if is_count(self.module.likelihood) else "outcome"
        return as_counterfactual(self._table(adata), cells, values, treatment, used, scale)


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
