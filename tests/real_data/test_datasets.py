"""Loaders on real files."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import scgraphvci as sgv

pytestmark = pytest.mark.real_data

INDUCED = ["ISG15", "IFI6", "IFIT1", "IFIT3", "ISG20"]  # by interferon, in every cell type


def test_kang(folder):
    path = folder / "kang18_merged_counts.h5ad"
    adata = sgv.datasets.kang(path, keep_genes=INDUCED)
    raw = ad.read_h5ad(path)
    assert adata.n_obs == raw.n_obs
    assert adata.var["highly_variable"].sum() == 1500
    assert set(adata.obs["perturbation"]) == {"control", "IFNb"}
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), raw[:, adata.var_names].X.toarray())
    assert (np.expm1(adata.X).sum(axis=1) <= 1000.01).all()
    ood = adata.obs["split"] == "ood"
    assert (ood == ((adata.obs["cell_type"] == "CD14+Mono") & (adata.obs["perturbation"] == "IFNb"))).all()
    assert 0.17 < (adata.obs["split"][~ood] == "test").mean() < 0.23
    assert set(INDUCED) <= set(adata.var_names)
    shift = adata[ood, INDUCED].X.mean() - adata[adata.obs["perturbation"] == "control", INDUCED].X.mean()
    assert shift > 1
