from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgraphvci as sgv
from scgraphvci.pp import coexpression_features, gene_features

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": None, "enable_model_summary": False}


@pytest.fixture
def adata() -> ad.AnnData:
    """300 cells of two types and six genes; three factors of different strength; gene 5 is constant."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 300)
    factors = rng.normal(size=(300, 3)) * [4, 2, 1]
    expression = factors @ rng.normal(size=(3, 6)) + 0.3 * rng.normal(size=(300, 6)) + 5 * kind[:, None] * np.arange(6)
    expression[:, 5] = 1.5
    obs = pd.DataFrame(
        {"kind": kind.astype(str), "split": rng.choice(["train", "test", "ood"], 300, p=[0.7, 0.2, 0.1])},
        index=[f"c{i}" for i in range(300)],
    )
    return ad.AnnData(expression.astype(np.float32), obs=obs, var=pd.DataFrame(index=list("ABCDEF")))


def test_frame_is_aligned_by_name(adata: ad.AnnData, caplog: pytest.LogCaptureFixture, tmp_path) -> None:
    frame = pd.DataFrame({"x": [1.0, 2, 3, 4], "y": [5, 6, 7, 8]}, index=["F", "B", "elsewhere", "A"])
    with caplog.at_level(logging.WARNING):
        assert gene_features(adata, frame) is None
    expected = [[4, 8], [2, 6], [0, 0], [0, 0], [0, 0], [1, 5]]
    assert adata.varm["gene_features"].tolist() == expected and adata.varm["gene_features"].dtype == np.float32
    assert "3 of 6 genes have no features and got zeros: C, D, E." in caplog.text
    adata.write_h5ad(tmp_path / "a.h5ad")
    written = ad.read_h5ad(tmp_path / "a.h5ad").uns["gene_features"]
    assert (written["report"]["n_genes"], written["report"]["n_genes_missing"]) == (6, 3)
    assert list(written["report"]["genes_missing"]) == ["C", "D", "E"]
    assert written["params"]["source"] == "frame" and list(written["params"]["features"]) == ["x", "y"]


def test_complete_frame_says_nothing_and_copy_leaves_the_original(adata: ad.AnnData, caplog, tmp_path) -> None:
    frame = pd.DataFrame(np.eye(6), index=adata.var_names)
    written = gene_features(adata, frame, key_added="other", copy=True)
    np.testing.assert_array_equal(written.varm["other"], np.eye(6))
    assert not adata.varm and not adata.uns and not caplog.records
    written.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["other"]["report"]["n_genes_missing"] == 0


@pytest.mark.parametrize(
    ("features", "error", "match"),
    [
        ({"A": [1.0]}, TypeError, "must be a data frame.*got dict"),
        (pd.DataFrame({"x": [1.0, 2]}, index=["A", "A"]), ValueError, r"several rows for genes such as \['A'\]"),
        (pd.DataFrame({"x": [1.0], "gene": ["A"]}, index=["A"]), TypeError, r"Columns \['gene'\] of `features`"),
        (pd.DataFrame({"x": [np.inf]}, index=["A"]), ValueError, "NaN or infinite"),
        (pd.DataFrame({"x": [1.0]}, index=["Z"]), ValueError, r"No gene of `adata`, such as \['A', .*names \['Z'\]"),
        (pd.DataFrame({"x": [1.0]}, index=["a"]), ValueError, "case is ignored"),
        (pd.DataFrame(index=["A"]), ValueError, "has no columns"),
    ],
)
def test_bad_frames(adata: ad.AnnData, features, error, match) -> None:
    with pytest.raises(error, match=match):
        gene_features(adata, features)
    assert not adata.varm and not adata.uns


def components(adata: ad.AnnData, n: int, keys: list[str]) -> np.ndarray:
    """Exact decomposition of training cells' residuals, in standard deviations within strata, gene by component."""
    train = adata[(adata.obs["split"] == "train").to_numpy()]
    values = pd.DataFrame(train.X.astype(np.float64)[:, :5], index=train.obs_names)
    strata = [train.obs[key].to_numpy() for key in keys] or [np.zeros(train.n_obs)]
    residual = (values - values.groupby(strata).transform("mean")).to_numpy()
    residual = residual / residual.std(axis=0)
    _, singular, loadings = np.linalg.svd(residual, full_matrices=False)
    features = loadings[:n].T * singular[:n] / np.sqrt(len(residual))
    features *= np.sign(features[np.abs(features).argmax(axis=0), np.arange(n)])
    return np.vstack([features, np.zeros(n)])


@pytest.mark.parametrize("keys", [[], ["kind"]])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_coexpression_against_an_exact_decomposition(adata: ad.AnnData, keys: list[str], form, caplog) -> None:
    expected = components(adata, 3, keys)
    adata.X = form(adata.X)
    with caplog.at_level(logging.WARNING):
        coexpression_features(adata, 3, split_key="split", covariate_keys=keys)
    np.testing.assert_allclose(adata.varm["gene_features"], expected, atol=0.01)  # the scale has 1e-3 added to it
    assert adata.varm["gene_features"].dtype == np.float32
    assert list(adata.uns["gene_features"]["report"]["genes_missing"]) == ["F"] and "got zeros: F." in caplog.text


def test_strata_are_removed(adata: ad.AnnData) -> None:
    """Types differ in all genes but the first, the more the later: the first component where they are left in."""
    with_types, without = (
        coexpression_features(adata, 1, covariate_keys=keys, copy=True).varm["gene_features"][:, 0]
        for keys in (None, "kind")
    )
    difference = np.array([0, 1, 2, 3, 4])
    assert np.corrcoef(np.abs(with_types[:5]), difference)[0, 1] > np.corrcoef(np.abs(without[:5]), difference)[0, 1]


def test_only_training_cells_count(adata: ad.AnnData, tmp_path) -> None:
    options = {"n_features": 2, "split_key": "split", "covariate_keys": "kind", "copy": True}
    expected = coexpression_features(adata, **options).varm["gene_features"]
    held_out = (adata.obs["split"] != "train").to_numpy()
    other = adata.copy()
    other.X[held_out] = 1e6
    np.testing.assert_array_equal(coexpression_features(other, **options).varm["gene_features"], expected)
    adata.layers["x"], adata.X = adata.X, np.zeros_like(adata.X)
    found = coexpression_features(adata, layer="x", **options)
    np.testing.assert_array_equal(found.varm["gene_features"], expected)
    found.write_h5ad(tmp_path / "a.h5ad")
    params = ad.read_h5ad(tmp_path / "a.h5ad").uns["gene_features"]["params"]
    assert params["source"] == "coexpression" and params["layer"] == "x" and list(params["covariate_keys"]) == ["kind"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_features": 6}, ValueError, "n_features=6 must lie between 1 and 5, given 6 genes and 300 training cells"),
        ({"n_features": 0}, ValueError, "n_features=0 must lie"),
        ({"layer": "x"}, KeyError, "Layer 'x'"),
        ({"split_key": "kind"}, ValueError, "kind"),
        ({"covariate_keys": ["x"]}, KeyError, "column 'x' not found"),
    ],
)
def test_bad_coexpression(adata: ad.AnnData, options, error, match) -> None:
    with pytest.raises(error, match=match):
        coexpression_features(adata, **{"n_features": 2, **options})
    adata.X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        coexpression_features(adata, 2)
    assert not adata.varm and not adata.uns and list(adata.obs) == ["kind", "split"]


def test_features_reach_the_model(screen: ad.AnnData) -> None:
    coexpression_features(screen, 3, split_key="split", covariate_keys=["cell_type"])
    sgv.GraphVCI.setup_anndata(screen, split_key="split", grn_key="grn", gene_features_key="gene_features")
    values = screen.varm["gene_features"]
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    model = sgv.GraphVCI(screen, n_hidden=8, n_latent=2)
    np.testing.assert_allclose(model.module.graph.features, expected, atol=1e-5)
    sgv.tl.refine_grn(screen, gene_features_key="gene_features", split_key="split", max_epochs=1, **QUIET)
    assert screen.uns["grn_refined"]["params"]["gene_features_key"] == "gene_features"
