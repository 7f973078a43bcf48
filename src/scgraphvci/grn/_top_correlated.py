"""The pairs of genes that correlate most: candidates for edges where there are too many pairs to consider all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from scgraphvci.grn._adata import _check_adata
from scgraphvci.grn._scores import Expression

BLOCK_GENES = 1024  # a block of targets meets a block of regulators: a million correlations at a time


def top_correlated(
    adata: AnnData,
    k: int = 50,
    regulators: Sequence[str] | None = None,
    *,
    layer: str | None = None,
    perturbation_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    split_key: str | None = None,
) -> pd.DataFrame:
    """Return for each gene the regulators whose expression correlates most with its own.

    A choice of candidates for :func:`scgraphvci.tl.refine_grn` where any gene may be a regulator, as in
    ``model_kwargs={"candidates": top_correlated(adata, split_key="split")}``. Neither memory nor the size of the result
    grows with the square of the number of genes, time does.

    Parameters
    ----------
    adata
        Cells x genes, log-normalised.
    k
        Number of regulators for each gene; all of them where there are fewer.
    regulators
        Possible sources; all genes if None.
    layer
        Layer with expression; None for `adata.X`.
    perturbation_key, categorical_covariate_keys
        Columns of obs: means of cells alike in these are removed first. For refinement leave the treatment out, as what
        it moves together may be regulation.
    split_key
        Column with the values "train", "test" and "ood": only "train" cells are used. None: all cells.

    Returns
    -------
    `source`, `target` and `weight`, the absolute Pearson correlation. Targets in the order of the genes, for each the
    largest weight first. Self-loops and pairs with a constant gene are left out.

    Raises
    ------
    KeyError
        If a column or layer is missing.
    ValueError
        If `k` is not positive, fewer than 3 cells are left, or no regulator is a gene of `adata`.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> len(sgv.grn.top_correlated(adata, k=5, categorical_covariate_keys=["cell_type", "donor"], split_key="split"))
    300
    """
    _check_adata(adata)
    if k < 1:
        msg = f"k={k!r} must be a positive whole number."
        raise ValueError(msg)
    genes = pd.Index(adata.var_names.astype(str))
    rows = np.arange(len(genes))
    if regulators is not None:
        named = genes.get_indexer(pd.Index([str(name) for name in regulators]))
        rows = np.unique(named[named >= 0])
        if rows.size == 0:
            msg = f"None of the {len(named)} regulators is a gene of `adata`, such as {list(genes[:3])}."
            raise ValueError(msg)
    expression = Expression(adata, layer, perturbation_key, categorical_covariate_keys, split_key)
    parts = [
        _of_targets(expression, rows, np.arange(start, min(start + BLOCK_GENES, len(genes))), k)
        for start in range(0, len(genes), BLOCK_GENES)
    ]
    source, target, weight = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return pd.DataFrame({"source": genes[source], "target": genes[target], "weight": weight})


def _of_targets(
    expression: Expression, rows: np.ndarray, targets: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return source, target and weight of the best k pairs of every target."""
    values = expression.standardised(targets, residual=True)
    best = np.empty((len(targets), 0))
    source = np.empty((len(targets), 0), dtype=np.int64)
    for start in range(0, len(rows), BLOCK_GENES):
        some = rows[start : start + BLOCK_GENES]
        found = np.abs(values.T @ expression.standardised(some, residual=True)) / expression.n_cells
        found[targets[:, None] == some] = 0.0
        # What was best among earlier regulators comes first, so that ties go to the earlier gene.
        best = np.concatenate([best, found], axis=1)
        source = np.concatenate([source, np.broadcast_to(some, found.shape)], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, source = np.take_along_axis(best, order, axis=1), np.take_along_axis(source, order, axis=1)
    kept = best > 0
    return source[kept], np.repeat(targets, kept.sum(axis=1)), best[kept]
