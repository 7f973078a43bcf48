"""Mean Fourier features of every observed pair of stratum and treatment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgraphvci.data._moments import dense_blocks
from scgraphvci.module._fourier import N_FEATURES

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
    total = module.input_mean.new_zeros(len(moments.n_cells), N_FEATURES)
    for part, values in dense_blocks(matrix, cells, library, moments.library_size):
        features = module.fourier_features(torch.as_tensor(values, device=device))
        total.index_add_(0, row[part].to(device), features)
    return (total / torch.as_tensor(moments.n_cells, device=device)[:, None]).cpu()
