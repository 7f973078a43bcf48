"""Features of genes, for the nodes of the network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgraphvci._constants import SLOTS
from scgraphvci.data import OutcomeField, SplitField, cell_residuals, stratum_moments
from scgraphvci.data._fields import training_cells
from scgraphvci.data._read import require_column, require_unique_names

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


def gene_features(
    adata: AnnData, features: pd.DataFrame, *, key_added: str = SLOTS.GENE_FEATURES, copy: bool = False
) -> AnnData | None:
    """Align features of genes, such as embeddings made elsewhere, with the genes of an AnnData.

    Parameters
    ----------
    adata
        Cells x genes, with unique `var_names`.
    features
        Genes x features, numbers, indexed by gene. Genes that `adata` lacks are ignored.
    key_added
        Key to write under, for `gene_features_key` of ``setup_anndata``.
    copy
        Write to a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    * `varm[key_added]`: float32, shape ``(n_genes, n_features)``; **zeros for genes without features**, with a warning
    * `uns[key_added]`: dict with `params` (`source`, `features`: their names) and `report` (`n_genes`,
      `n_genes_missing` and `genes_missing`, the genes of `adata` that got zeros)

    Raises
    ------
    TypeError
        If `features` is not a data frame of numbers.
    ValueError
        If a gene occurs twice, a value is NaN or infinite, or no gene of `adata` has features. Nothing is written.

    Examples
    --------
    >>> import pandas as pd, scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=200, n_genes=40, n_perturbations=3, seed=0)
    >>> embedding = pd.DataFrame({"a": range(40), "b": 1.0}, index=adata.var_names)
    >>> sgv.pp.gene_features(adata, embedding)
    >>> adata.varm["gene_features"].shape
    (40, 2)
    """
    if not isinstance(features, pd.DataFrame):
        msg = f"`features` must be a data frame, genes x features, indexed by gene; got {type(features).__name__}."
        raise TypeError(msg)
    require_unique_names(adata)
    names = features.index.astype(str)
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()[:5].tolist()
        msg = f"`features` has several rows for genes such as {repeated}. Keep one each, or take their mean."
        raise ValueError(msg)
    try:
        values = features.to_numpy(dtype=np.float32)
    except (TypeError, ValueError) as error:
        text = [str(name) for name, kind in features.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        msg = f"Columns {text[:5]} of `features` are not numeric. Convert or drop them; gene names are the index."
        raise TypeError(msg) from error
    if values.shape[1] == 0 or not np.all(np.isfinite(values)):
        wrong = "has no columns" if values.shape[1] == 0 else "holds NaN or infinite values. Fill or drop those rows"
        msg = f"`features` {wrong}."
        raise ValueError(msg)
    row = names.get_indexer(adata.var_names.astype(str))
    require_overlap(adata, row >= 0, names, "`features`")
    aligned = np.where((row >= 0)[:, None], values[row], np.float32(0))
    params = {"source": "frame", "features": np.asarray(features.columns.astype(str), dtype=object)}
    return write_features(adata, aligned, row < 0, key_added, params, copy=copy)


def coexpression_features(
    adata: AnnData,
    n_features: int = 32,
    *,
    layer: str | None = None,
    split_key: str | None = None,
    covariate_keys: str | Sequence[str] | None = None,
    key_added: str = SLOTS.GENE_FEATURES,
    copy: bool = False,
) -> AnnData | None:
    """Take genes' loadings on the leading components of coexpression in training cells.

    The components are a truncated singular value decomposition of the deviations of cells from the mean of their
    stratum, each gene in units of its standard deviation within strata: a feature is the correlation, nearly, of the
    gene with the component. Cells are read in blocks, at most 50,000 of them at random; the same data give the same
    features.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised expression, dense, sparse or backed.
    n_features
        Number of components.
    layer
        Layer with expression; None for `X`.
    split_key
        Column of `obs` with "train", "test" and "ood": only "train" cells count. None: all cells.
    covariate_keys
        Columns of `obs` whose joint levels are the strata, so that differences between, say, cell types do not pass
        for coexpression. None: deviations from the mean of all cells.
    key_added
        Key to write under, for `gene_features_key` of ``setup_anndata``.
    copy
        Write to a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    * `varm[key_added]`: float32, shape ``(n_genes, n_features)``, the strongest component first, the sign of each such
      that its largest loading is positive; **zeros for genes that do not vary**, with a warning
    * `uns[key_added]`: dict with `params` and `report` (`n_genes`, `n_genes_missing` and `genes_missing`, the genes
      that got zeros)

    Raises
    ------
    KeyError
        If a column or layer is missing.
    ValueError
        If values are missing or not finite, or there are too few cells or genes for so many components. Nothing is
        written.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=200, n_genes=40, n_perturbations=3, seed=0)
    >>> sgv.pp.coexpression_features(adata, 4, split_key="split", covariate_keys="cell_type")
    >>> adata.varm["gene_features"].shape
    (40, 4)
    """
    if split_key is not None:
        SplitField(split_key).validate_field(adata)
    outcome = OutcomeField(layer)
    outcome.register_field(adata)
    keys = [covariate_keys] if isinstance(covariate_keys, str) else list(covariate_keys or [])
    stratum, none = _strata(adata, keys), np.zeros(adata.n_obs, dtype=np.int64)
    cells = np.flatnonzero(training_cells(adata, split_key))
    most = min(cells.size - np.unique(stratum[cells]).size, adata.n_vars - 1)
    if not 1 <= n_features <= most:
        msg = (
            f"n_features={n_features} must lie between 1 and {most}, given {adata.n_vars} genes and {cells.size} "
            f"training cells in {np.unique(stratum[cells]).size} strata."
        )
        raise ValueError(msg)
    matrix = outcome.get_field_data(adata)
    moments = stratum_moments(matrix, stratum, none, int(stratum.max()) + 1, 1, cells)
    residuals = cell_residuals(matrix, stratum, none, moments, cells, n_axes=n_features)
    loadings = residuals.axes * np.sqrt(np.mean(residuals.score.astype(np.float64) ** 2, axis=0))
    params = {"source": "coexpression", "layer": layer, "split_key": split_key, "covariate_keys": keys}
    constant = moments.within_variance <= 1e-12 * np.maximum(moments.gene_mean, 1) ** 2
    loadings[constant] = 0
    return write_features(adata, fixed_signs(loadings), constant, key_added, params, copy=copy)


def fixed_signs(components: np.ndarray) -> np.ndarray:
    """Choose the sign of each component, which is arbitrary, such that its largest entry is positive."""
    largest = np.argmax(np.abs(components), axis=0)
    return components * np.where(components[largest, np.arange(components.shape[1])] < 0, -1.0, 1.0)


def require_overlap(adata: AnnData, known: np.ndarray, names: pd.Index, what: str) -> None:
    """Check that some genes of the data are named by what was given.

    Raises
    ------
    ValueError
        If none are.
    """
    if known.any():
        return
    genes = adata.var_names.astype(str)
    msg = f"No gene of `adata`, such as {genes[:3].tolist()}, is in {what}, which names {names[:3].tolist()}."
    if genes.str.upper().isin(names.str.upper()).any():
        msg = f"{msg} Names agree when case is ignored: one may be mouse (Stat1), the other human (STAT1)."
    else:
        msg = f"{msg} Use the same kind of identifier (symbols or Ensembl) in both."
    raise ValueError(msg)


def write_features(
    adata: AnnData, values: np.ndarray, missing: np.ndarray, key: str, params: dict[str, Any], *, copy: bool
) -> AnnData | None:
    """Write features, how they were made, and which genes have none."""
    adata = adata.copy() if copy else adata
    names = adata.var_names[missing].astype(str)
    if len(names):
        logger.warning(
            "%d of %d genes have no features and got zeros: %s%s.",
            len(names), adata.n_vars, ", ".join(names[:5]), ", ..." if len(names) > 5 else "",
        )  # fmt: skip
    adata.varm[key] = values.astype(np.float32)
    adata.uns[key] = {
        "params": {name: value for name, value in params.items() if value is not None},
        "report": {
            "n_genes": adata.n_vars,
            "n_genes_missing": len(names),
            "genes_missing": np.asarray(names, dtype=object),
        },
    }
    return adata if copy else None


def _strata(adata: AnnData, keys: list[str]) -> np.ndarray:
    """Joint level of the covariates of every cell, as a code."""
    if not keys:
        return np.zeros(adata.n_obs, dtype=np.int64)
    levels = {key: require_column(adata, key, "covariate_keys").astype(str).to_numpy() for key in keys}
    return pd.DataFrame(levels).groupby(keys, sort=True).ngroup().to_numpy(dtype=np.int64)
