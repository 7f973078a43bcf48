"""The presets of `scgraphvci reproduce` whose files are at hand, two epochs each."""

from __future__ import annotations

from pathlib import Path

import pytest

from scgraphvci._reproduce import RECIPES, Experiment, reproduce_table1, reproduce_table2

pytestmark = pytest.mark.real_data

FILES = {
    "kang": "kang18_merged_counts.h5ad",
    "schraivogel": "schraivogel20_k562_72genes.h5ad",
    "perturbench": "perturbench_devel_500genes.h5ad",
}
N_CONDITIONS = {"kang": 1, "schraivogel": 7, "perturbench": 7}  # of the first split


def experiment(folder: Path, preset: str, *models: str) -> Experiment:
    network = folder / "promoter_motif_human.tsv.gz" if "GraphVCI" in models else None
    return Experiment(RECIPES[preset], folder / FILES[preset], network, models, n_seeds=1, fast=True)


@pytest.mark.parametrize("preset", list(FILES))
def test_table1(folder, preset):
    tiny = experiment(folder, preset, "VCI")
    tiny.check()
    numbers = reproduce_table1(tiny).numbers
    conditions = numbers["table1_conditions"]
    assert (conditions["predictor"] == "VCI").sum() == N_CONDITIONS[preset]
    table = numbers["table1"]
    assert table.loc["technical duplicate", "r2"] > table.loc["no change", "r2"]
    # Combinations that no other line received are beyond the context shift.
    assert table.loc["additive", "pearson_shift"] > table.loc["no change", "pearson_shift"]


def test_network_of_motifs(folder):
    table = reproduce_table1(experiment(folder, "kang", "GraphVCI")).numbers["table1"]
    assert table.loc["GraphVCI", "r2"] > 0.5


def test_table2(folder):
    table = reproduce_table2(experiment(folder, "schraivogel", "VCI")).numbers["table2"]
    assert (table["r2 observed"] > 0.99).all()
    assert table["r2 observed"].nunique() == 1
