"""The properties of this folder on many more examples; about ten to twenty minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_long_run():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--show-capture=no", str(Path(__file__).parent)],
        env={**os.environ, "HYPOTHESIS_PROFILE": "long"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:]
