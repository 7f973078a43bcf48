"""Files from strangers: they hold what they show, and do not grow out of all proportion when read.

A compressed file of a few kilobytes can fill memory, and an HDF5 file can show what lies in other files of its
reader's disk, who may then pass it on without knowing.
"""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import anndata
import h5py

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

LARGEST = 10**9
RATIO = 300
"""What is read may take `LARGEST` bytes, or `RATIO` times those of its file where these are more."""


def check_size(path: str | os.PathLike[str], size: int) -> None:
    """Raise a ValueError if what is read from a file takes far more bytes than the file."""
    on_disk = Path(path).stat().st_size
    if size > most_of(path):
        msg = (
            f"{os.fspath(path)!r} of {on_disk} bytes unfolds to {size} or more, over {RATIO} times as many. If you "
            "trust it, unpack it yourself and pass what it holds."
        )
        raise ValueError(msg)


def most_of(path: str | os.PathLike[str]) -> int:
    """Return the most bytes that may be read from a file."""
    return max(LARGEST, RATIO * Path(path).stat().st_size)


def open_gzip(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a gzip file for reading; a ValueError stops whoever reads more of it than `most_of` allows."""
    return io.BufferedReader(_Metered(path))


def open_text(path: str | os.PathLike[str]) -> io.TextIOWrapper:
    """Open a text file as UTF-8, through `open_gzip` if its name ends in .gz."""
    stream = open_gzip(path) if os.fspath(path).endswith(".gz") else Path(path).open("rb")
    return io.TextIOWrapper(stream, encoding="utf-8")


def check_stored(file: IO[bytes], path: str | os.PathLike[str]) -> None:
    """Raise a ValueError if a file, just opened, is a compressed zip archive: torch reads such and never writes any."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        size = file.seek(0, os.SEEK_END)
        if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > size:
            msg = f"{os.fspath(path)!r} is compressed, which torch's own files are not: it may unfold to any size."
            raise ValueError(msg)
    file.seek(0)


def read_h5ad(path: str | os.PathLike[str], **kwargs: Any) -> AnnData:
    """Read an .h5ad file with :func:`anndata.read_h5ad` after `check_hdf5`."""
    check_hdf5(path)
    return anndata.read_h5ad(path, **kwargs)


def read_h5mu(path: str | os.PathLike[str]) -> MuData:
    """Read an .h5mu file with :func:`mudata.read_h5mu` after `check_hdf5`."""
    import mudata

    check_hdf5(path)
    return mudata.read_h5mu(path)


def check_hdf5(path: str | os.PathLike[str]) -> None:
    """Check that all that an HDF5 file shows lies in this very file, once, and that it is no bomb.

    Raises
    ------
    OSError
        If the file is missing or no HDF5.
    ValueError
        If it holds links other than plain names, a group of several names, or an array that lies in other files; or if
        its arrays take far more bytes than the file.
    """
    size = 0
    with h5py.File(path, "r") as file:
        left, seen = [file["/"]], set()
        while left:
            group = left.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:
                raise _leads_elsewhere(path, group.name, "a group that has another name too")
            seen.add(address)
            for key in group:
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    raise _leads_elsewhere(path, f"{group.name}/{key}", "a link to another place")
                found = group[key]
                if isinstance(found, h5py.Group):
                    left.append(found)
                elif isinstance(found, h5py.Dataset):
                    if found.is_virtual or found.external:
                        raise _leads_elsewhere(path, found.name, "an array that lies in other files")
                    size += found.nbytes
    check_size(path, size)


def _leads_elsewhere(path: str | os.PathLike[str], name: str, what: str) -> ValueError:
    return ValueError(
        f"{os.fspath(path)!r}: {name!r} is {what}. No file that anndata wrote holds such. If you trust it, read it "
        "with anndata yourself and write it anew."
    )


class _Metered(io.RawIOBase):
    """Bytes of a gzip file, as many as `most_of` allows."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path, self._count, self._most = path, 0, most_of(path)
        self._stream = gzip.open(path, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(buffer)
        self._count += count
        if self._count > self._most:
            check_size(self._path, self._count)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()
