"""Tiny experiments that the tests share."""

from __future__ import annotations

import pytest

from scgraphvci._reproduce import RECIPES, Experiment, Report, reproduce_table1


@pytest.fixture(scope="session")
def tiny() -> Experiment:
    """Two models on two tiny simulated screens."""
    return Experiment(RECIPES["simulated"], None, models=("AE", "GraphVCI"), n_seeds=2, fast=True)


@pytest.fixture(scope="session")
def table1(tiny: Experiment) -> Report:
    """Table 1 of the tiny experiment."""
    return reproduce_table1(tiny)
