from __future__ import annotations

import itertools

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from scvi.data import AnnDataManager
from torch.utils.data import DataLoader

from scgraphvci._constants import KEYS
from scgraphvci.data import OutcomeField
from scgraphvci.data._rows import StoredRows
from scgraphvci.model._setup import ScreenManager
from scgraphvci.train import SplitByColumn, _loader
from scgraphvci.train._loader import BufferedCells, ScreenDataset

N = 700


@pytest.fixture
def manager(tmp_path):
    """Cells of a file whose first gene is their number."""
    values = np.zeros((N, 3), dtype=np.float32)
    values[:, 0] = np.arange(N)
    ad.AnnData(sparse.csr_matrix(values)).write_h5ad(tmp_path / "a.h5ad")
    manager = ScreenManager(fields=[OutcomeField(None)], setup_method_args={})
    manager.register_fields(ad.read_h5ad(tmp_path / "a.h5ad", backed="r"))
    yield manager
    manager.adata.file.close()


def loaded(manager, cells, drop_last=False, first_seed=0):
    """Minibatches of 32; the seeds of epochs are `first_seed` and those that follow it."""
    seeds = itertools.count(first_seed)
    cells = BufferedCells(manager, cells, 32, lambda: torch.Generator().manual_seed(next(seeds)), drop_last)
    return DataLoader(cells, sampler=cells, batch_size=None)


def numbers(batches):
    return [batch["X"][:, 0].numpy().astype(int) for batch in batches]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("buffer_cells", [1, 256, 10_000])
def test_an_epoch_gives_every_cell_once(manager, monkeypatch, buffer_cells, drop_last):
    monkeypatch.setattr(_loader, "BUFFER_CELLS", buffer_cells)
    cells = np.setdiff1d(np.arange(N), [3, 77, 500])
    batches = loaded(manager, cells, drop_last)
    found = numbers(batches)
    assert len(found) == len(batches) == (21 if drop_last else 22)
    assert {len(batch) for batch in found[:21]} == {32}
    every = np.concatenate(found)
    assert len(set(every)) == len(every)
    assert set(every) <= set(cells)
    assert drop_last or len(every) == len(cells)
    assert not np.array_equal(every, np.concatenate(numbers(batches)))


def test_a_buffer_holds_few_chunks_and_mixes_them(manager, monkeypatch):
    monkeypatch.setattr(_loader, "BUFFER_CELLS", 256)
    found = np.concatenate(numbers(loaded(manager, np.arange(N))))
    buffers = [found[start : start + 256] for start in range(0, N, 256)]
    assert all(len(set(buffer // 128)) <= 4 for buffer in buffers)  # two whole chunks, or parts of more
    assert all(len(set(found[start : start + 32] // 128)) >= 2 for start in range(0, 512, 32))
    assert np.abs(np.diff(found)).mean() > 50  # 1 if cells came in the order of the file


def test_no_read_is_larger_than_the_buffer(manager, monkeypatch):
    monkeypatch.setattr(_loader, "BUFFER_CELLS", 128)
    read = []
    original = StoredRows.__getitem__
    monkeypatch.setattr(StoredRows, "__getitem__", lambda self, key: read.append(len(key)) or original(self, key))
    numbers(loaded(manager, np.arange(N)))
    assert read == [128] * 5 + [60]


def test_the_seed_decides_the_order(manager):
    orders = [np.concatenate(numbers(loaded(manager, np.arange(N), first_seed=seed))) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_what_fits_in_the_buffer_comes_as_from_memory(manager):
    in_memory = AnnDataManager(fields=[OutcomeField(None)], setup_method_args={})
    in_memory.register_fields(manager.adata.to_memory())
    cells = np.arange(0, N, 2)
    orders = []
    for data in (manager, in_memory):
        splitter = SplitByColumn(data, external_indexing=[cells, cells + 1, np.array([], dtype=int)], batch_size=32)
        splitter.setup()
        orders.append(numbers(splitter.train_dataloader()))
    for stored, expected in zip(*orders, strict=True):
        np.testing.assert_array_equal(stored, expected)


def test_several_devices_share_cells_through_scvi_tools(manager):
    none = np.array([], dtype=int)
    indexing = [np.arange(N), none, none]
    splitter = SplitByColumn(manager, external_indexing=indexing, batch_size=32, distributed_sampler=False)
    splitter.setup()
    assert isinstance(splitter.train_dataloader().dataset, BufferedCells)
    splitter.data_loader_kwargs["distributed_sampler"] = True
    with pytest.raises(ValueError, match="process group"):  # of torch's distributed sampler
        splitter.train_dataloader()


def test_cells_of_a_file_come_in_the_order_asked_for(manager):
    dataset = manager.create_torch_dataset()
    assert isinstance(dataset, ScreenDataset)
    wanted = [600, 3, 50, 3]
    np.testing.assert_array_equal(dataset[wanted][KEYS.OUTCOME][:, 0], wanted)
    np.testing.assert_array_equal(dataset[5][KEYS.OUTCOME][:, 0], [5])
    np.testing.assert_array_equal(dataset[slice(5, 9)][KEYS.OUTCOME][:, 0], range(5, 9))
    np.testing.assert_array_equal(manager.create_torch_dataset(indices=[9, 8, 7])[[2, 0]][KEYS.OUTCOME][:, 0], [7, 9])
    assert dataset[wanted][KEYS.OUTCOME].dtype == np.float32
