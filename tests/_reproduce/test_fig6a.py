"""Figure 6a: training with the original and with the refined network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scgraphvci import Evaluation
from scgraphvci._reproduce import FigureReport, reproduce_fig6a

MODELS = ("GraphVCI", "GraphVCI-refined", "GraphVCI-random")
NETWORKS = ["original", "refined", "random"]


@pytest.fixture(scope="module")
def fig6a(tiny) -> FigureReport:
    return reproduce_fig6a(replace(tiny, models=MODELS))


def test_one_row_per_network_and_epoch(fig6a):
    numbers = fig6a.report.numbers
    assert numbers["fig6a"][["network", "epoch"]].to_numpy().tolist() == [[n, e] for n in NETWORKS for e in (1, 2)]
    assert len(numbers["fig6a_runs"]) == len(NETWORKS) * 2 * 2
    assert fig6a.report.tables.popitem()[1].index.tolist() == NETWORKS


def test_means_and_standard_deviations_over_runs(fig6a):
    numbers = fig6a.report.numbers
    runs = numbers["fig6a_runs"]
    for row in numbers["fig6a"].itertuples():
        values = runs.query("network == @row.network and epoch == @row.epoch").set_index("seed")
        for metric in ("r2", "pearson_shift"):
            first, second = values.loc[0, metric], values.loc[1, metric]
            assert getattr(row, metric) == pytest.approx((first + second) / 2)
            assert getattr(row, f"{metric}_sd") == pytest.approx(abs(first - second) / np.sqrt(2))


def test_a_run_by_hand(tiny, fig6a):
    experiment = replace(tiny, models=("GraphVCI-refined",), n_seeds=1)
    split = next(experiment.splits())
    model, _ = experiment.fit("GraphVCI-refined", split)
    runs = fig6a.report.numbers["fig6a_runs"].query("seed == 0 and network == 'refined'")
    np.testing.assert_allclose(runs["r2"], model.history["r2_validation"].iloc[:, 0].astype(float), rtol=1e-5)
    pairs = Evaluation({"m": model}, split.adata, baselines=None, duplicates=False, truth=split.truth).pairs()
    one = reproduce_fig6a(experiment).report
    assert one.numbers["fig6a_ood"].loc["refined", "r2"] == pytest.approx(pairs["r2"].mean(), abs=1e-5)
    assert "±" not in one.tables.popitem()[1].loc["refined", "r2"]


def test_curves_and_bands_are_drawn(fig6a):
    summary = fig6a.report.numbers["fig6a"]
    for axis, metric in zip(fig6a.figure.axes, ("r2", "pearson_shift"), strict=True):
        assert [line.get_label() for line in axis.lines] == NETWORKS
        for line, band, name in zip(axis.lines, axis.collections, NETWORKS, strict=True):
            part = summary[summary["network"] == name]
            np.testing.assert_allclose(line.get_ydata(), part[metric])
            low, high = (band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max())
            assert low == pytest.approx((part[metric] - part[f"{metric}_sd"]).min())
            assert high == pytest.approx((part[metric] + part[f"{metric}_sd"]).max())
