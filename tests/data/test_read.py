from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgraphvci.data import _read
from scgraphvci.data._read import finite_blocks, modality, require_column, require_number, require_unique_names

FORMATS = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "integer": lambda values: np.asarray(values).astype(np.int64),
}


@pytest.fixture
def values():
    return np.random.default_rng(0).poisson(0.7, (23, 4)).astype(np.float32) + np.eye(23, 4, dtype=np.float32)


def backed(tmp_path, matrix):
    path = tmp_path / "screen.h5ad"
    ad.AnnData(matrix).write_h5ad(path)
    return ad.read_h5ad(path, backed="r").X


@pytest.mark.parametrize("block_values", [4, 30, 10_000])
@pytest.mark.parametrize("form", FORMATS)
def test_blocks_hold_all_values(monkeypatch, values, form, block_values):
    monkeypatch.setattr(_read, "BLOCK_VALUES", block_values)
    blocks = list(finite_blocks(FORMATS[form](values), "X"))
    assert sum(block.sum() for block in blocks) == pytest.approx(values.sum())
    assert min(block.min() for block in blocks) == 0
    assert max(block.max() for block in blocks) == values.max()


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_backed_blocks_hold_all_values(monkeypatch, tmp_path, values, form):
    monkeypatch.setattr(_read, "BLOCK_VALUES", 30)
    blocks = list(finite_blocks(backed(tmp_path, FORMATS[form](values)), "X"))
    assert len(blocks) == 4
    assert sum(block.sum() for block in blocks) == pytest.approx(values.sum())


def test_backed_csc_is_refused_with_the_way_out(tmp_path, values):
    with pytest.raises(ValueError, match=r"X is a backed CSC matrix.*Write it as CSR first"):
        list(finite_blocks(backed(tmp_path, sparse.csc_matrix(values)), "X"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["dense", "csr", "csc"])
def test_a_bad_value_in_the_last_block_is_found(monkeypatch, values, form, bad):
    monkeypatch.setattr(_read, "BLOCK_VALUES", 30)
    values[-1, [1, -1]] = bad
    where = rf"layer 'counts' holds NaN or infinite values, first in cell {len(values) - 1}, gene 1 "
    with pytest.raises(ValueError, match=where):
        list(finite_blocks(FORMATS[form](values), "layer 'counts'"))


def test_columns_are_checked():
    adata = ad.AnnData(np.ones((3, 2)), obs=pd.DataFrame({"a": [1.0, np.nan, 2.0]}, index=list("xyz")))
    with pytest.raises(KeyError, match=r"`dose_key`: column 'b' not found in obs. Columns: \['a'\]"):
        require_column(adata, "b", "dose_key")
    with pytest.raises(ValueError, match=r"`dose_key`: obs\['a'\] has 1 missing values"):
        require_column(adata, "a", "dose_key")
    assert require_column(adata, "a", "dose_key", allow_missing=True).isna().sum() == 1


def test_numbers_are_checked():
    column = pd.Series([1, 2, 3], dtype="Int64")
    np.testing.assert_array_equal(require_number(column, "a"), [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(require_number(pd.Series([True, False]), "a"), [1.0, 0.0])
    with pytest.raises(TypeError, match=r"obs\['a'\] is not numeric"):
        require_number(pd.Series(["high", "low"]), "a")
    with pytest.raises(ValueError, match=r"obs\['a'\] holds 2 infinite values"):
        require_number(pd.Series([np.inf, 1.0, -np.inf]), "a")


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_names_must_be_unique(axis):
    adata = ad.AnnData(np.ones((3, 3)))
    require_unique_names(adata)
    setattr(adata, f"{axis}_names", ["a", "b", "a"])
    with pytest.raises(ValueError, match=rf"{axis}_names are not unique, such as \['a'\]. Call `adata.{axis}_names"):
        require_unique_names(adata)


def test_empty_data_are_refused():
    with pytest.raises(ValueError, match=r"empty \(3 cells x 0 genes\)"):
        require_unique_names(ad.AnnData(np.ones((3, 0))))


def test_modality():
    adata = ad.AnnData(np.ones((3, 2)))
    assert modality(adata, None) is adata
    data = mudata.MuData({"rna": adata})
    assert modality(data, "rna") is data["rna"]
    with pytest.raises(KeyError, match="Modality 'atac'"):
        modality(data, "atac")
    with pytest.raises(TypeError, match="MuData"):
        modality(data, None)
    with pytest.raises(TypeError, match="setup_anndata"):
        modality(adata, "rna")


@pytest.mark.parametrize("values", [np.array([["1", "2"]]), np.array([[1 + 2j]]), np.array([[None, 1.0]])])
def test_expression_must_be_real_numbers(values):
    with pytest.raises(TypeError, match=r"X has dtype .*, not one of real numbers.*astype"):
        list(finite_blocks(values, "X"))
