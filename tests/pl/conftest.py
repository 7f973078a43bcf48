"""Figures are drawn off screen and closed after each test."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def closed_figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings = plt.rcParams.copy()
    backend = plt.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)
    changed = [key for key in settings if key != "backend" and plt.rcParams[key] != settings[key]]
    assert changed == [], "a plot changed global settings"
