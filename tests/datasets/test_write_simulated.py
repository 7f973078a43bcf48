"""A screen written to a file block by block is the one made in memory."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgraphvci.data._simulator import BLOCK_SIZE
from scgraphvci.datasets import _simulate
from scgraphvci.datasets._simulate import simulate, write_simulated

OPTIONS = {"n_genes": 25, "n_perturbations": 4, "n_cell_types": 2, "n_donors": 2, "seed": 3}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", [{}, {"doses": (1.0, 10.0)}, {"n_combinations": 2}], ids=str)
def test_file_equals_memory(tmp_path, options):
    path = tmp_path / "screen.h5ad"
    path.write_text("what was there")
    write_simulated(path, 300, **OPTIONS, **options)
    expected, found = simulate(n_cells=300, **OPTIONS, **options), ad.read_h5ad(path)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    assert found.X.format == "csr"
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    assert found.var_names.tolist() == expected.var_names.tolist()
    pd.testing.assert_frame_equal(found.obs, expected.obs[list(found.obs)], check_dtype=False, check_categorical=False)
    np.testing.assert_array_equal(found.varp["grn"].toarray(), expected.varp["grn"].toarray())


def test_blocks_are_written_one_by_one(tmp_path, monkeypatch):
    """As many rows as asked for, and no block is held twice."""
    sizes = []
    normalise = _simulate._log_normalise
    monkeypatch.setattr(
        _simulate, "_log_normalise", lambda counts, *rest: sizes.append(counts.shape[0]) or normalise(counts, *rest)
    )
    n_cells = 2 * BLOCK_SIZE + 100
    write_simulated(tmp_path / "screen.h5ad", n_cells, **OPTIONS)
    assert sizes == [BLOCK_SIZE, BLOCK_SIZE, 100]
    backed = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")
    assert backed.shape == (n_cells, 25)
    assert np.isfinite(backed.X[n_cells - 3 :].toarray()).all()
    backed.file.close()
