from __future__ import annotations

import gc
import weakref
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from scipy import sparse

import scgraphvci as sgv
from scgraphvci.grn import get_grn, to_frame, to_networkx
from scgraphvci.tl import _refine_grn
from scgraphvci.tl._refine_grn import refine_grn

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
LENIENT: dict[str, Any] = {"threshold": 0.02, "model_kwargs": {"candidates": "all"}}  # chance decides over some edges


@pytest.fixture
def adata() -> ad.AnnData:
    """Gene 0 regulates 2 (true), gene 1 does not regulate 3 (false in the prior)."""
    rng = np.random.default_rng(0)
    expression = rng.normal(size=(600, 5)) + rng.integers(2, size=600)[:, None]
    expression[:, 2] += 0.9 * expression[:, 0]
    adata = ad.AnnData(expression.astype(np.float32), var=pd.DataFrame(index=list("ABCDE")))
    adata.obs["split"] = pd.Categorical(np.repeat(["train", "test", "ood"], [400, 100, 100]))
    adata.obs["donor"] = pd.Categorical(rng.choice(["x", "y"], 600))
    adata.obs["treatment"] = pd.Categorical(rng.choice(["none", "A", "drug"], 600))
    adata.layers["scaled"] = adata.X * 2
    adata.varp["grn"] = sparse.csr_matrix(([1.0, 1.0], ([0, 1], [2, 3])), shape=(5, 5), dtype=np.float32)
    return adata


def test_writes_the_documented_slots(adata: ad.AnnData, tmp_path) -> None:
    before = adata.copy()
    state = torch.get_rng_state()
    result = refine_grn(
        adata, split_key="split", categorical_covariate_keys=["donor"], max_epochs=6, seed=3,
        perturbation_key="treatment", control="none", model_kwargs={"evidence_weight": 0.05}, **QUIET,
    )  # fmt: skip
    assert result is None
    assert torch.equal(state, torch.get_rng_state())
    refined = adata.varp["grn_refined"]
    assert refined.format == "csr" and refined.dtype == np.float32 and refined.shape == (5, 5)
    assert refined[0, 2] > 0.8 and refined[2, 0] == 0 and refined[1, 3] < 0.5
    assert refined.data.min() > 0.3

    params = adata.uns["grn_refined"]["params"]
    assert params["grn_key"] == "grn" and params["seed"] == 3 and params["max_epochs"] == 6
    assert params["evidence_weight"] == "0.05" and params["categorical_covariate_keys"] == ["donor"]
    assert params["perturbation_key"] == "treatment" and params["control"] == "none"
    counts = adata.uns["grn_refined"]["n_edges"]
    assert counts["kept"] + counts["dropped"] == 2 and counts["kept"] + counts["added"] == refined.nnz
    frame = get_grn(adata, "grn_refined")
    assert frame.set_index(["source", "target"]).loc[("A", "C"), "in_prior"]

    assert list(adata.obs) == list(before.obs) and list(adata.obsm) == list(before.obsm)
    assert set(adata.uns) == {"grn_refined"} and list(adata.layers) == list(before.layers)
    np.testing.assert_array_equal(adata.X, before.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(get_grn(ad.read_h5ad(tmp_path / "a.h5ad"), "grn_refined"), frame)


def test_copy_layer_and_seed(adata: ad.AnnData) -> None:
    options = {"split_key": "split", "max_epochs": 2, **QUIET}
    one, again, scaled = (refine_grn(adata, copy=True, **options, **extra) for extra in ({}, {}, {"layer": "scaled"}))
    assert "grn_refined" not in adata.varp and "grn_refined" not in adata.uns
    pd.testing.assert_frame_equal(get_grn(one, "grn_refined"), get_grn(again, "grn_refined"))
    # Expression is standardised, so that its unit does not matter.
    np.testing.assert_allclose(one.varp["grn_refined"].toarray(), scaled.varp["grn_refined"].toarray(), atol=1e-4)


def test_nothing_is_written_on_error(adata: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="No edge has a confidence above threshold=0.999"):
        refine_grn(adata, threshold=0.999, max_epochs=1, **QUIET)
    with pytest.raises(KeyError, match="'nothing' not found in varp"):
        refine_grn(adata, grn_key="nothing", **QUIET)
    with pytest.raises(KeyError, match="Layer 'nothing'"):
        refine_grn(adata, layer="nothing", **QUIET)
    with pytest.raises(KeyError, match="column 'nothing'"):
        refine_grn(adata, split_key="nothing", **QUIET)
    broken = adata.copy()
    broken.X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        refine_grn(broken, **QUIET)
    assert "grn_refined" not in adata.varp and not adata.uns and list(adata.obs) == ["split", "donor", "treatment"]


def test_support_is_the_share_of_halves_that_find_an_edge(adata: ad.AnnData) -> None:
    """The halves are drawn again here, and each is refined by a call of its own."""
    options = {"max_epochs": 3, "categorical_covariate_keys": ["donor"], **LENIENT, **QUIET}
    plain = refine_grn(adata, split_key="split", seed=5, copy=True, **options)
    refine_grn(adata, split_key="split", seed=5, n_restarts=4, **options)
    np.testing.assert_array_equal(adata.varp["grn_refined"].toarray(), plain.varp["grn_refined"].toarray())
    assert "grn_refined_support" not in plain.varp and "n_restarts" not in plain.uns["grn_refined"]["params"]

    train = np.flatnonzero(adata.obs["split"] == "train")
    rng, times = np.random.default_rng(5), np.zeros((5, 5))
    for _ in range(4):
        other = adata.copy()
        other.obs["split"] = other.obs["split"].astype(str).replace("train", "ood")
        other.obs.iloc[rng.choice(train, 200, replace=False), 0] = "train"
        refine_grn(other, split_key="split", seed=int(rng.integers(2**31)), **options)
        times += other.varp["grn_refined"].toarray() > 0
    support = adata.varp["grn_refined_support"]
    assert support.format == "csr" and support.dtype == np.float32 and support.nnz == (times > 0).sum()
    np.testing.assert_allclose(support.toarray(), times / 4)
    assert 0 < times[times > 0].min() < 4 and times[0, 2] == 4
    assert (support > 0).nnz > adata.varp["grn_refined"].nnz  # edges found now and then, and not with all cells

    frame = to_frame(adata, "grn_refined")
    row, column = (adata.var_names.get_indexer(frame[name]) for name in ("source", "target"))
    np.testing.assert_allclose(frame["support"], times[row, column] / 4)
    assert to_networkx(adata, "grn_refined").edges["A", "C"]["support"] == 1
    assert adata.uns["grn_refined"]["params"]["n_restarts"] == 4
    refine_grn(adata, split_key="split", **options)
    assert "grn_refined_support" not in adata.varp  # it was that of another network


def test_restarts_repeat_and_use_no_other_cells(adata: ad.AnnData) -> None:
    options = {"split_key": "split", "max_epochs": 1, "n_restarts": 3, **LENIENT, **QUIET}
    other = adata.copy()
    other.X[400:] = 1e3
    one, again, seed, held_out = (
        refine_grn(data, copy=True, seed=seed, **options).varp["grn_refined_support"].toarray()
        for data, seed in ((adata, 0), (adata, 0), (adata, 1), (other, 0))
    )
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one, held_out)
    assert (one != seed).any()
    # Without a split column, halves are those of the random split's training cells.
    options.update(split_key=None, train_size=0.5)
    assert refine_grn(adata, copy=True, **options).varp["grn_refined_support"][0, 2] == 1
    with pytest.raises(ValueError, match="n_restarts=0 must be at least 1"):
        refine_grn(adata, n_restarts=0)
    assert list(adata.obs) == ["split", "donor", "treatment"]


def test_a_restart_leaves_nothing_in_memory(adata: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    modules, alive = [], []

    class Watched(_refine_grn.GRNRefiner):
        def __init__(self, *args, **kwargs):
            gc.collect()
            alive.append(sum(module() is not None for module in modules))
            super().__init__(*args, **kwargs)
            modules.append(weakref.ref(self.module))

    monkeypatch.setattr(_refine_grn, "GRNRefiner", Watched)
    refine_grn(adata, split_key="split", max_epochs=1, n_restarts=3, **QUIET)
    assert alive == [0, 0, 0, 0]


def test_true_edges_have_more_support() -> None:
    adata = sgv.datasets.simulate(n_cells=1500, n_genes=60, n_perturbations=6, seed=0)
    columns = {"categorical_covariate_keys": ["cell_type", "donor"], "perturbation_key": "perturbation"}
    refine_grn(adata, split_key="split", max_epochs=1, n_restarts=10, **columns, **QUIET)
    prior, true = (adata.varp[key].toarray() != 0 for key in ("grn", "grn_true"))
    support = adata.varp["grn_refined_support"].toarray()
    assert support[prior & true].mean() > support[prior & ~true].mean() + 0.2
    assert support[~prior & true].mean() > support[~prior & ~true].mean() + 0.01
    # A half decides over edges near the threshold only.
    confidence = adata.varp["grn_refined"].toarray()
    assert support[confidence > 0.7].mean() > 0.95 > support[(confidence > 0.3) & (confidence < 0.5)].mean()


def with_peaks(rna: ad.AnnData, name: str = "rna") -> MuData:
    peaks = pd.DataFrame(index=["chr1:1-9", "chr1:20-29"])
    return MuData({"atac": ad.AnnData(np.ones((rna.n_obs, 2)), obs=rna.obs[[]].copy(), var=peaks), name: rna})


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
def test_mudata_gives_the_same_network(adata: ad.AnnData, tmp_path) -> None:
    options = {
        "split_key": "split",
        "categorical_covariate_keys": ["donor"],
        "max_epochs": 2,
        "layer": "scaled",
        **QUIET,
    }
    adata.varm["features"] = np.random.default_rng(1).normal(size=(5, 2))
    mdata = with_peaks(adata.copy(), "gex")
    written = refine_grn(mdata, modality="gex", gene_features_key="features", copy=True, **options)
    assert "grn_refined" not in mdata["gex"].varp
    assert refine_grn(mdata, modality="gex", gene_features_key="features", **options) is None
    refine_grn(adata, gene_features_key="features", **options)
    for found in (written["gex"], mdata["gex"]):
        pd.testing.assert_frame_equal(get_grn(found, "grn_refined"), get_grn(adata, "grn_refined"), check_exact=True)
        assert found.uns["grn_refined"] == adata.uns["grn_refined"]
    assert list(mdata["gex"].obs) == ["split", "donor", "treatment"] and not mdata["atac"].uns and not mdata.uns


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
def test_other_objects_and_modalities_are_refused(adata: ad.AnnData) -> None:
    with pytest.raises(KeyError, match=r"Modality 'gex' not found. Modalities: \['atac', 'rna'\]"):
        refine_grn(with_peaks(adata), modality="gex", **QUIET)
    with pytest.raises(KeyError, match="'grn' not found in varp"):
        refine_grn(with_peaks(adata), modality="atac", **QUIET)
    with pytest.raises(TypeError, match="Expected an AnnData, got DataFrame"):
        refine_grn(adata.to_df(), **QUIET)
