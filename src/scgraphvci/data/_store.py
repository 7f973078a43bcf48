"""Predictions written to files batch by batch."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import zarr
from anndata.io import read_elem, write_elem

from scgraphvci.data._rows import runs

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE_CHUNK = 262_144  # values of a chunk: 1 MB
ENCODING = {"encoding-type": "array", "encoding-version": "0.2.0"}


def checked_store(path: str | Path) -> Path:
    """Return the path of a store that is to be made.

    Raises
    ------
    ValueError
        If it ends neither in .h5ad nor in .zarr.
    FileExistsError
        If there is something at it.
    """
    store = Path(path)
    if store.suffix not in (".h5ad", ".zarr"):
        msg = f"`store` is {str(path)!r}. Give a path that ends in '.h5ad' or '.zarr'."
        raise ValueError(msg)
    if store.exists():
        msg = f"`store` {str(path)!r} exists already. Remove it, or choose another path."
        raise FileExistsError(msg)
    return store


@contextmanager
def new_store(path: Path, annotation: ad.AnnData) -> Iterator[Any]:
    """Write an AnnData without expression to a new store, and yield the array of its `X` to be filled.

    Parameters
    ----------
    path
        An .h5ad file or a .zarr folder that does not exist. It is removed if an error occurs.
    annotation
        All but `X`, which is float32, cells x genes.
    """
    try:
        if path.suffix == ".h5ad":
            annotation.write_h5ad(path)
            with h5py.File(path, "r+") as file:
                yield _new_array(file, "X", annotation.shape)
        else:
            annotation.write_zarr(path)
            # anndata wrote a list of all arrays, which hides those made after it until it is written anew.
            yield _new_array(zarr.open_group(path, mode="r+", use_consolidated=False), "X", annotation.shape)
            zarr.consolidate_metadata(path)
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        raise


def open_store(path: Path) -> ad.AnnData:
    """Return the AnnData of a store, its expression still there."""
    if path.suffix == ".h5ad":
        return ad.read_h5ad(path, backed="r")
    group = zarr.open_group(path, mode="r")
    parts = {key: read_elem(group[key]) for key in ("obs", "var", "uns")}
    return ad.AnnData(X=group["X"], **parts)


@contextmanager
def new_layers(adata: ad.AnnData, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield new layers in the file of a backed AnnData, full of NaN, to be filled; old ones of these names go.

    They are removed if an error occurs, and given to `layers` otherwise, without being read.

    Raises
    ------
    ValueError
        If the file was opened for reading only.
    """
    file = adata.file["obs"].file
    if file.mode == "r":
        msg = (
            "The data are backed by a file that was opened for reading only. Open it with "
            "`anndata.read_h5ad(path, backed='r+')`, use `predict(store=path)`, or load the data with "
            "`adata.to_memory()`."
        )
        raise ValueError(msg)
    if "layers" not in file:
        write_elem(file, "layers", {})
    group = file["layers"]
    try:
        layers = {name: _new_array(group, name, adata.shape) for name in names}
        yield layers
    except BaseException:
        for name in names:
            if name in group:
                del group[name]
        raise
    for name, layer in layers.items():
        adata.layers[name] = layer


def write_uns(adata: ad.AnnData, key: str, value: Any) -> None:
    """Set an entry of `uns`, in the file too."""
    adata.uns[key] = value
    file = adata.file["obs"].file
    if "uns" not in file:
        write_elem(file, "uns", {})
    write_elem(file["uns"], key, value)


def write_rows(target: Any, rows: np.ndarray, values: np.ndarray) -> None:
    """Write rows in ascending order to an array in memory or in a store."""
    if isinstance(target, np.ndarray):
        target[rows] = values
        return
    done = 0
    for run in runs(rows, gap=1):
        target[int(run[0]) : int(run[-1]) + 1] = values[done : done + len(run)]
        done += len(run)


def _new_array(group: Any, name: str, shape: tuple[int, int]) -> Any:
    """Make an array of NaN as anndata stores one."""
    if name in group:
        del group[name]
    chunks = (max(1, min(shape[0], STORE_CHUNK // max(1, shape[1]))), shape[1])
    options = {"shape": shape, "dtype": "float32", "chunks": chunks}
    if isinstance(group, h5py.Group):
        array = group.create_dataset(name, fillvalue=np.nan, **options)
    else:
        array = group.create_array(name, fill_value=np.nan, **options)
    array.attrs.update(ENCODING)
    return array
