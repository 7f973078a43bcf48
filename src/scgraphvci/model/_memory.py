"""How much memory training, effects and refinement will take, from the shapes of what they allocate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from scgraphvci._constants import KEYS
from scgraphvci.data._coexpression import AXES_VALUES, MAX_CELLS, N_AXES
from scgraphvci.data._read import BLOCK_VALUES, require_column
from scgraphvci.data._refine_statistics import BLOCK_CELLS
from scgraphvci.data._rows import StoredRows
from scgraphvci.estimate._accumulate import N_BLOCKS
from scgraphvci.model._effect_sums import MAX_SUMS_BYTES
from scgraphvci.model._graphvci import GraphVCI
from scgraphvci.model._refiner import PRESETS, GRNRefiner
from scgraphvci.module._decoders import AttentionHead
from scgraphvci.module._likelihood import is_count
from scgraphvci.train._loader import BUFFER_CELLS, BUFFER_VALUES
from scgraphvci.train._splitter import not_held_out, split_indices

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from scvi.data import AnnDataManager

    from scgraphvci.module import GraphVCIModule

F32, F64 = 4, 8
RETAINED = 10_000_000  # what the C library and Lightning hold on to
EFFECT_BATCH = 512


class _Screen(NamedTuple):
    """Sizes of a registered screen.

    `n_pairs` counts pairs of stratum and treatment seen in training; `value` is the bytes of a value in a block of
    rows as it is read, CSR or dense.
    """

    n_cells: int
    n_train: int
    n_genes: int
    n_strata: int
    n_pairs: int
    density: float
    is_sparse: bool
    on_disk: bool
    in_memory: int

    @property
    def block(self) -> int:
        """Values in a block of rows that a pass over the training cells reads."""
        return min(self.n_train * self.n_genes, max(BLOCK_VALUES, self.n_genes))

    @property
    def value(self) -> float:
        """Bytes of a value of a block as it is read."""
        read = (F32 + 4) * self.density if self.is_sparse else F32
        return read * (2 if self.on_disk else 1)  # parts of a file are put together


def estimate_memory(
    adata: AnnData | MuData,
    *,
    batch_size: int | None = None,
    n_treatments: int | None = None,
    cluster_key: str | None = None,
    refiner_kwargs: dict[str, Any] | None = None,
    **model_kwargs: Any,
) -> pd.DataFrame:
    """Estimate the memory that training, effects and refinement will take.

    Parameters
    ----------
    adata
        Data registered with ``GraphVCI.setup_anndata``, ``GRNRefiner.setup_anndata``, their MuData twins, or both.
    batch_size
        Cells per training step; that of the preset if None.
    n_treatments
        Treatments to estimate effects of; all if None.
    cluster_key
        As for :meth:`GraphVCI.marginal_effect`.
    refiner_kwargs
        Arguments of :class:`GRNRefiner`, such as `candidates` and `preset`.
    **model_kwargs
        Arguments of :class:`GraphVCI`, such as `likelihood`, `decoder`, `preset` and `n_hidden`.

    Returns
    -------
    One row for each stage: "expression" (what the data hold in memory already), "training", "effects" and
    "refinement", as far as the data are registered for it. Columns: `bytes` and `GiB`, the peak of the stage on one
    device, beside expression and the libraries (about 0.7 GiB of resident memory), and `most_of_it`, what takes most.

    Raises
    ------
    ValueError
        If the data are registered with neither model.
    KeyError
        If there is no column `cluster_key`.

    Notes
    -----
    Of the data only 512 cells are read, to see how many values of sparse expression are stored. Peaks were within
    30 % of measured ones on screens of 2,000 to 50,000 cells and 500 to 5,000 genes (`benchmarks/memory.py`). Worker
    processes of a data loader, models of cross-fitting, frames of networks with nearly all candidates as edges, and
    predictions, which take 4 bytes for every cell and gene unless they go to a `store`, are not part of it.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn")
    >>> sgv.estimate_memory(adata, batch_size=64).index.tolist()
    ['expression', 'training', 'effects', 'refinement']
    """
    manager = GraphVCI._get_most_recent_anndata_manager(adata)
    for_refining = GRNRefiner._get_most_recent_anndata_manager(adata)
    if manager is None and for_refining is None:
        msg = "The data are not registered. Call `GraphVCI.setup_anndata` or `GRNRefiner.setup_anndata` first."
        raise ValueError(msg)
    screen = _screen(manager or for_refining)
    stages: dict[str, dict[str, float]] = {"expression": {"expression": screen.in_memory}}
    if manager is not None:
        with torch.device("meta"):  # parameters without memory
            model = GraphVCI(adata, **model_kwargs)
        stages["training"] = _training(screen, model.module, batch_size or model._preset.batch_size)
        stages["effects"] = _effects(screen, model, manager, n_treatments, cluster_key)
        model.deregister_manager()
    graph = (for_refining or manager).get_state_registry(KEYS.GRAPH)
    if graph:
        stages["refinement"] = _refinement(screen, for_refining, np.asarray(graph["edge_index"]), refiner_kwargs or {})
    return _table(stages)


def _screen(manager: AnnDataManager) -> _Screen:
    """Read sizes off a registered screen, and the share of stored values off some of its cells."""
    matrix = manager.get_from_registry(KEYS.OUTCOME)
    n_cells, n_genes = matrix.shape
    some = matrix[np.linspace(0, n_cells - 1, min(n_cells, 512)).astype(np.int64)]
    stored = isinstance(matrix, StoredRows)
    held = 0
    if not stored:
        arrays = (matrix.data, matrix.indices, matrix.indptr) if sparse.issparse(matrix) else (matrix,)
        held = sum(int(array.nbytes) for array in arrays)
    train = split_indices(manager)[0]
    stratum = np.asarray(manager.get_from_registry(KEYS.STRATUM)).ravel()[train]
    treated = KEYS.TREATMENT in manager.data_registry
    condition = np.asarray(manager.get_from_registry(KEYS.TREATMENT)).ravel()[train] if treated else 0 * stratum
    return _Screen(
        n_cells=n_cells,
        n_train=len(train),
        n_genes=n_genes,
        n_strata=len(manager.get_state_registry(KEYS.STRATUM)["strata"]),
        n_pairs=len(np.unique(np.stack([stratum, condition]), axis=1).T),
        density=some.nnz / max(1, some.shape[0] * n_genes) if sparse.issparse(some) else 1.0,
        is_sparse=sparse.issparse(some),
        on_disk=stored,
        in_memory=held,
    )


def _training(screen: _Screen, module: GraphVCIModule, batch_size: int) -> dict[str, float]:
    """Bytes of what lives during all of training, and of the largest thing that comes and goes."""
    weights = sum(parameter.numel() for parameter in module.parameters()) * F32
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
    tables = screen.n_pairs * screen.n_genes
    passing = {
        "moments of strata": _moments(screen, module),
        "residuals of cells": _residuals(screen) if module.needs_residuals else 0.0,
        "model of stratum means": 8 * F64 * tables if module.baseline is not None else 0.0,
        # Gradients, Adam's two moments, the weights before the epoch and the best ones; targets of the distribution.
        "training steps": 5 * weights + 3 * F32 * tables + _step(screen, module, batch_size) + _buffers(screen),
    }
    largest = max(passing, key=lambda name: passing[name])
    return {"weights": weights + buffers, "tables": 2 * F32 * tables, largest: passing[largest]}


def _moments(screen: _Screen, module: GraphVCIModule) -> float:
    """A block as it is read, in double precision, squared; counts are scaled and log-transformed, too."""
    value = (F64 + 4) * screen.density if screen.is_sparse else F64
    copies = 3.5 if is_count(module.likelihood) else 2
    return screen.block * (screen.value + copies * value) + 3 * F64 * screen.n_pairs * screen.n_genes


def _residuals(screen: _Screen) -> float:
    """Residuals of some cells in double precision, twice, beside a block of others on its way to them."""
    n_cells = min(screen.n_train, MAX_CELLS)
    shown = min(n_cells * screen.n_genes, max(AXES_VALUES, 4 * N_AXES * screen.n_genes))
    block = min(n_cells * screen.n_genes, screen.block)
    next_block = min(n_cells * screen.n_genes - block, block)
    value = screen.value + F32 + 2 * F64
    on_the_way = max(block * value, next_block * value + block * F64)
    n_axes = min(N_AXES, screen.n_genes)
    return 2 * F64 * shown + on_the_way + n_axes * (3 * F32 * n_cells + 2 * F64 * screen.n_genes)


def _step(screen: _Screen, module: GraphVCIModule, batch_size: int) -> float:
    """Tensors of cells x genes, and of cells x hidden units, that forward and backward passes hold at a time."""
    # A pass is the decoding of one latent sample; one more is that of the counterfactual.
    per_gene = module.likelihood == "normal" and module.gene_dispersion is not None
    heads = module.decoder.heads
    of_attention = 3 * len(heads) if isinstance(heads[0], AttentionHead) else 0
    of_pass = screen.n_genes * ((6 if per_gene else 16) + of_attention)
    layers = [layer for layer in module.decoder.mlp.modules() if isinstance(layer, torch.nn.Linear)]
    hidden = 4 * sum(layer.out_features for layer in layers)  # before and after norm and activation, and a gradient
    return F32 * batch_size * (16 * screen.n_genes + (module.n_samples + 1) * (of_pass + hidden))


def _buffers(screen: _Screen) -> float:
    """Cells of a file that are shuffled together, as they are read and put in order."""
    if not screen.on_disk:
        return 0.0
    return 2 * screen.value * min(screen.n_train * screen.n_genes, BUFFER_VALUES, BUFFER_CELLS * screen.n_genes)


def _effects(
    screen: _Screen, model: GraphVCI, manager: AnnDataManager, n_treatments: int | None, cluster_key: str | None
) -> dict[str, float]:
    """Sums of as many treatments as are gathered at a time, what is made of one of them, and the result."""
    cells = not_held_out(manager)
    stratum = np.asarray(manager.get_from_registry(KEYS.STRATUM)).ravel().astype(np.int64)[cells]
    cluster = np.arange(cells.size) % N_BLOCKS
    if cluster_key is not None:
        cluster = pd.factorize(require_column(model._table(model.adata), cluster_key, "cluster_key"))[0][cells]
    n_groups = len(np.unique(stratum * (cluster.max() + 1) + cluster))
    n_strata = len(np.unique(stratum))
    names = set(model.treatments.names) - {model.treatments.control}
    n = len(names) if n_treatments is None else n_treatments
    of_group = F64 * screen.n_genes * n_groups
    of_stratum = F64 * screen.n_genes * n_strata
    one = 9 * of_group + 18 * of_stratum
    together = min(n, max(1, int(MAX_SUMS_BYTES // one)))
    return {
        "sums over cells": together * one,
        "one treatment": 4 * of_group + 40 * of_stratum,
        "result": n * (of_group / 2 + 9 * of_stratum),
        "batch": 10 * F32 * EFFECT_BATCH * screen.n_genes,
    }


def _refinement(
    screen: _Screen, manager: AnnDataManager | None, prior: np.ndarray, given: dict[str, Any]
) -> dict[str, float]:
    """Logits and statistics of candidate edges, blocks of cells and the states of nodes."""
    preset = given.get("preset", "default")
    settings = {"n_layers": 1, "n_hidden": 8, "evidence": True, **PRESETS[preset], **given}
    candidates = settings.get("candidates") or ("all" if preset == "paper" else "regulators")
    n_genes, n_sources = screen.n_genes, len(np.unique(prior[0]))
    if candidates == "all":
        n_sources = n_genes
    size = n_genes * n_sources
    if isinstance(candidates, pd.DataFrame):
        size = prior.shape[1] + len(candidates)
        n_sources = len(np.union1d(np.unique(prior[0]), candidates["source"].unique()))
    n_arms = 0
    if manager is not None and KEYS.INTERVENTION in manager.data_registry:
        intervention = np.asarray(manager.get_from_registry(KEYS.INTERVENTION)).ravel()
        n_arms = len(np.unique(intervention[intervention >= 0]))
    of_candidate = 65 if settings["evidence"] else 50
    states = settings["n_layers"] * settings["n_hidden"] * n_genes * 64 * F32
    return {
        "candidate edges": of_candidate * size,
        "statistics": 10 * n_genes * n_sources + 8 * F64 * n_arms * n_genes,
        "blocks of cells": 3 * F64 * min(BLOCK_CELLS, screen.n_train) * n_genes,
        "states of genes": 1.5 * states,
        "cells of a file": _buffers(screen),
    }


def _table(stages: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Add up the parts of each stage."""
    rows = {}
    for stage, parts in stages.items():
        total = round(sum(parts.values())) + (RETAINED if stage != "expression" else 0)
        rows[stage] = {"bytes": total, "GiB": round(total / 2**30, 3), "most_of_it": max(parts, key=lambda k: parts[k])}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")
