"""Regulon activity against the linear model written out."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import linregress

from scgraphvci.tl import score_regulons


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    data = ad.AnnData(
        rng.random((6, 12)).astype(np.float32), var=pd.DataFrame(index=[f"g{i}" for i in range(12)]),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(6)]),
    )  # fmt: skip
    network = np.zeros((12, 12), dtype=np.float32)
    network[0, [0, 1, 2, 3, 4, 5]] = [7, 1, -1, 1, 1, -2]
    network[3, [0, 6, 7, 8, 9]] = 0.5
    network[4, [1, 2]] = 1  # too few targets
    data.varp["grn"] = sparse.csr_matrix(network)
    counterfactual = rng.random((6, 12)).astype(np.float32)
    counterfactual[[1, 4]] = np.nan
    data.layers["counterfactual_X"] = counterfactual
    return data


def naive(values: np.ndarray, network: np.ndarray) -> np.ndarray:
    weights = network.copy()
    np.fill_diagonal(weights, 0)
    out = np.empty((len(values), 2))
    for column, regulator in enumerate([0, 3]):
        for row, cell in enumerate(values):
            fit = linregress(weights[regulator], cell)
            out[row, column] = fit.slope / fit.stderr
    return out


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix])
def test_observed_and_counterfactual(adata, layout) -> None:
    adata.X = layout(adata.X)
    assert score_regulons(adata) is None
    score_regulons(adata, layer="counterfactual_X")
    network = adata.varp["grn"].toarray()
    observed, other = adata.obsm["regulons"], adata.obsm["regulons_counterfactual_X"]
    assert observed.columns.tolist() == other.columns.tolist() == ["g0", "g3"]
    dense = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    np.testing.assert_allclose(observed, naive(dense, network), rtol=1e-4)
    asked = [0, 2, 3, 5]
    np.testing.assert_allclose(other.iloc[asked], naive(adata.layers["counterfactual_X"][asked], network), rtol=1e-4)
    assert other.iloc[[1, 4]].isna().all(axis=None)
    assert adata.uns["regulons_counterfactual_X"]["params"]["layer"] == "counterfactual_X"
    assert set(adata.obsm) == {"regulons", "regulons_counterfactual_X"} == set(adata.uns)


def test_copy_key_and_file(adata, tmp_path) -> None:
    written = score_regulons(adata, key_added="activity", min_targets=2, copy=True)
    assert not adata.obsm and not adata.uns
    assert written.obsm["activity"].columns.tolist() == ["g0", "g3", "g4"]
    written.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(back.obsm["activity"], written.obsm["activity"], check_names=False)


def test_cells_without_expression_keep_their_row(adata) -> None:
    adata.X[2] = 0
    score_regulons(adata)
    assert adata.obsm["regulons"].index.tolist() == adata.obs_names.tolist()
    assert adata.obsm["regulons"].isna().all(axis=1).tolist() == [False, False, True, False, False, False]


def test_signs_matter(adata) -> None:
    flipped = adata.copy()
    flipped.varp["grn"] = -adata.varp["grn"]
    score_regulons(adata)
    score_regulons(flipped)
    np.testing.assert_allclose(adata.obsm["regulons"], -flipped.obsm["regulons"], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "sum"}, ValueError, "Unknown method 'sum'"),
        ({"grn_key": "none"}, KeyError, "'none' not found in varp"),
        ({"layer": "none"}, KeyError, "Layer 'none' not found"),
        ({"min_targets": 9}, ValueError, "the largest number is 5"),
        ({"layer": "empty"}, ValueError, "No cell has expression in layer 'empty'"),
    ],
)
def test_bad_input(adata, options, error, match) -> None:
    adata.layers["empty"] = np.full(adata.shape, np.nan)
    with pytest.raises(error, match=match):
        score_regulons(adata, **options)
    assert not adata.obsm and not adata.uns
