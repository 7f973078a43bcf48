"""Means over runs, as numbers and as text."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from rich.console import Console

from scgraphvci._reproduce._tables import Report, as_text, mean_and_sd, over_runs, to_markdown


def runs() -> pd.DataFrame:
    return pd.DataFrame(
        {"predictor": ["b", "a", "b", "a"], "r2": [0.5, 0.25, 0.7, 0.75], "mmd": [np.nan, 1.0, np.nan, 3.0]}
    )


def test_mean_and_standard_deviation_over_runs():
    mean, sd = over_runs(runs(), "predictor", ["r2", "mmd"])
    assert mean.index.tolist() == ["b", "a"]
    np.testing.assert_allclose(mean["r2"], [0.6, 0.5])
    np.testing.assert_allclose(sd["r2"], [np.std([0.5, 0.7], ddof=1), np.std([0.25, 0.75], ddof=1)])
    both = mean_and_sd(mean, sd)
    assert both.columns.tolist() == ["r2", "r2_sd", "mmd", "mmd_sd"]
    text = as_text(mean, sd, ["r2", "mmd"])
    assert text.loc["a"].tolist() == ["0.500 ± 0.354", "2.000 ± 1.414"]
    assert text.loc["b"].tolist() == ["0.600 ± 0.141", "n/a"]


def test_one_run_has_no_standard_deviation():
    mean, sd = over_runs(runs().iloc[:2], "predictor", ["r2"])
    assert as_text(mean, sd, ["r2"])["r2"].tolist() == ["0.500", "0.250"]


def test_markdown_and_files(tmp_path):
    table = pd.DataFrame({"r2": ["0.5"], "n": ["3"]}, index=pd.Index(["mine"], name="predictor"))
    assert to_markdown(table) == "| predictor | r2 | n |\n| --- | --- | --- |\n| mine | 0.5 | 3 |"
    numbers = pd.DataFrame({"r2": [0.5]}, index=pd.Index(["mine"], name="predictor"))
    report = Report("A title", {"A heading": table}, ["A note."], {"t": numbers, "t_rows": numbers.reset_index()})
    paths = report.write(tmp_path, "t")
    assert [path.name for path in paths] == ["t.md", "t.csv", "t_rows.csv"]
    assert paths[0].read_text() == f"# A title\n\n## A heading\n\n{to_markdown(table)}\n\nA note.\n"
    for path in paths[1:]:
        pd.testing.assert_frame_equal(pd.read_csv(path), numbers.reset_index())
    console = Console(width=100, record=True, file=io.StringIO())
    report.print(console)
    printed = console.export_text()
    for word in ("A title", "A heading", "predictor", "mine", "0.5", "A note."):
        assert word in printed


def test_a_table_wider_than_the_console_is_markdown():
    columns = [f"long name of metric {i}" for i in range(8)]
    table = pd.DataFrame([["0.500 ± 0.354"] * 8], index=pd.Index(["mine"], name="predictor"), columns=columns)
    report = Report("A title", {"A heading": table}, [], {})
    for width, is_markdown in ((80, True), (400, False)):
        console = Console(width=width, record=True, file=io.StringIO())
        report.print(console)
        printed = console.export_text()
        assert (to_markdown(table) in printed) == is_markdown
        assert "0.500 ± 0.354" in printed
        assert "A heading" in printed
