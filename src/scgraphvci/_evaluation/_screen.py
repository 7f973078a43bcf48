"""The data of an evaluation: coded cells, and expression on the scale of the scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import linalg, sparse

from scgraphvci._constants import SPLITS
from scgraphvci.baselines._base import Codes, ScreenCoder
from scgraphvci.data import OutcomeField, StratumMoments, stratum_moments
from scgraphvci.data._moments import library_sizes, row_blocks

CODER_KEYS = (
    "perturbation_key",
    "control",
    "dose_key",
    "combination_sep",
    "categorical_covariate_keys",
    "split_key",
)
N_COMPONENTS = 20
BASIS_CELLS = 2_000  # training cells behind the basis


@dataclass(frozen=True)
class Basis:
    """Principal components of training cells, in which distributions of cells are compared.

    Attributes
    ----------
    centre
        Shape ``(n_genes,)``.
    components
        Shape ``(n_genes, n_components)``.
    """

    centre: np.ndarray
    components: np.ndarray

    def project(self, cells: np.ndarray) -> np.ndarray:
        """Return coordinates of cells, shape ``(n_cells, n_components)``."""
        return (cells - self.centre) @ self.components


@dataclass(frozen=True)
class Screen:
    """A screen with its strata, treatments and split.

    Attributes
    ----------
    adata
        Cells x genes.
    matrix
        Expression on the scale of the scores, shape ``(n_cells, n_genes)``: dense, sparse or backed.
    coder
        What codes treatments and strata.
    seed
        Of the cells drawn for the basis.
    """

    adata: AnnData
    matrix: Any
    coder: ScreenCoder
    seed: int

    @cached_property
    def codes(self) -> Codes:
        """Treatment and stratum of every cell."""
        return self.coder.code(self.adata)

    @cached_property
    def split(self) -> np.ndarray:
        """Split of every cell, shape ``(n_cells,)``."""
        return self.coder.split(self.adata)

    @cached_property
    def basis(self) -> Basis:
        """Principal components of training cells, at most 20."""
        train = np.flatnonzero(self.split == SPLITS.TRAIN)
        if train.size > BASIS_CELLS:
            train = np.sort(np.random.default_rng(self.seed).choice(train, BASIS_CELLS, replace=False))
        return principal_components(self.rows(train))

    def rows(self, cells: np.ndarray) -> np.ndarray:
        """Return expression of cells given in ascending order, shape ``(len(cells), n_genes)``, float64."""
        return dense_rows(self.matrix, cells).astype(np.float64)

    def moments(self, cells: np.ndarray) -> StratumMoments:
        """Return means and variances of some cells by stratum and treatment."""
        codes = self.codes
        size = len(codes.strata), len(codes.table.design)
        return stratum_moments(self.matrix, codes.stratum, codes.condition, *size, cells)


def principal_components(cells: np.ndarray, n_components: int = N_COMPONENTS) -> Basis:
    """Principal components from the smaller of the two Gram matrices.

    Parameters
    ----------
    cells
        Shape ``(n_cells, n_genes)``.
    n_components
        How many, fewer where cells or genes are fewer.
    """
    centre = cells.mean(axis=0)
    centred = cells - centre
    wide = centred.shape[0] < centred.shape[1]
    gram = centred @ centred.T if wide else centred.T @ centred
    n = min(n_components, *centred.shape)
    vectors = linalg.eigh(gram, subset_by_index=(gram.shape[0] - n, gram.shape[0] - 1))[1][:, ::-1]
    if wide:
        vectors = centred.T @ vectors
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)
    return Basis(centre, vectors)


def dense_rows(matrix: Any, cells: np.ndarray) -> np.ndarray:
    """Return rows given in ascending order of a dense, sparse or backed matrix, dense."""
    blocks = [block.toarray() if sparse.issparse(block) else block for _, block in row_blocks(matrix, cells)]
    return np.concatenate(blocks) if blocks else np.empty((0, matrix.shape[1]))


def in_memory(adata: AnnData, cells: np.ndarray) -> AnnData:
    """Return a copy of some cells in memory; `AnnData.to_memory` would close the file that others read."""
    part = adata[cells]
    if not adata.isbacked:
        return part.copy()
    layers = {key: part.layers[key] for key in part.layers if key is not None}  # which newer versions use for X
    slots = {name: dict(getattr(part, name)) for name in ("uns", "obsm", "varm", "varp")}
    return AnnData(part.X, obs=part.obs, var=part.var, layers=layers, **slots).copy()


def outcome(adata: AnnData, layer: str | None) -> Any:
    """Return expression as registered: `X` or a layer."""
    return OutcomeField(layer).get_field_data(adata)


def library(adata: AnnData, setting: Mapping[str, Any]) -> np.ndarray:
    """Return the library size of every cell as a model of counts reads it, shape ``(n_cells,)``."""
    key = setting.get("size_factor_key")
    if key is not None:
        return adata.obs[key].to_numpy(dtype=np.float64)
    return library_sizes(outcome(adata, setting["layer"]))


def log_normalised(counts: Any, library: np.ndarray, library_size: float) -> Any:
    """Return log1p(counts / library * library_size); sparse stays sparse.

    Parameters
    ----------
    counts
        Shape ``(n_cells, n_genes)``: dense, sparse or backed.
    library
        Shape ``(n_cells,)``.
    library_size
        Library that expression is scaled to.
    """
    parts = []
    for start, block in row_blocks(counts, np.arange(counts.shape[0])):
        scale = library_size / library[start : start + block.shape[0]]
        if sparse.issparse(block):
            parts.append((sparse.diags_array(scale) @ block.astype(np.float64)).log1p().astype(np.float32))
        else:
            parts.append(np.log1p(block * scale[:, None]).astype(np.float32))
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)
