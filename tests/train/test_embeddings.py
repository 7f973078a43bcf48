from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from scgraphvci.data import stratum_moments
from scgraphvci.module import GraphVCIModule
from scgraphvci.train._embeddings import mean_embeddings

N_GENES = 6
DESIGN = np.eye(3, dtype=np.float32)[:, 1:]


@pytest.mark.parametrize("counts", [False, True])
def test_equals_a_loop_over_pairs(counts, monkeypatch):
    monkeypatch.setattr("scgraphvci.data._moments.BLOCK_VALUES", 5 * N_GENES)  # several blocks
    rng = np.random.default_rng(0)
    matrix = rng.poisson(2.0, (40, N_GENES)).astype(np.float32)
    stratum, condition = rng.integers(2, size=40), rng.integers(3, size=40)
    cells = rng.permutation(40)[:30]
    library = np.maximum(matrix.sum(axis=1), 1.0) if counts else None
    moments = stratum_moments(sparse.csr_array(matrix), stratum, condition, 2, 3, cells, library)
    module = GraphVCIModule(
        N_GENES, DESIGN, np.array([[0], [1]]), [2], n_hidden=4, n_latent=2, likelihood="nb" if counts else "normal",
        distribution_loss="mmd", propagation="none",
    )  # fmt: skip
    module.initialise(moments)
    found = mean_embeddings(module, sparse.csr_array(matrix), stratum, condition, moments, cells, library)
    values = matrix if library is None else matrix * (moments.library_size / library)[:, None].astype(np.float32)
    features = module.fourier_features(torch.as_tensor(values))
    for (x, t), row in np.ndenumerate(moments.row):
        members = [cell for cell in cells if (stratum[cell], condition[cell]) == (x, t)]
        if row >= 0:
            torch.testing.assert_close(found[row], features[members].mean(dim=0), rtol=1e-4, atol=1e-5)
    assert found.shape == (len(moments.n_cells), 384)


def test_other_losses_have_no_features():
    module = GraphVCIModule(N_GENES, DESIGN, np.array([[0], [1]]), [2], n_hidden=4, n_latent=2)
    assert module.fourier is None
    with pytest.raises(ValueError, match="build it with distribution_loss='mmd'"):
        module.fourier_features(torch.zeros(1, N_GENES))
