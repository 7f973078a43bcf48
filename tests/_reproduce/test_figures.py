"""Options of the figures."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from scgraphvci._reproduce import add_options, to_experiment
from scgraphvci._reproduce._figures import first_split


def parse(*words: str):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return to_experiment(parser.parse_args(words))


@pytest.mark.parametrize(
    ("figure", "models", "n_seeds"),
    [
        ("fig4", ("GraphVCI-refined",), 1),
        ("fig5", ("GraphVCI",), 1),
        ("fig6a", ("GraphVCI", "GraphVCI-refined", "GraphVCI-random"), 5),
        ("fig6b", ("GraphVCI-refined",), 1),
    ],
)
def test_defaults(figure, models, n_seeds):
    experiment = parse(figure, "--data", "simulated")
    assert (experiment.models, experiment.n_seeds, experiment.true_network) == (models, n_seeds, None)
    assert parse(figure, "--data", "simulated", "--fast").epochs == 2


def test_truth_and_regulators():
    words = ("--data", "k.h5ad", "--preset", "kang", "--truth", "t.tsv.gz", "--regulators", "STAT1", "IRF1")
    experiment = parse("fig6b", *words)
    assert experiment.true_network == Path("t.tsv.gz")
    assert experiment.regulators == ("STAT1", "IRF1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fig6b", "--data", "a.h5ad", "--preset", "kang"), "fig6b needs --truth FILE"),
        (
            ("fig4", "--data", "a.h5ad", "--preset", "kang", "--truth", "t.csv"),
            "--truth goes with fig6b, not with fig4",
        ),
        (("table1", "--data", "simulated", "--regulators", "A"), "--regulators goes with fig6b, not with table1"),
        (("fig6a", "--data", "simulated", "--models", "AE"), "--models goes with table1, table2, fig5, not with fig6a"),
        (("fig5", "--data", "simulated", "--models", "AE", "VCI"), "fig5 is drawn for one model, and --models names 2"),
        (("fig4", "--data", "simulated", "--treatments", "A"), "--treatments goes with fig5, not with fig4"),
        (("table1", "--data", "simulated", "--genes", "A"), "--genes goes with fig5, not with table1"),
        (("fig6a", "--data", "simulated", "--refine"), "--refine goes with table1, table2, not with fig6a"),
        (("fig4", "--data", "simulated", "--seeds", "3"), "--seeds goes with table1, table2, fig6a, not with fig4"),
        (("fig6a", "--data", "simulated", "--protocol", "paper"), "it goes with table1 only"),
        (("fig6b", "--data", "simulated", "--truth", "t.csv"), "Simulated screens have their own columns"),
    ],
)
def test_what_does_not_go_together(words, message):
    with pytest.raises(ValueError, match=message):
        parse(*words)


def test_the_first_split_is_not_refined_yet(tiny):
    split = first_split(parse("fig4", "--data", "simulated", "--fast"))
    assert (split.seed, split.name) == (0, "as given")
    assert "grn_refined" not in split.adata.varp
    assert split.adata.n_obs == next(tiny.splits()).adata.n_obs
