"""Where real data are, if anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder() -> Path:
    """Folder with the data, from the environment; without it, tests are skipped."""
    name = os.environ.get("SCGRAPHVCI_REAL_DATA")
    if not name:
        pytest.skip("SCGRAPHVCI_REAL_DATA is not set: it names the folder with real data")
    path = Path(name)
    assert path.is_dir(), f"SCGRAPHVCI_REAL_DATA names {path}, which is not a folder"
    return path
