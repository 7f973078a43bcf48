"""From words to an experiment."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from scgraphvci._reproduce import RECIPES, add_options, to_experiment


def parse(*words: str):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return to_experiment(parser.parse_args(words))


OWN = ("--perturbation-key", "drug", "--control", "DMSO", "--covariates", "line", "replicate")


def test_defaults():
    experiment = parse("table1", "--data", "simulated")
    assert experiment.recipe is RECIPES["simulated"]
    assert experiment.data is None
    assert experiment.models == ("AE", "CEVAE", "GANITE", "CPA", "VCI", "GraphVCI", "GraphVCI-random")
    assert (experiment.n_seeds, experiment.epochs, experiment.protocol) == (5, None, "matched")
    assert parse("table2", "--data", "simulated").models == ("GraphVCI",)


def test_results_have_a_folder():
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert parser.parse_args(["table1", "--data", "simulated"]).out == Path("results")
    assert parser.parse_args(["table1", "--data", "simulated", "--out", "x"]).out == Path("x")


def test_fast_and_refine():
    experiment = parse("table1", "--data", "simulated", "--fast", "--refine", "--models", "AE", "GraphVCI")
    assert (experiment.n_seeds, experiment.epochs) == (1, 2)
    assert experiment.models == ("AE", "GraphVCI", "GraphVCI-refined")
    assert parse("table1", "--data", "simulated", "--fast", "--max-epochs", "7").epochs == 7


def test_preset_and_what_replaces_it():
    experiment = parse("table1", "--data", "k.h5ad", "--preset", "kang", "--grn", "n.tsv", "--control", "ctrl")
    assert experiment.data == Path("k.h5ad")
    assert experiment.network == Path("n.tsv")
    assert experiment.recipe.control == "ctrl"
    assert experiment.recipe.splits is RECIPES["kang"].splits
    other = parse("table1", "--data", "k.h5ad", "--preset", "kang", "--held-out-category", "cell_type=B")
    assert other.recipe.splits is not RECIPES["kang"].splits


def test_own_columns(screen):
    words = ("--data", "s.h5ad", "--perturbation-key", "perturbation", "--control", "control", "--covariates", "donor")
    words += ("--dose-key", "dose", "--combination-sep", "+")
    experiment = parse("table1", *words, "--held-out-category", "cell_type=NK", "donor=d1", "--n-hardest", "2")
    recipe = experiment.recipe
    assert (recipe.covariates, recipe.dose_key, recipe.combination_sep) == (("donor",), "dose", "+")
    assert list(recipe.splits(screen, recipe, 0)) == ["NK d1"]
    assert len(screen.uns["split"]["held_out"]) == 2
    assert "s.h5ad" in recipe.note


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("table1", "--data", "a.h5ad"),
            "--control, --covariates, --perturbation-key, --held-out-category must be given",
        ),
        (("table1", "--data", "a.h5ad", *OWN), "Without --preset, --held-out-category must be given"),
        (("table1", "--data", "a.h5ad", *OWN, "--held-out-category", "MCF7"), "'MCF7' must look like COLUMN=LEVEL"),
        (("table1", "--data", "simulated", "--preset", "kang"), "Simulated screens have their own columns"),
        (("table1", "--data", "simulated", "--seeds", "0"), "--seeds must be at least 1, not 0"),
        (("table1", "--data", "simulated", "--max-epochs", "-1"), "--max-epochs must be at least 1"),
        (("table2", "--data", "simulated", "--protocol", "paper"), "it goes with table1 only"),
        (("table1", "--data", "a.h5ad", "--preset", "kang", "--n-hardest", "2"), "goes with --held-out-category"),
        (("table2", "--data", "simulated", "--models", "AE"), r"\['AE'\] have no marginal effects"),
    ],
)
def test_what_does_not_go_together(words, message):
    with pytest.raises(ValueError, match=message):
        parse(*words)
