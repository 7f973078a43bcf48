"""Splitting cells by the split column, or 4 : 1 at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import settings
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from scgraphvci._constants import KEYS, SPLITS
from scgraphvci.data._read import modality
from scgraphvci.data._rows import StoredRows
from scgraphvci.train._loader import BufferedCells, ScreenDataset
from scgraphvci.train._seed import mix_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scvi.data import AnnDataManager

DEFAULT_TRAIN_SIZE = 0.8  # the paper splits cells that are not held out 4 : 1


class SplitByColumn(DataSplitter):
    """scvi-tools' splitter with the split column's "train", "test" and "ood" cells in its three slots.

    Without a split column, cells are split at random, seeded by ``scvi.settings.seed`` (0 if that is unset), so that
    two trainings see the same cells. Training cells that are not in memory come in the order of
    :class:`~scgraphvci.train._loader.BufferedCells`, unless several devices share them.

    The order of training cells depends on `seed`, ``scvi.settings.seed`` if None, and the epoch alone, for one device:
    loaders with workers draw that of the first epoch before it starts, and before a resumed training knows its epoch.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._seed = (settings.seed or 0) if seed is None else seed
        self._first_epoch = 0
        if "external_indexing" not in kwargs:
            kwargs["external_indexing"] = split_indices(adata_manager, train_size, validation_size, shuffle_set_split)
        super().__init__(adata_manager, **kwargs)

    def train_dataloader(self) -> Any:
        """Return shuffled minibatches of training cells."""
        if self.data_loader_kwargs.get("distributed_sampler"):
            return super().train_dataloader()
        if isinstance(self.adata_manager.get_from_registry(KEYS.OUTCOME), StoredRows):
            batch_size = self.data_loader_kwargs.get("batch_size") or settings.batch_size
            cells = BufferedCells(self.adata_manager, self.train_idx, batch_size, self._new_generator, self.drop_last)
            return DataLoader(cells, sampler=cells, batch_size=None, pin_memory=self.pin_memory)
        loader = super().train_dataloader()
        loader.sampler.sampler = ShuffledCells(len(self.train_idx), self._new_generator)  # that of minibatches stays
        return loader

    def val_dataloader(self) -> Any:
        """Return minibatches of validation cells; none, rather than None, where there are no such cells.

        Several processes share the minibatches of one. scvi-tools' sampler would count cells twice for equal shares.
        """
        if not len(self.val_idx) or not self.data_loader_kwargs.get("distributed_sampler"):
            return super().val_dataloader() or []
        batch_size = self.data_loader_kwargs.get("batch_size") or settings.batch_size
        shared = SharedBatches(self.val_idx, batch_size)
        return DataLoader(
            ScreenDataset(self.adata_manager), sampler=shared, batch_size=None, pin_memory=self.pin_memory
        )

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, which checkpoints keep."""
        return {"epoch": self.trainer.current_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take up the epoch that comes next."""
        self._first_epoch = state_dict["epoch"] + 1

    def _new_generator(self) -> torch.Generator:
        """Return the generator of the current epoch's order of cells."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        # No process is number -1: what is drawn for cells has other seeds than their order.
        return torch.Generator().manual_seed(mix_seed(self._seed, max(epoch, self._first_epoch), -1))


class ShuffledCells(Sampler[int]):
    """Cells of an epoch in random order.

    Parameters
    ----------
    n_cells
        Number of cells.
    new_generator
        Called for the generator of an epoch's order, when that is drawn.
    """

    def __init__(self, n_cells: int, new_generator: Callable[[], torch.Generator]) -> None:
        self.n_cells = n_cells
        self.new_generator = new_generator

    def __iter__(self) -> Iterator[int]:
        """Yield positions of cells."""
        yield from torch.randperm(self.n_cells, generator=self.new_generator()).tolist()

    def __len__(self) -> int:
        """Return the number of cells."""
        return self.n_cells


class SharedBatches(DistributedSampler):
    """Minibatches of cells in their order, dealt out to processes; each takes all where there are fewer than processes.

    Of a class that Lightning takes as it is; it would share out minibatches of any other sampler a second time.

    Parameters
    ----------
    cells
        Indices of cells.
    batch_size
        Cells per minibatch.
    n_processes, rank
        Number of processes and which one this is; those of torch's process group if None.
    """

    def __init__(
        self, cells: np.ndarray, batch_size: int, n_processes: int | None = None, rank: int | None = None
    ) -> None:
        length: Any = cells  # of a dataset it wants the length alone
        super().__init__(length, n_processes, rank, shuffle=False)
        batches = np.split(cells, np.arange(batch_size, len(cells), batch_size))
        # A process without cells would have no loss, and the others would wait for it.
        self.batches = batches if len(batches) < self.num_replicas else batches[self.rank :: self.num_replicas]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the cells of each minibatch."""
        return iter(self.batches)

    def __len__(self) -> int:
        """Return the number of minibatches of this process."""
        return len(self.batches)


def split_indices(
    adata_manager: AnnDataManager,
    train_size: float | None = None,
    validation_size: float | None = None,
    shuffle: bool = True,
) -> list[np.ndarray]:
    """Return the indices of training, validation and held-out cells.

    Raises
    ------
    KeyError
        If the model was set up with a split column that its new data do not have.
    ValueError
        If sizes are given beside a split column, or are not fractions that leave cells to train on.
    """
    state = adata_manager.get_state_registry(KEYS.SPLIT)
    if state:
        if train_size is not None or validation_size is not None:
            msg = (
                f"`train_size` ({train_size}) and `validation_size` ({validation_size}) cannot be given together with "
                f"the split column {state['split_key']!r}. Leave them out, or set up without `split_key`."
            )
            raise ValueError(msg)
        column = _split_column(adata_manager)
        if column is None:
            msg = f"The split column {state['split_key']!r} is not in obs, so it is unknown which cells to train on."
            raise KeyError(msg)
        return [np.flatnonzero(column.to_numpy() == name) for name in SPLITS]
    train_size = DEFAULT_TRAIN_SIZE if train_size is None else float(train_size)
    validation_size = 1 - train_size if validation_size is None else float(validation_size)
    if not 0 < train_size <= 1 or not 0 <= validation_size <= 1 - train_size + 1e-9:
        msg = f"`train_size` ({train_size}) and `validation_size` ({validation_size}) must be fractions, of sum <= 1."
        raise ValueError(msg)
    n_obs = adata_manager.adata.n_obs
    order = np.arange(n_obs)
    if shuffle:
        order = np.random.default_rng(settings.seed or 0).permutation(n_obs)
    n_train = max(1, round(train_size * n_obs))
    n_validation = min(round(validation_size * n_obs), n_obs - n_train)
    return [
        np.sort(order[:n_train]),
        np.sort(order[n_train : n_train + n_validation]),
        np.sort(order[n_train + n_validation :]),
    ]


def not_held_out(adata_manager: AnnDataManager) -> np.ndarray:
    """Return the indices of cells that are not "ood": those an effect may be estimated from."""
    if not adata_manager.get_state_registry(KEYS.SPLIT):
        return np.arange(adata_manager.adata.n_obs)
    column = _split_column(adata_manager)
    if column is None:
        return np.arange(adata_manager.adata.n_obs)
    return np.flatnonzero(column.to_numpy() != SPLITS.OOD)


def _split_column(adata_manager: AnnDataManager) -> Any:
    """The split of every cell, or None where new data have no such column."""
    key = adata_manager.get_state_registry(KEYS.SPLIT)["split_key"]
    mod_key = next(field.mod_key for field in adata_manager.fields if field.registry_key == KEYS.SPLIT)
    obs = modality(adata_manager.adata, mod_key).obs
    return obs[key].astype(str) if key in obs else None
