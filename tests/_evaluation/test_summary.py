"""Summaries, calibration and headline of scores that are given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scgraphvci._evaluation._bootstrap import mean_and_interval
from scgraphvci._evaluation._scores import COLUMNS
from scgraphvci._evaluation._summary import SUMMARY, ScoreTable

KINDS = {
    "mine": "model",
    "no change": "baseline",
    "train mean": "baseline",
    "stratum mean": "baseline",
    "control level": "baseline",
    "context shift": "baseline",
    "additive": "baseline",
    "ridge pca": "baseline",
    "technical duplicate": "duplicate",
    "interpolated duplicate": "duplicate",
}


def make_table(kinds=KINDS, n=12, **scores):
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"treatment": [f"t{i}" for i in range(n)], "dose": "", "n_cells": range(n)})
    labels["thin"] = np.arange(n) < 3
    labels["unseen"] = np.arange(n) < 2
    frames = {}
    for name in kinds:
        frame = pd.DataFrame(np.nan, index=range(n), columns=list(COLUMNS))
        for metric, level in scores.items():
            if name in level:
                frame[metric] = level[name] + rng.normal(0, 0.05, n)
        frames[name] = frame
    return ScoreTable(labels, frames, kinds, 300, 1)


LEVELS = {
    "weighted_r2": {"mine": 0.8, "no change": 0.1, "train mean": 0.0, "context shift": 0.6, "technical duplicate": 0.9,
                    "interpolated duplicate": 0.7},
    "weighted_mse": {"mine": 0.3, "no change": 1.0, "train mean": 2.0, "context shift": 0.6, "technical duplicate": 0.4,
                     "interpolated duplicate": 0.2},
    "pearson_perturbed": {"mine": 0.3, "no change": 0.5, "train mean": 0.4, "context shift": 0.6,
                          "technical duplicate": 0.55, "interpolated duplicate": 0.5},
}  # fmt: skip


def test_differences_are_paired_and_positive_where_better():
    table = make_table(**LEVELS)
    summary = table.summary()
    for metric, sign in (("weighted_r2", 1), ("weighted_mse", -1), ("pearson_perturbed", 1)):
        mine, best = table.values("mine", metric), table.values("context shift", metric)
        expected = mean_and_interval(sign * (mine - best), table.resamples)
        columns = [(metric, name) for name in ("difference", "difference_low", "difference_high")]
        np.testing.assert_allclose(summary.loc["mine", columns].astype(float), expected)
        assert summary.loc["context shift", (metric, "difference")] == 0
        np.testing.assert_allclose(summary.loc["mine", (metric, "mean")], mine.mean())
    assert summary.loc["mine", ("weighted_r2", "difference_low")] > 0
    assert summary.loc["mine", ("weighted_mse", "difference_low")] > 0
    assert summary.loc["mine", ("pearson_perturbed", "difference_high")] < 0
    assert summary["size"].loc["mine"].tolist() == [12, 66, 3]
    assert summary.loc["mine", ("r2", "n")] == 0


def test_nothing_is_better_or_worse_without_baselines_or_direction():
    table = make_table({"mine": "model"}, weighted_r2={"mine": 0.5}, variance_ratio={"mine": 1.0})
    assert np.isnan(table.summary().loc["mine", ("weighted_r2", "difference")])
    both = make_table(variance_ratio={"mine": 1.0, "no change": 0.5})
    assert np.isnan(both.summary().loc["mine", ("variance_ratio", "difference")])
    with pytest.raises(ValueError, match="No headline without all simple baselines"):
        table.headline()


def test_no_headline_while_a_baseline_is_missing():
    kinds = {name: kind for name, kind in KINDS.items() if name not in ("context shift", "ridge pca")}
    with pytest.raises(ValueError, match=r"\['context shift', 'ridge pca'\] are missing"):
        make_table(kinds, **LEVELS).headline()


@pytest.mark.parametrize("name", ["no change", "train mean", "stratum mean", "control level"])
def test_every_negative_control_counts(name):
    levels = {
        "technical duplicate": 0.9,
        "no change": 0.1,
        "train mean": 0.1,
        "stratum mean": 0.1,
        "control level": 0.1,
    }
    table = make_table(weighted_r2={**levels, name: 0.7})
    assert table.calibration().loc["weighted_r2", "negative"] == name


def test_the_dynamic_range_stands_in_the_summary():
    table = make_table(**LEVELS)
    summary = table.summary()
    assert list(summary["weighted_r2"].columns) == [*SUMMARY, "drf"]
    drf = table.calibration().loc["weighted_r2", "drf"]
    np.testing.assert_allclose(summary["weighted_r2", "drf"].astype(float), drf)
    assert "drf" not in make_table({"mine": "model"}, weighted_r2={"mine": 0.5}).summary()["weighted_r2"]


def test_treatments_are_resampled_where_there_are_ten():
    table = make_table(n=20, **LEVELS)
    np.testing.assert_array_equal(np.unique(table.resamples.cluster), np.arange(20))
    table.labels["treatment"] = [f"t{i // 2}" for i in range(20)]
    np.testing.assert_array_equal(np.sort(replace(table).resamples.cluster), np.repeat(np.arange(10), 2))
    table.labels["dose"] = [f"{i % 2}" for i in range(20)]
    assert np.unique(replace(table).resamples.cluster).size == 20
    assert np.unique(replace(table, cluster_keys=("dose",)).resamples.cluster).size == 20, "two doses are too few"


def test_calibration_by_hand():
    table = make_table(**LEVELS)
    frame = table.calibration()
    good, bad = table.values("technical duplicate", "weighted_r2"), table.values("no change", "weighted_r2")
    row = frame.loc["weighted_r2"]
    assert (row["positive"], row["negative"], row["n"]) == ("technical duplicate", "no change", 12)
    assert row["drf"] == pytest.approx((good.mean() - bad.mean()) / (1 - bad.mean()))
    assert row["bds"] == np.mean(good > bad)
    row = frame.loc["weighted_mse"]
    good, bad = table.values("interpolated duplicate", "weighted_mse"), table.values("no change", "weighted_mse")
    assert (row["positive"], row["negative"]) == ("interpolated duplicate", "no change")
    assert row["drf"] == pytest.approx((bad.mean() - good.mean()) / bad.mean())
    assert row["bds"] == np.mean(good < bad)
    assert frame.loc["r2", "n"] == 0
    assert np.isnan(frame.loc["r2", "drf"])


def test_headline_names_what_must_not_be_headlined():
    headline = make_table(**LEVELS).headline().set_index("metric")
    assert set(headline["predictor"]) == {"mine"}
    assert headline.loc["weighted_r2", "headline"]
    assert headline.loc["pearson_perturbed", "drf"] < 0.2
    assert not headline.loc["pearson_perturbed", "headline"]
    assert not headline.loc["energy_distance", "headline"], "unknown"
    assert headline.loc["weighted_mse", "best_baseline"] == "context shift"
    assert "r2" not in headline.index
    assert (headline["n_unseen"] == 2).all()


def test_no_headline_on_fewer_than_five_conditions():
    for n, expected in ((4, False), (5, True)):
        headline = make_table(n=n, **LEVELS).headline().set_index("metric")
        assert headline.loc["weighted_r2", "drf"] > 0.2
        assert headline.loc["weighted_r2", "headline"] == expected


def test_pairs_keep_conditions_together():
    pairs = make_table(**LEVELS).pairs()
    assert pairs["predictor"].tolist() == list(KINDS) * 12
    assert pairs["treatment"].iloc[: len(KINDS)].unique().tolist() == ["t0"]


def test_nearest_own_counts_perfect_ranks():
    table = make_table()
    table.scores["mine"]["centroid_accuracy"] = [1.0, 1.0, 0.5, np.nan, *[1.0] * 8]
    assert table.nearest_own("mine") == pytest.approx(10 / 11)
    assert np.isnan(table.nearest_own("no change"))
