"""sci-Plex from five chunks on loopback."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scgraphvci as sgv

NAMES = [f"sciplex_raw_chunk_{number}.h5ad" for number in range(5)]
FEW = {"n_top_genes": 40, "n_hardest": 1}


@pytest.fixture
def chunks(draw_sciplex):
    return [draw_sciplex(seed) for seed in range(5)]


@pytest.fixture
def home(host, chunks, to_bytes):
    host.put_osf("5n2mz", {name: to_bytes(chunk) for name, chunk in zip(NAMES, chunks, strict=True)})
    return host


def good_cells(chunks) -> pd.DataFrame:
    """Rows of all chunks that pass, by the definitions."""
    frames = []
    for number, chunk in enumerate(chunks):
        counts = chunk.X.toarray()
        mito = counts[:, [name in ("MT-CO1", "MT-ND1", "MGMT-AS1") for name in chunk.var_names]].sum(axis=1)
        total = counts.sum(axis=1)
        good = (total > 500) & ((counts > 0).sum(axis=1) > 750) & (mito / total < 0.2)
        frames.append(chunk.obs[good].set_axis(chunk.obs_names[good] + f"-{number}"))
    return pd.concat(frames)


def test_downloaded_and_prepared(home, chunks, cache):
    adata = sgv.datasets.sciplex(**FEW)
    good = good_cells(chunks)
    assert len(good) < 5 * 80 - 5 * 6 + 1  # six bad cells in each chunk
    half = np.random.RandomState(0).choice(len(good), len(good) // 2, replace=False)
    assert adata.obs_names.tolist() == good.index[np.sort(half)].tolist()
    assert sorted(path.name for path in cache.iterdir()) == ["registry.txt", *NAMES]

    published = good.loc[adata.obs_names]
    assert set(adata.obs["perturbation"]) == {"Vehicle", "Drug", "Other", "Third"}
    assert (adata.obs["perturbation"] == published["product_name"].astype(str).str.split(" ").str[0]).all()
    np.testing.assert_allclose(adata.obs["dose"], published["dose"] / 10_000)
    np.testing.assert_allclose(adata.obs["dose_nM"], published["dose"])
    assert (adata.obs.loc[adata.obs["perturbation"] == "Vehicle", "dose"] == 0).all()
    assert adata.n_vars == 40
    assert "EMPTY" not in adata.var_names
    assert adata.var["id"].str.startswith("ENSG").all()
    ood = adata.obs[adata.obs["split"] == "ood"]
    assert set(ood["cell_type"]) == {"MCF7"}
    assert ood["perturbation"].nunique() == 1
    held_out = (adata.obs["cell_type"] == "MCF7") & adata.obs["perturbation"].isin(ood["perturbation"])
    assert held_out.sum() == len(ood)

    home.asked.clear()
    again = sgv.datasets.sciplex(**FEW)
    assert home.asked == []
    np.testing.assert_array_equal(again.X.toarray(), adata.X.toarray())


def test_chunks_in_a_folder_or_a_list(chunks, tmp_path):
    for name, chunk in zip(NAMES, chunks, strict=True):
        chunk.write_h5ad(tmp_path / name)
    folder = sgv.datasets.sciplex(tmp_path, **FEW)
    listed = sgv.datasets.sciplex([tmp_path / name for name in NAMES], **FEW)
    assert folder.obs.equals(listed.obs)
    raw = sgv.datasets.sciplex(tmp_path, processed=False)
    assert raw.shape == (400, 900)
    assert raw.obs_names.is_unique
    assert sgv.datasets.sciplex(tmp_path / NAMES[0], processed=False).n_obs == 80


def test_offline_names_the_other_place(nowhere, monkeypatch, cache):
    monkeypatch.setattr("scgraphvci.datasets._osf.OSF_API", nowhere)
    with pytest.raises(
        OSError, match="https://osf.io/5n2mz/ and put it at .*sciplex_raw_chunk_0.h5ad.*cpa_binaries.tar"
    ):
        sgv.datasets.sciplex()


def test_dose_and_control_fit_the_set_up(home):
    adata = sgv.datasets.sciplex(**FEW)
    sgv.GraphVCI.setup_anndata(
        adata,
        "perturbation",
        control="Vehicle",
        dose_key="dose",
        split_key="split",
        categorical_covariate_keys=["cell_type", "replicate"],
    )
