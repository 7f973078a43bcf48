"""One file for a whole model: tensors as safetensors, everything else as JSON in the header of that same file.

One file cannot be half of one model and half of another, and replacing it is a single atomic step. Neither format can
hold code, so a file from a stranger can at worst be refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from scgraphvci._codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"

_CONTENTS, _CHECKSUM = "scgraphvci", "sha256"
_WEIGHT, _ARRAY = "module.", "array."
_LARGEST_TEXT = 90_000_000  # safetensors refuses headers beyond 100 MB; the rest is for names and shapes


class Archive(NamedTuple):
    """A model as it lies in a file: JSON text and named tensors."""

    text: str
    tensors: dict[str, torch.Tensor]


def pack(contents: dict[str, Any], weights: Mapping[str, Any]) -> Archive:
    """Turn plain data and a state dict into an archive; nothing is written.

    Raises
    ------
    TypeError
        If a value is not plain data, or a weight not a dense tensor; the message names it.
    ValueError
        If the JSON is larger than a header can be.
    """
    for name, weight in weights.items():
        if not isinstance(weight, torch.Tensor) or weight.layout is not torch.strided:
            msg = f"Cannot save `module.state_dict()[{name!r}]`: {type(weight).__qualname__} is not a dense tensor."
            raise TypeError(msg)
    arrays: dict[str, torch.Tensor] = {}
    encoded = {name: encode(value, arrays, name) for name, value in contents.items()}
    text = json.dumps({"format_version": FORMAT_VERSION, **encoded}, allow_nan=False)
    size = len(json.dumps(text))  # as it will be in the header, where its quotes are escaped
    if size > _LARGEST_TEXT:
        msg = (
            f"The model's attributes and registry take {size} bytes without their numeric arrays: too large to save "
            f"(the limit is {_LARGEST_TEXT}). Keep long lists of numbers as arrays, or pass `legacy=True`."
        )
        raise ValueError(msg)
    tensors = {f"{_WEIGHT}{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"{_ARRAY}{name}": tensor for name, tensor in arrays.items()}
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    return Archive(text, {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()})


def write(archive: Archive, path: Path) -> None:
    """Write an archive to `path`.

    Raises
    ------
    OSError
        If the system refuses, as on a full disk.
    """
    try:
        save_file(archive.tensors, path, metadata={_CONTENTS: archive.text, _CHECKSUM: _checksum(archive)})
    except SafetensorError as error:
        msg = f"{path} could not be written ({error}). Make room or name another directory; older files are untouched."
        raise OSError(msg) from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return contents and state dict of a file written by `write`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, corrupted, of another kind, or of a newer format.
    """
    archive = _read_archive(path)
    try:
        contents = json.loads(archive.text)
        version = contents.pop("format_version")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _corrupted(path, error) from error
    if type(version) is not int or version > FORMAT_VERSION:
        msg = (
            f"{path} has format version {version!r}; this version of scgraphvci reads up to {FORMAT_VERSION}. "
            "Update scgraphvci to load it."
        )
        raise ValueError(msg)
    arrays = {name.removeprefix(_ARRAY): t for name, t in archive.tensors.items() if name.startswith(_ARRAY)}
    weights = {name.removeprefix(_WEIGHT): t for name, t in archive.tensors.items() if name.startswith(_WEIGHT)}
    try:
        return {name: decode(value, arrays) for name, value in contents.items()}, weights
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _corrupted(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, which takes the place of `path` only once it is complete and on disk."""
    temporary = path.with_name(f".{uuid4().hex}.{path.name}")
    temporary.touch()
    permissions = temporary.stat().st_mode  # those of any new file here, which safetensors would narrow to its owner
    try:
        yield temporary
        temporary.chmod(permissions)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_archive(path: Path) -> Archive:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned, so that nothing keeps the file mapped and a later save may replace it on any system.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except SafetensorError as error:
        raise _corrupted(path, error) from error
    if _CONTENTS not in metadata:
        msg = f"{path} is a safetensors file, but was not saved by a model of scgraphvci."
        raise ValueError(msg)
    archive = Archive(metadata[_CONTENTS], tensors)
    if metadata.get(_CHECKSUM) != _checksum(archive):
        raise _corrupted(path, "its checksum does not match")
    return archive


def _checksum(archive: Archive) -> str:
    """SHA-256 of text and tensors: finds damage, and is no protection against intent."""
    digest = hashlib.sha256(archive.text.encode())
    for name in sorted(archive.tensors):
        digest.update(name.encode())
        digest.update(archive.tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _corrupted(path: Path, reason: Exception | str) -> ValueError:
    return ValueError(
        f"{path} is not a readable model file: truncated, corrupted or of another kind ({reason}). Take a "
        "copy of it, or save the model again."
    )
