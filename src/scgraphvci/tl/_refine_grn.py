"""Refining a network in one call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from mudata import MuData
from scipy import sparse

from scgraphvci._constants import SPLITS
from scgraphvci._parallel import call_each
from scgraphvci.data._read import modality as modality_of
from scgraphvci.model._refiner import GRNRefiner

RESTART_SPLIT = "_scgraphvci_restart"


def refine_grn(
    adata: ad.AnnData | MuData,
    grn_key: str = "grn",
    key_added: str = "grn_refined",
    *,
    modality: str = "rna",
    layer: str | None = None,
    split_key: str | None = None,
    categorical_covariate_keys: list[str] | None = None,
    gene_features_key: str | None = None,
    perturbation_key: str | None = None,
    control: str = "control",
    max_epochs: int | None = None,
    threshold: float = 0.3,
    n_restarts: int = 1,
    seed: int = 0,
    copy: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    **train_kwargs: Any,
) -> ad.AnnData | MuData | None:
    """Refine a gene regulatory network with the expression of training cells.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised expression and a prior network, or a MuData with them in one modality.
    grn_key
        Prior network in `adata.varp`.
    key_added
        Key to write under.
    modality
        Name of the modality of a MuData with expression. All keys are read from it and all results written to it.
        Columns that only ``mdata.obs`` holds are copied to it with ``mdata.push_obs()``.
    layer
        Layer with expression; None for `adata.X`.
    split_key
        Column with the values "train", "test" and "ood": only "train" cells are learned from. None: 4 : 1 at random.
    categorical_covariate_keys
        Columns whose joint levels are the strata; strata means are removed. Leave the treatment out.
    gene_features_key
        Features in `adata.varm`; components of co-expression in training cells if None.
    perturbation_key
        Column with treatments. Those named by a gene of `adata` are taken for interventions on it: which genes shift
        where a regulator is perturbed is evidence for its edges. Other names, combinations among them, are not used.
    control
        The value of `perturbation_key` for cells without a treatment.
    max_epochs
        Passes over the training cells; enough for 500 steps if None, or 2,000 without evidence.
    threshold
        Confidence above which an edge is in the refined network.
    n_restarts
        Beside the refinement with all training cells, which alone gives the network and its weights, refine this many
        times with a random half of them and another seed, and count for every edge in what share of these its
        confidence is above the threshold: its support. 1, the default, makes no such restart. Within
        ``joblib.parallel_config`` with processes they run in parallel. See Notes.
    seed
        Of initial weights, batches, sampled edges, and the halves of restarts. torch's own generator is left as it was.
        The random split of cells, made where there is no `split_key`, follows ``scvi.settings.seed``.
    copy
        Write to a copy and return it.
    model_kwargs
        Passed to :class:`scgraphvci.GRNRefiner`, such as `preset`, `candidates`, `evidence_weight`.
    **train_kwargs
        Passed to :meth:`scgraphvci.GRNRefiner.train`.

    Returns
    -------
    None, or the copy. Writes

    * `varp[key_added]`: CSR float32, shape ``(n_genes, n_genes)``, **row = regulator, column = target**; values are
      confidences, all above the threshold
    * ``varp[f"{key_added}_sign"]``: CSR float32, 1 or -1 for every edge of either network: whether regulator and target
      go together in the training cells, given all other regulators
    * ``varp[f"{key_added}_support"]``, with restarts: CSR float32 in the same orientation, the support of every edge
      that any restart found, whether or not the network has it; an older one is removed where there are no restarts
    * `uns[key_added]`: dict with `params` (every argument that matters, `grn_key` among them) and `n_edges`
      (numbers of edges kept, added and dropped)

    Raises
    ------
    KeyError
        If a modality, column, layer or network is missing.
    ValueError
        If values are missing or not finite, the network has no edges, the control has no cells, no edge passes the
        threshold, or `n_restarts` is below 1. Then nothing is written.

    Notes
    -----
    Support is the selection frequency of stability selection (Meinshausen and Buehlmann, J. R. Stat. Soc. B 72:417,
    2010), which takes half the cells without replacement. Logits start at evidence, which the cells determine: restarts
    that changed the seed only would agree on nearly all edges. Half the cells carry less evidence, so support is
    cautious: an edge a little above the threshold has a support of about one half. It says how far chance among cells
    decides over an edge, and no more: false edges that rest on a common cause are found again in every half, and on
    simulated screens support told true from false edges no better than confidence did. Cells are drawn one by one, so
    it does not tell what another donor would have shown either. :func:`scgraphvci.grn.get_grn`, `to_frame` and
    `to_networkx` return it with the edges; select edges by it before `to_decoupler` or `to_celloracle`.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> sgv.tl.refine_grn(adata, split_key="split", max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> adata.varp["grn_refined"].shape
    (60, 60)
    """
    if n_restarts < 1:
        msg = f"n_restarts={n_restarts} must be at least 1, which makes none; 20 or more give a support worth reading."
        raise ValueError(msg)
    table = _table(adata, modality)
    work = _light_copy(table, layer, grn_key, gene_features_key)
    setup = {
        "grn_key": grn_key,
        "split_key": split_key,
        "categorical_covariate_keys": categorical_covariate_keys,
        "gene_features_key": gene_features_key,
        "perturbation_key": perturbation_key,
        "control": control,
    }
    task = _Task(work, threshold, setup, model_kwargs or {}, {"max_epochs": max_epochs, **train_kwargs})
    fit = task.refine(seed)
    if fit.found.empty:
        msg = (
            f"No edge has a confidence above threshold={threshold} (largest {fit.edges['weight'].max():.3f}). Lower "
            "`threshold`."
        )
        raise ValueError(msg)
    support = task.support(fit, n_restarts, seed) if n_restarts > 1 else None

    adata = adata.copy() if copy else adata
    table = _table(adata, modality)
    table.varp[key_added] = _matrix(fit.found, fit.found["weight"], table.var_names)
    table.varp[f"{key_added}_sign"] = _matrix(fit.edges, fit.edges["sign"], table.var_names)
    if support is not None:
        table.varp[f"{key_added}_support"] = support
    elif f"{key_added}_support" in table.varp:  # of an earlier network
        del table.varp[f"{key_added}_support"]
    params = {
        "grn_key": grn_key,
        "layer": layer,
        "split_key": split_key,
        "categorical_covariate_keys": list(categorical_covariate_keys or []),
        "gene_features_key": gene_features_key,
        "perturbation_key": perturbation_key,
        "control": None if perturbation_key is None else control,
        "max_epochs": fit.n_epochs,
        "threshold": threshold,
        "n_restarts": n_restarts if n_restarts > 1 else None,
        "seed": seed,
        "orientation": "row = regulator, column = target",
        **{name: _described(value) for name, value in (model_kwargs or {}).items()},
    }
    table.uns[key_added] = {
        "params": {name: value for name, value in params.items() if value is not None},
        "n_edges": {status: int((fit.edges["status"] == status).sum()) for status in ("kept", "added", "dropped")},
    }
    return adata if copy else None


@dataclass(frozen=True)
class _Fit:
    """What is left of one refinement: its edges, the cells it used and its number of epochs."""

    edges: pd.DataFrame
    train_cells: np.ndarray
    validation_cells: np.ndarray
    n_epochs: int

    @property
    def found(self) -> pd.DataFrame:
        """Edges above the threshold."""
        return self.edges[self.edges["status"] != "dropped"]


@dataclass(frozen=True)
class _Task:
    """What refinements of one network share."""

    work: ad.AnnData
    threshold: float
    setup: dict[str, Any]
    model_kwargs: dict[str, Any]
    train_kwargs: dict[str, Any]

    def refine(self, seed: int) -> _Fit:
        """Refine once; the model and its registration are gone afterwards."""
        GRNRefiner.setup_anndata(self.work, **self.setup)
        plan_kwargs = {"seed": seed, "threshold": self.threshold, **self.train_kwargs.get("plan_kwargs", {})}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = GRNRefiner(self.work, **self.model_kwargs)
            model.train(**{**self.train_kwargs, "plan_kwargs": plan_kwargs})
        edges = model.get_refined_grn(self.threshold)
        model.deregister_manager(self.work)
        cells = np.asarray(model.train_indices), np.asarray(model.validation_indices)
        return _Fit(edges, *cells, n_epochs=len(model.history["train_loss"]))

    def support(self, fit: _Fit, n_restarts: int, seed: int) -> sparse.csr_matrix:
        """Share of the refinements with random halves of the training cells that find an edge, source x target."""
        rng = np.random.default_rng(seed)
        left_out = np.full(self.work.n_obs, SPLITS.OOD, dtype=object)
        left_out[fit.validation_cells] = SPLITS.TEST

        def halves() -> Iterator[tuple[Any, ...]]:
            for _ in range(n_restarts):
                half = rng.choice(fit.train_cells, (len(fit.train_cells) + 1) // 2, replace=False)
                yield self._restart(), left_out, half, int(rng.integers(2**31))

        total = sparse.csr_matrix((self.work.n_vars, self.work.n_vars), dtype=np.float32)
        for found in call_each(_found_in, halves()):
            total = total + _matrix(found, np.ones(len(found)), self.work.var_names)
        total.data /= n_restarts
        return total

    def _restart(self) -> _Task:
        """The same with the split of a restart in place of any other."""
        train_kwargs = {k: v for k, v in self.train_kwargs.items() if k not in ("train_size", "validation_size")}
        plan_kwargs = {k: v for k, v in train_kwargs.get("plan_kwargs", {}).items() if k != "seed"}
        return replace(
            self,
            setup={**self.setup, "split_key": RESTART_SPLIT},
            train_kwargs={**train_kwargs, "plan_kwargs": plan_kwargs},
        )


def _found_in(task: _Task, left_out: np.ndarray, half: np.ndarray, seed: int) -> pd.DataFrame:
    """Return the edges that a refinement with some of the cells finds."""
    split = left_out.copy()
    split[half] = SPLITS.TRAIN
    task.work.obs[RESTART_SPLIT] = split
    return task.refine(seed).found


def _matrix(edges: pd.DataFrame, values: Any, genes: pd.Index) -> sparse.csr_matrix:
    """Return values of edges as a matrix, source x target."""
    genes = genes.astype(str)
    index = tuple(genes.get_indexer(pd.Index(edges[name])) for name in ("source", "target"))
    return sparse.csr_matrix((np.asarray(values, dtype=np.float32), index), shape=(len(genes), len(genes)))


def _described(value: Any) -> str:
    """Text of an argument for `uns`, of a frame its size."""
    return f"{len(value)} pairs" if isinstance(value, pd.DataFrame) else str(value)


def _table(adata: ad.AnnData | MuData, modality: str) -> ad.AnnData:
    """Return the AnnData that holds expression."""
    return modality_of(adata, modality if isinstance(adata, MuData) else None)


def _light_copy(
    adata: ad.AnnData,
    layer: str | None,
    grn_key: str,
    gene_features_key: str | None,
) -> ad.AnnData:
    """Return an AnnData that shares the matrices needed, so that set-up leaves no trace in the user's object."""
    if layer is not None and layer not in adata.layers:
        msg = f"Layer {layer!r} not found. Layers: {list(adata.layers)}; `layer=None` uses X."
        raise KeyError(msg)
    work = ad.AnnData(
        X=adata.X if layer is None else adata.layers[layer],
        obs=adata.obs.copy(),
        var=adata.var[[]].copy(),
    )
    if grn_key in adata.varp:
        work.varp[grn_key] = adata.varp[grn_key]
    if gene_features_key in adata.varm:
        work.varm[gene_features_key] = np.asarray(adata.varm[gene_features_key])
    return work
