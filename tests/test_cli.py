"""The command line."""

from __future__ import annotations

import io
import logging
import os

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from scgraphvci._demo import Size, run_demo
from scgraphvci.cli import main
from scgraphvci.datasets import truth

TINY = Size(n_cells=500, n_genes=60, n_perturbations=5, refine_epochs=3, epochs=3)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    (out / "someone else's file").write_text("kept")
    console = Console(width=120, record=True, file=io.StringIO())
    scores = run_demo(out, 0, console, TINY)
    return out, scores, console.export_text()


def test_demo_writes_what_it_says(demo):
    out, scores, _ = demo
    names = {path.name for path in out.iterdir()}
    figures = {"history.png", "held_out_shifts.png", "grn.png", "effects_volcano.png", "effects_forest.png"}
    assert names == figures | {"demo.h5ad", "scores.csv", "effects.csv", "someone else's file"}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    by_pair = pd.read_csv(out / "scores.csv")
    mean = by_pair.groupby("predictor")[list(scores.columns)].mean()
    np.testing.assert_allclose(mean.loc[scores.index], scores)


def test_demo_prints_model_and_baselines(demo):
    _, scores, text = demo
    assert scores.index.tolist() == ["GraphVCI", "context shift", "no change"]
    for value in scores.to_numpy().ravel():
        assert f"{value:.3f}" in text
    for word in ("grn_refined", "noise-free truth", "interval", "seconds"):
        assert word in text


def test_demo_data_hold_every_result(demo):
    out, _, _ = demo
    adata = ad.read_h5ad(out / "demo.h5ad")
    assert adata.shape == (500, 60)
    assert {"grn", "grn_refined", "grn_true"} <= set(adata.varp)
    assert adata.obsm["X_scgraphvci"].shape[0] == 500
    layers = [name for name in adata.layers if str(name).startswith("counterfactual_")]
    assert len(layers) == 1
    assert np.isfinite(adata.layers[layers[0]]).all()
    assert "rank_effects" in adata.uns
    assert truth(adata).counterfactual_mean("control", indices=[0]).shape == (1, 60)


def test_demo_arguments(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("scgraphvci.cli.run_demo", lambda out, seed, console: calls.append((out, seed)))
    assert main(["demo", "--out", str(tmp_path / "new" / "folder"), "--seed", "3"]) == 0
    assert calls == [(tmp_path / "new" / "folder", 3)]
    assert (tmp_path / "new" / "folder").is_dir()


def test_folder_that_cannot_be_written(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert main(["demo", "--out", str(file)]) == 2
    assert main(["demo", "--out", str(file / "below")]) == 2
    message = capsys.readouterr().err.replace("\n", " ")
    assert "cannot write to --out" in message
    assert file.read_text() == ""


@pytest.mark.skipif(os.name == "nt" or getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert main(["demo", "--out", str(folder)]) == 2


def test_bad_seed(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path), "--seed", "-1"]) == 2
    assert "--seed must be from 0" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["demo"], ["nothing"], ["demo", "--out", "x", "--seed", "one"]])
def test_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "usage: scgraphvci" in capsys.readouterr().err


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_reproduce(table, tmp_path, capsys):
    models = ["AE", "GraphVCI"] if table == "table1" else ["GraphVCI"]
    level = logging.getLogger("scgraphvci").level
    words = ["reproduce", table, "--data", "simulated", "--out", str(tmp_path / "new"), "--fast", "--max-epochs", "1"]
    assert main([*words, "--models", *models]) == 0
    details = {"table1": ["table1_conditions", "table1_differences"], "table2": ["table2_pairs"]}[table]
    files = [f"{table}.md", *(f"{name}.csv" for name in [table, *details])]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(files)
    numbers = pd.read_csv(tmp_path / "new" / f"{table}.csv", index_col=0)
    text = (tmp_path / "new" / f"{table}.md").read_text()
    printed = capsys.readouterr()
    for name in models:
        rows = [row for row in numbers.index if row.split(",")[0] == name]
        assert rows
        column = numbers.columns[0] if table == "table2" else "r2"
        for value in numbers.loc[rows, column]:
            assert f"{value:.3f}" in text
            assert f"{value:.3f}" in printed.out
    assert "held out" in printed.err
    assert logging.getLogger("scgraphvci").level == level
    assert not logging.getLogger("scgraphvci").handlers


def test_reproduce_figures(tmp_path, capsys):
    words = ["--data", "simulated", "--out", str(tmp_path), "--fast", "--max-epochs", "1"]
    assert main(["reproduce", "fig4", *words]) == 0
    files = ["fig4.csv", "fig4.md", "fig4.png", "fig4_edges.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert (tmp_path / "fig4.png").read_bytes().startswith(b"\x89PNG")
    counts = pd.read_csv(tmp_path / "fig4.csv", index_col=0)
    edges = pd.read_csv(tmp_path / "fig4_edges.csv")
    assert counts.loc["kept", "edges"] == (edges["status"] == "kept").sum()
    printed = capsys.readouterr()
    for text in ((tmp_path / "fig4.md").read_text(), printed.out):
        assert f"{counts.loc['prior', 'edges']:,}" in text
    for file in files:
        assert f"Wrote {tmp_path / file}".replace("\n", "") in printed.out.replace("\n", "")


def test_reproduce_says_what_only_the_data_show(tmp_path, capsys):
    words = ["--data", "simulated", "--out", str(tmp_path), "--fast", "--regulators", "STAT1"]
    assert main(["reproduce", "fig6b", *words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("scgraphvci reproduce: Regulators ['STAT1'] regulate nothing")
    assert not list(tmp_path.iterdir())
    assert not logging.getLogger("scgraphvci").handlers


def test_reproduce_refuses_before_it_trains(screen, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["reproduce", "table1", "--data", "simulated", "--seeds", "0", *out]) == 2
    assert main(["reproduce", "table1", "--data", str(tmp_path / "none.h5ad"), "--preset", "kang", *out]) == 2
    screen.write_h5ad(tmp_path / "screen.h5ad")
    words = ["--data", str(tmp_path / "screen.h5ad"), "--preset", "kang", "--models", "VCI", *out]
    assert main(["reproduce", "table1", *words, "--covariates", "tissue"]) == 2
    message = capsys.readouterr().err.replace("\n", " ")
    for reason in ("--seeds must be at least 1", "none.h5ad", "column 'tissue' not found in obs"):
        assert reason in message
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert main(["reproduce", "table1", "--data", "simulated", "--out", str(tmp_path / "file")]) == 2
    assert "cannot write to --out" in capsys.readouterr().err.replace("\n", " ")


def test_reproduce_says_in_one_line_what_is_wrong(screen, tmp_path, capsys):
    screen.write_h5ad(tmp_path / "screen.h5ad")
    pd.DataFrame({"from": ["gene0"], "target": ["gene1"]}).to_csv(tmp_path / "net.csv", index=False)
    words = ["--perturbation-key", "perturbation", "--control", "control", "--covariates", "cell_type"]
    words += ["--models", "VCI", "--out", str(tmp_path / "out"), "--n-hardest", "1"]
    data, known = ["--data", str(tmp_path / "screen.h5ad")], ["--held-out-category", "cell_type=NK"]
    for extra, reason in (
        ([*data, "--held-out-category", "celltype=B"], "column 'celltype' not found in obs"),
        ([*data, *known, "--grn", str(tmp_path / "net.csv")], "source"),
        ([*data, *known, "--grn", str(tmp_path / "none.csv")], "none.csv"),
        (["--data", str(tmp_path / "none.h5ad"), *known], f"No file {tmp_path / 'none.h5ad'}."),
    ):
        assert main(["reproduce", "table1", *extra, *words]) == 2
        message = capsys.readouterr().err
        assert reason in message
        assert message.startswith("scgraphvci reproduce: ")
        assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_version_and_help(capsys):
    for words in (["--version"], ["--help"], ["demo", "--help"], ["reproduce", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
    assert "--held-out-category" in capsys.readouterr().out
