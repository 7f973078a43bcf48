"""Refining a network in one call."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import torch
from mudata import MuData
from scipy import sparse

from scgraphvci.data._read import modality as modality_of
from scgraphvci.model._refiner import GRNRefiner


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
    threshold: float = 0.2,
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
    seed
        Of initial weights, batches and sampled edges. torch's own generator is left as it was. The random split of
        cells, made where there is no `split_key`, follows ``scvi.settings.seed``.
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
    * `uns[key_added]`: dict with `params` (every argument that matters, `grn_key` among them) and `n_edges`
      (numbers of edges kept, added and dropped)

    Raises
    ------
    KeyError
        If a modality, column, layer or network is missing.
    ValueError
        If values are missing or not finite, the network has no edges, the control has no cells, or no edge passes the
        threshold. Then nothing is written.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> sgv.tl.refine_grn(adata, split_key="split", max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> adata.varp["grn_refined"].shape
    (60, 60)
    """
    table = _table(adata, modality)
    work = _light_copy(table, layer, grn_key, gene_features_key)
    GRNRefiner.setup_anndata(
        work,
        grn_key=grn_key,
        split_key=split_key,
        categorical_covariate_keys=categorical_covariate_keys,
        gene_features_key=gene_features_key,
        perturbation_key=perturbation_key,
        control=control,
    )
    plan_kwargs = {"seed": seed, "threshold": threshold, **train_kwargs.pop("plan_kwargs", {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GRNRefiner(work, **(model_kwargs or {}))
        model.train(max_epochs=max_epochs, plan_kwargs=plan_kwargs, **train_kwargs)
    refined = model.get_refined_grn(threshold)
    model.deregister_manager(work)

    above = refined[refined["status"] != "dropped"]
    if above.empty:
        msg = (
            f"No edge has a confidence above threshold={threshold} (largest {refined['weight'].max():.3f}). Lower "
            "`threshold`."
        )
        raise ValueError(msg)
    adata = adata.copy() if copy else adata
    table = _table(adata, modality)
    genes = table.var_names.astype(str)
    index = genes.get_indexer(above["source"]), genes.get_indexer(above["target"])
    shape = (table.n_vars, table.n_vars)
    table.varp[key_added] = sparse.csr_matrix((above["weight"].to_numpy(dtype=np.float32), index), shape=shape)
    params = {
        "grn_key": grn_key,
        "layer": layer,
        "split_key": split_key,
        "categorical_covariate_keys": list(categorical_covariate_keys or []),
        "gene_features_key": gene_features_key,
        "perturbation_key": perturbation_key,
        "control": None if perturbation_key is None else control,
        "max_epochs": len(model.history["train_loss"]),
        "threshold": threshold,
        "seed": seed,
        "orientation": "row = regulator, column = target",
        **{name: str(value) for name, value in (model_kwargs or {}).items()},
    }
    table.uns[key_added] = {
        "params": {name: value for name, value in params.items() if value is not None},
        "n_edges": {status: int((refined["status"] == status).sum()) for status in ("kept", "added", "dropped")},
    }
    return adata if copy else None


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
