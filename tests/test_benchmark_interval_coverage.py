"""The coverage benchmark on a few replicates."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    name = "coverage_of_effects"  # `coverage` is another package
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / "interval_coverage.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_cross_fitting_covers_where_a_memorising_predictor_does_not(coverage):
    seen, unseen = coverage.memorising(0, 60), coverage.memorising(5, 60)
    assert seen["pointwise"] < 0.85
    assert seen["error_stated_over_true"] < 0.8
    assert seen["p_fitted_below_.05"] > 0.1
    assert 0.93 <= unseen["pointwise"] <= 0.97
    assert unseen["joint"] >= 0.85
    assert 0.9 <= unseen["error_stated_over_true"] <= 1.1


def test_intervals_of_counts_cover_where_they_are_given(coverage):
    row = coverage.coverage(coverage.Setting(200, 0.3, counts=True), 150, "observed")
    assert 0 < row["genes"] < coverage.N_GENES
    assert 0.93 <= row["pointwise"] <= 0.97
