"""Figure 6b: precision and recall of refined edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scgraphvci import datasets, grn, tl
from scgraphvci._reproduce import (
    RECIPES,
    Experiment,
    FigureReport,
    Recipe,
    UsageError,
    hold_out_category,
    reproduce_fig6b,
)
from scgraphvci._reproduce._experiment import FAST_SCREEN

REGULATORS = ("G0047", "G0038")  # of the tiny screen
KEYS = {"perturbation_key": "perturbation", "categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split"}


@pytest.fixture(scope="module")
def fig6b(tiny) -> FigureReport:
    return reproduce_fig6b(replace(tiny, models=("GraphVCI-refined",), n_seeds=1, regulators=REGULATORS))


@pytest.fixture(scope="module")
def screen_and_nets():
    """The same refinement through the public functions."""
    adata = datasets.simulate(**FAST_SCREEN, seed=0)
    covariates = KEYS["categorical_covariate_keys"]
    tl.refine_grn(
        adata, split_key="split", perturbation_key="perturbation", categorical_covariate_keys=covariates, max_epochs=2,
        threshold=1e-9, enable_progress_bar=False,
    )  # fmt: skip
    return adata, grn.get_grn(adata, "grn_refined"), grn.get_grn(adata, "grn_true")


def test_scores_are_those_of_evaluate(fig6b, screen_and_nets):
    adata, refined, truth = screen_and_nets
    baselines = {"prior": "prior", "pearson": "correlation", "residual_pearson": "residual correlation"}
    expected = grn.evaluate(
        {"refined": refined}, truth, prior="grn", adata=adata, baselines=list(baselines), per_regulator=True, **KEYS
    )
    expected["predictor"] = expected["predictor"].replace(baselines)
    keys = ["predictor", "scope", "regulator"]
    found = fig6b.report.numbers["fig6b"].set_index(keys)
    assert len(found) == 4 * 3 * (1 + len(REGULATORS))
    expected = expected[expected["regulator"].isin([*REGULATORS, "all"])].set_index(keys).drop(columns="kind")
    pd.testing.assert_frame_equal(found.sort_index(), expected.sort_index(), rtol=1e-6)


def test_tables_show_these_scores(fig6b):
    scores = fig6b.report.numbers["fig6b"].set_index(["regulator", "predictor", "scope"])
    assert list(fig6b.report.tables) == [*REGULATORS, "All regulators"]
    table = fig6b.report.tables["G0047"]
    assert table.loc["refined, in the prior", "AUPRC"] == f"{scores.loc[('G0047', 'refined', 'within'), 'auprc']:.3f}"
    pooled = fig6b.report.tables["All regulators"].loc["correlation, all pairs"]
    row = scores.loc[("all", "correlation", "all")]
    assert pooled.tolist() == [
        f"{row['n_candidates']:.0f}", f"{row['n_true']:.0f}",
        *(f"{row[name]:.3f}" for name in ("auprc", "auprc_ratio", "early_precision", "auroc")),
    ]  # fmt: skip


def test_curves_are_those_of_the_networks(fig6b, screen_and_nets):
    adata, refined, truth = screen_and_nets
    curves = fig6b.report.numbers["fig6b_curves"]
    expected = grn.precision_recall({"refined": refined}, truth, genes=adata.var_names, per_regulator=True)
    for name in (*REGULATORS, "all"):
        found = curves.query("predictor == 'refined' and regulator == @name")
        own = expected[expected["regulator"] == name]
        np.testing.assert_allclose(found[["recall", "precision"]], own[["recall", "precision"]], rtol=1e-6)
    assert [ax.get_title() for ax in fig6b.figure.axes] == [*REGULATORS, "all regulators"]
    labels = [line.get_label() for line in fig6b.figure.axes[-1].lines[:8:2]]  # every second one is dotted
    assert labels == ["refined", "prior", "correlation", "residual correlation"]


def test_files(fig6b, tmp_path):
    names = [path.name for path in fig6b.write(tmp_path, "fig6b")]
    assert names == ["fig6b.png", "fig6b.md", "fig6b.csv", "fig6b_curves.csv"]
    assert (tmp_path / "fig6b.png").read_bytes().startswith(b"\x89PNG")
    assert "8 of them have edges in the prior" in (tmp_path / "fig6b.md").read_text()


@pytest.fixture
def on_file(screen, tmp_path) -> Experiment:
    """A file, and a table of true edges."""
    screen.write_h5ad(tmp_path / "screen.h5ad")
    genes = screen.var_names.tolist()
    rows = [(genes[0], genes[1]), (genes[0], genes[2]), (genes[0], genes[2]), ("X", "Y"), (genes[0], None)]
    table = pd.DataFrame(rows, columns=["source", "target"]).assign(set="s")
    table.to_csv(tmp_path / "truth.tsv.gz", sep="\t", index=False)
    recipe = Recipe("perturbation", "control", ("cell_type",), hold_out_category({"cell_type": "NK"}, 1))
    return Experiment(
        recipe, tmp_path / "screen.h5ad", models=("GraphVCI-refined",), n_seeds=1, max_epochs=1,
        true_network=tmp_path / "truth.tsv.gz", regulators=(genes[0],),
    )  # fmt: skip


def test_truth_from_a_table(on_file, screen):
    gene = str(screen.var_names[0])
    experiment = replace(on_file, regulators=("X", gene))
    experiment.check()
    report = reproduce_fig6b(experiment).report
    rows = report.numbers["fig6b"].query("scope == 'all' and regulator == @gene")
    assert (rows["n_true"] == 2).all()
    assert (rows["n_candidates"] == screen.n_vars - 1).all()
    assert list(report.tables) == [gene, "All regulators"]
    assert "Truth: truth.tsv.gz" in " ".join(report.notes)
    assert "Not shown, for they have no true edge to a gene of the data: X." in report.notes


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"regulators": ("X",)}, UsageError, r"\['X'\] have no true edge to a gene of the data.*most: \['gene0'\]"),
        ({"regulators": ("gene0", "Z")}, UsageError, r"Regulators \['Z'\] regulate nothing"),
        ({"true_network": Path("none.csv")}, FileNotFoundError, "No file none.csv"),
    ],
)
def test_check_finds(on_file, change, error, message):
    with pytest.raises(error, match=message):
        replace(on_file, **change).check()


def test_check_reads_the_truth(on_file, screen, tmp_path):
    for frame, error, message in (
        (pd.DataFrame({"TF": ["gene0"], "target": ["gene1"]}), KeyError, r"`truth.csv` has no column \['source'\]"),
        (pd.DataFrame({"source": ["a"], "target": ["b"]}), UsageError, "No true edge joins two genes"),
    ):
        frame.to_csv(tmp_path / "truth.csv", index=False)
        with pytest.raises(error, match=message):
            replace(on_file, true_network=tmp_path / "truth.csv").check()
    del screen.varp["grn"]
    screen.write_h5ad(tmp_path / "bare.h5ad")
    with pytest.raises(ValueError, match=r"varp\['grn'\] holds none. Give one with --grn"):
        replace(on_file, data=tmp_path / "bare.h5ad").check()


def test_regulators_stay_among_variable_genes(make_screen, tmp_path):
    screen = make_screen(n_cells=100, n_genes=1600)
    screen.X = screen.layers["counts"].copy()
    screen.write_h5ad(tmp_path / "screen.h5ad")
    chosen = set(RECIPES["kang"].prepare(screen.copy()).var_names)
    left_out = sorted(set(screen.var_names) - chosen)[:2]
    truth = pd.DataFrame({"source": left_out, "target": sorted(chosen)[:2]})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    recipe = replace(RECIPES["kang"], splits=hold_out_category({"cell_type": "NK"}, 1))
    experiment = Experiment(recipe, tmp_path / "screen.h5ad", models=(), n_seeds=1)
    with_truth = replace(experiment, true_network=tmp_path / "truth.csv")
    assert set(next(experiment.splits()).adata.var_names) == chosen
    assert set(next(with_truth.splits()).adata.var_names) == chosen | set(left_out)
