"""Minibatches from data that are not in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi.data import AnnTorchDataset
from torch.utils.data import Dataset

from scgraphvci._constants import KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scvi.data import AnnDataManager

BUFFER_VALUES = 40_000_000  # most values of a buffer, zeros included: 160 MB where data are dense
BUFFER_CELLS = 16_384


class ScreenDataset(AnnTorchDataset):
    """scvi-tools' dataset, which returns cells of a file in the order asked for, as it does of data in memory."""

    def __getitem__(self, indexes: int | Sequence[int] | slice) -> dict[str, np.ndarray]:
        """Return cells, dense."""
        return _dense(self.rows(indexes))

    def rows(self, indexes: int | Sequence[int] | np.ndarray | slice) -> dict[str, Any]:
        """Return cells; what is sparse stays so, as CSR."""
        cells = indexes if isinstance(indexes, slice) else np.atleast_1d(indexes)
        found = {}
        for key, dtype in self.keys_and_dtypes.items():
            data = self.data[key]
            part = data.iloc[cells].to_numpy() if isinstance(data, pd.DataFrame) else data[cells]
            found[key] = part.astype(dtype, copy=False)
        return found


class BufferedCells(Dataset):
    """Minibatches of cells on disk, shuffled in buffers of chunks.

    Reading cells of a file one by one is slow. Cells are therefore cut into chunks of neighbours: 128, or those of the
    store where these are larger. In every epoch chunks are put in random order; as many as the buffer takes are read,
    at most 16,384 cells or 40 million values and at least four minibatches; and their cells are shuffled and given out
    as minibatches. So a minibatch mixes cells from all over the file, but not every set of cells is as likely. Data
    that fit in one buffer are shuffled exactly, into the minibatches the same data have in memory.

    Parameters
    ----------
    adata_manager
        Of the registered data.
    cells
        The cells to load, as indices.
    batch_size
        Cells per minibatch.
    new_generator
        Called for the generator of an epoch's order, when that is drawn.
    drop_last
        Whether to leave out a last minibatch that is smaller.

    Notes
    -----
    Serves :class:`torch.utils.data.DataLoader` as its sampler too: iteration says which cells of which buffer make the
    next minibatch.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        cells: np.ndarray,
        batch_size: int,
        new_generator: Callable[[], torch.Generator],
        drop_last: bool = False,
    ) -> None:
        self.dataset = ScreenDataset(adata_manager)
        self.cells = np.asarray(cells)
        self.batch_size = batch_size
        self.new_generator = new_generator
        self.drop_last = drop_last
        stored = self.dataset.data[KEYS.OUTCOME]
        self.chunk = stored.chunk
        n = min(BUFFER_CELLS, BUFFER_VALUES // max(1, stored.shape[1]))
        self.buffer = max(4, n // batch_size) * batch_size
        self._wanted: np.ndarray | None = None
        self._read: dict[str, Any] = {}

    def __len__(self) -> int:
        """Return the number of minibatches."""
        n = len(self.cells) / self.batch_size
        return int(n if self.drop_last else np.ceil(n))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the cells of a buffer, and the positions in it of those of the next minibatch."""
        generator = self.new_generator()
        cells = self.cells
        if len(cells) > self.buffer:
            cells = self._shuffled_chunks(generator)
        for first in range(0, len(cells), self.buffer):
            buffer = cells[first : first + self.buffer]
            order = torch.randperm(len(buffer), generator=generator).numpy()
            for start in range(0, len(buffer), self.batch_size):
                chosen = order[start : start + self.batch_size]
                if len(chosen) == self.batch_size or not self.drop_last:
                    yield buffer, chosen

    def __getitem__(self, index: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
        """Return a minibatch; its buffer is read with the first one."""
        buffer, chosen = index
        if buffer is not self._wanted:
            self._read = {}  # not two buffers at a time
            self._wanted, self._read = buffer, self.dataset.rows(buffer)
        return _dense({key: part[chosen] for key, part in self._read.items()})

    def _shuffled_chunks(self, generator: torch.Generator) -> np.ndarray:
        """Return all cells, chunk by chunk."""
        cells = np.sort(self.cells)
        chunks = np.split(cells, np.flatnonzero(np.diff(cells // self.chunk)) + 1)
        return np.concatenate([chunks[k] for k in torch.randperm(len(chunks), generator=generator)])


def _dense(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return {key: value.toarray() if sparse.issparse(value) else value for key, value in tensors.items()}
