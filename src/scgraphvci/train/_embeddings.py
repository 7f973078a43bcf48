"""Mean Fourier features of every observed pair of stratum and treatment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from scgraphvci.data._moments import row_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from scgraphvci.data import StratumMoments
    from scgraphvci.module import GraphVCIModule


@torch.no_grad()
def mean_embeddings(
    module: GraphVCIModule,
    matrix: Any,
    stratum: np.ndarray,
    condition: np.ndarray,
    moments: StratumMoments,
    cells: np.ndarray,
    library: np.ndarray | None,
) -> Tensor:
    """Compute them in one pass over the cells, rows as in the moments; shape ``(n_rows, n_features)``.

    Parameters
    ----------
    module
        Has Fourier features, and is initialised: they are those of expression in standard deviations.
    matrix, stratum, condition, cells, library
        As for :func:`scgraphvci.data.stratum_moments`, which gave `moments`.
    moments
        Moments of the cells.
    """
    cells = np.sort(np.asarray(cells))
    row = torch.as_tensor(moments.row[stratum[cells], condition[cells]])
    device = module.input_mean.device
    total: Tensor | None = None
    for start, block in row_blocks(matrix, cells):
        part = slice(start, start + block.shape[0])
        dense = np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=np.float32)
        if library is not None:
            dense = dense * (moments.library_size / library[cells[part]])[:, None].astype(np.float32)
        features = module.fourier_features(torch.as_tensor(dense, device=device))
        if total is None:
            total = features.new_zeros(len(moments.n_cells), features.shape[1])
        total.index_add_(0, row[part].to(device), features)
    if total is None:
        msg = "There are no cells to embed."
        raise ValueError(msg)
    return (total / torch.as_tensor(moments.n_cells, device=device)[:, None]).cpu()
