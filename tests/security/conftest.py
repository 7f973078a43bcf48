"""`forge`, which rewrites a saved model as an attacker would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from scgraphvci import _archive


def _forge(
    path: Path,
    edit_contents: Callable[[Any], Any] = lambda contents: None,
    edit_tensors: Callable[[Any], Any] = lambda tensors: None,
) -> None:
    """Edit the text and the tensors of a saved model in place, checksum included."""
    with safe_open(path, framework="pt") as file:
        text = file.metadata()["scgraphvci"]
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    contents = json.loads(text)
    edit_contents(contents)
    edit_tensors(tensors)
    archive = _archive.Archive(json.dumps(contents), tensors)
    save_file(tensors, path, metadata={"scgraphvci": archive.text, "sha256": _archive._checksum(archive)})


@pytest.fixture
def forge() -> Callable[..., None]:
    return _forge
