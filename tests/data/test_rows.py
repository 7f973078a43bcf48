from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import zarr
from scipy import sparse

from scgraphvci.data import _rows
from scgraphvci.data._rows import StoredRows, by_rows, in_memory, runs

VALUES = np.random.default_rng(0).poisson(0.7, (90, 4)).astype(np.float32)
WANTED = {
    "all": slice(None),
    "slice": slice(5, 70, 3),
    "unsorted": np.array([80, 3, 50, 3, 51]),
    "list": [7, 6],
    "none": np.array([], dtype=int),
    "apart": np.array([0, 40, 89]),
}


def h5ad(matrix, path):
    ad.AnnData(matrix).write_h5ad(path / "a.h5ad")
    return ad.read_h5ad(path / "a.h5ad", backed="r").X


def from_zarr(matrix, path):
    ad.AnnData(matrix).write_zarr(path / "a.zarr")
    stored = zarr.open(path / "a.zarr", mode="r")["X"]
    return ad.io.sparse_dataset(stored) if sparse.issparse(matrix) else stored


def dask_array(matrix, path):
    return pytest.importorskip("dask.array").from_array(matrix, chunks=(40, 4), asarray=False)


STORES = {"h5ad": h5ad, "zarr": from_zarr, "dask": dask_array}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("read_values", [8, 4_000_000])
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("store", STORES)
def test_rows_are_those_of_the_matrix(monkeypatch, tmp_path, store, is_sparse, read_values):
    monkeypatch.setattr(_rows, "READ_VALUES", read_values)
    matrix = STORES[store](sparse.csr_matrix(VALUES) if is_sparse else VALUES, tmp_path)
    rows = by_rows(matrix)
    assert isinstance(rows, StoredRows)
    assert rows.shape == (90, 4)
    assert rows.dtype == np.float32
    for name, key in WANTED.items():
        found = rows[key]
        assert found.shape == VALUES[key].shape, name
        if name != "none":
            assert sparse.issparse(found) is is_sparse
        np.testing.assert_array_equal(found.toarray() if sparse.issparse(found) else found, VALUES[key], err_msg=name)


@pytest.mark.parametrize("form", ["csc_matrix", "csc_array", "coo_array"])
def test_memory_is_read_as_it_is_or_as_csr(form):
    dense, csr = VALUES, sparse.csr_matrix(VALUES)
    assert by_rows(dense) is dense
    assert by_rows(csr) is csr
    other = by_rows(getattr(sparse, form)(VALUES))
    assert other.format == "csr"
    np.testing.assert_array_equal(other[[3, 1]].toarray(), VALUES[[3, 1]])


def test_indices_are_of_one_type_and_values_are_shared():
    mixed = sparse.csr_matrix(VALUES)
    mixed.indptr = mixed.indptr.astype(np.int64)
    found = by_rows(mixed)
    assert found.indices.dtype == found.indptr.dtype == np.int32
    assert np.shares_memory(found.data, mixed.data)
    assert np.shares_memory(found.indices, mixed.indices)
    assert (found != mixed).nnz == 0


def test_near_rows_are_read_together():
    assert [run.tolist() for run in runs(np.array([0, 1, 10, 26, 43, 44]), most=1000)] == [[0, 1, 10, 26], [43, 44]]
    assert [run.tolist() for run in runs(np.arange(10), most=4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [run.tolist() for run in runs(np.array([3, 4, 6]), gap=1)] == [[3, 4], [6]]


def test_chunks_follow_the_store(tmp_path):
    assert by_rows(h5ad(sparse.csr_matrix(VALUES), tmp_path)).chunk == 128
    dask = pytest.importorskip("dask.array")
    assert by_rows(dask.zeros((5000, 4), chunks=(1000, 4))).chunk == 1000
    assert by_rows(dask.zeros((5000, 4), chunks=(10, 4))).chunk == 128


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (lambda path: h5ad(sparse.csc_matrix(VALUES), path), ValueError, r"X is a backed CSC matrix.*to_memory\(\)"),
        (lambda path: dask_array(sparse.csc_matrix(VALUES), path), ValueError, r"X is a backed CSC.*to_memory\(\)"),
        (lambda path: [[1, 2]], TypeError, r"X is a builtins.list, which cannot be read by cells.*to_memory\(\)"),
    ],
)
def test_what_cannot_be_read_by_cells_is_refused(tmp_path, matrix, error, message):
    with pytest.raises(error, match=message):
        by_rows(matrix(tmp_path), "X")


def test_lazy_arrays_are_computed():
    network = sparse.csr_matrix(np.eye(4))
    assert in_memory(network) is network
    computed = in_memory(dask_array(network, None))
    assert (computed != network).nnz == 0
