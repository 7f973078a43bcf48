"""Kang 2018 from a file on loopback."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

import scgraphvci as sgv
from scgraphvci.datasets import _kang
from scgraphvci.datasets._kang import KANG


@pytest.fixture
def home(host, draw_kang, to_bytes, monkeypatch):
    """The public file's addresses, in which a tiny file of its layout stands."""
    body = to_bytes(draw_kang())
    urls = (f"{host.url}/figshare", f"{host.url}/scverse")
    file = replace(KANG.files[0], urls=urls, sha256=sha256(body).hexdigest())
    monkeypatch.setattr(_kang, "KANG", replace(KANG, files=(file,)))
    host.put("/scverse", body)
    return host


def test_downloaded_from_the_mirror_and_prepared(home, draw_kang, cache):
    adata = sgv.datasets.kang(n_top_genes=50)
    assert [path for path, _ in home.asked] == ["/figshare", "/scverse"]
    assert (cache / "kang_2018.h5ad").is_file()
    raw = draw_kang()
    assert adata.shape == (150, 50)
    assert (adata.obs["perturbation"] == raw.obs["label"].astype(str).map({"ctrl": "control", "stim": "IFNb"})).all()
    assert set(adata.obs["cell_type"]) == {"CD14+Mono", "CD4T", "Megakaryocytes"}
    assert (adata.obs["donor"] == raw.obs["replicate"]).all()
    counts = raw[:, adata.var_names].X.toarray()
    expected = np.log1p(counts / raw.X.toarray().sum(axis=1, keepdims=True) * 1000)
    np.testing.assert_allclose(adata.X.toarray(), expected, rtol=1e-5)
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), counts)
    ood = adata.obs["split"] == "ood"
    assert (ood == ((adata.obs["cell_type"] == "CD14+Mono") & (adata.obs["perturbation"] == "IFNb"))).all()


def test_category_is_held_out(home):
    adata = sgv.datasets.kang(category="CD4T", n_top_genes=50)
    assert set(adata.obs.loc[adata.obs["split"] == "ood", "cell_type"]) == {"CD4T"}
    with pytest.raises(ValueError, match="No cell has 'CD4 T cells'"):
        sgv.datasets.kang(category="CD4 T cells", n_top_genes=50)
