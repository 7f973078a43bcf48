"""Tables of the benchmarks, from scores that are given."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("_common")


def scores(n_treatments, n_strata, n_seeds=1, n_settings=1):
    """One row per setting, seed, treatment, stratum and predictor; errors differ by treatment, hardly by stratum."""
    rng = np.random.default_rng(0)
    names = {"mine": "model", "other": "model", "no change": "baseline", "additive": "baseline"}
    level = {"mine": 0.5, "other": 2.0, "no change": 1.0, "additive": 3.0}
    rows = []
    for setting in range(n_settings):
        for seed in range(n_seeds):
            for t in range(n_treatments):
                own = dict(zip(names, rng.normal(0, 0.3, 4), strict=True))
                for x in range(n_strata):
                    for name, kind in names.items():
                        error = level[name] + own[name] + rng.normal(0, 0.01)
                        rows.append((setting, seed, f"t{t}", f"x{x}", "d", name, kind, error, -error))
    columns = ["setting", "seed", "treatment", "cell_type", "donor", "predictor", "kind", "weighted_mse", "weighted_r2"]
    return pd.DataFrame(rows, columns=columns)


def test_direction_of_the_metric_is_respected(tables):
    frame = tables.differences(scores(12, 2), ["weighted_mse", "weighted_r2"], ["treatment", "cell_type"])
    assert (frame["best baseline"] == "no change").all()
    for metric in ("weighted_mse", "weighted_r2"):
        assert frame.loc[(metric, "mine"), "low"] > 0
        assert frame.loc[(metric, "other"), "high"] < 0
    np.testing.assert_allclose(frame.loc["weighted_mse", "difference"], frame.loc["weighted_r2", "difference"])


def test_strata_of_a_treatment_are_no_further_evidence(tables):
    few, many = (scores(12, n)[["weighted_r2", "treatment", "cell_type", "predictor", "kind"]] for n in (1, 20))
    widths = []
    for pairs in (few, many):
        row = tables.differences(pairs, ["weighted_r2"], ["treatment", "cell_type"]).loc[("weighted_r2", "mine")]
        widths.append(row["high"] - row["low"])
    assert widths[1] > 0.6 * widths[0]
    treatments = few.groupby(["treatment", "predictor"])["weighted_r2"].mean().unstack()
    se = (treatments["mine"] - treatments["no change"]).std() / np.sqrt(12)
    assert widths[0] == pytest.approx(2 * 1.96 * se, rel=0.2)


def test_treatments_of_other_screens_are_others(tables):
    pairs = scores(5, 3, n_seeds=3)
    condition = ["seed", "treatment", "cell_type"]
    row = tables.differences(pairs, ["weighted_r2"], condition).loc[("weighted_r2", "mine")]
    assert row["n"] == 45
    means = pairs.groupby(["seed", "treatment", "predictor"])["weighted_r2"].mean().unstack()
    se = (means["mine"] - means["no change"]).std() / np.sqrt(15)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * se, rel=0.25)


def test_seeds_of_the_same_screen_are_averaged(tables):
    pairs = scores(12, 2, n_seeds=3)
    row = tables.differences(pairs, ["weighted_r2"], ["treatment", "cell_type"]).loc[("weighted_r2", "mine")]
    assert row["n"] == 24


def test_a_model_that_did_not_run_everywhere_is_compared_where_it_did(tables):
    pairs = scores(12, 2, n_seeds=2)
    pairs = pairs[(pairs["predictor"] != "mine") | (pairs["seed"] == 1)]
    row = tables.differences(pairs, ["weighted_r2"], ["seed", "treatment", "cell_type"]).loc[("weighted_r2", "mine")]
    assert row["n"] == 24
    wide = pairs[pairs["seed"] == 1].pivot_table(
        index=["treatment", "cell_type"], columns="predictor", values="weighted_r2"
    )
    assert row["difference"] == pytest.approx((wide["mine"] - wide["no change"]).mean())


def test_screens_are_compared_by_setting(tables, tmp_path):
    pairs = scores(12, 2, n_settings=2)
    screens = importlib.import_module("_screen_tables")
    pairs = pairs.assign(**{name: 1.0 for name in [*screens.METRICS, *screens.SINGLE] if name not in pairs})
    screens.write_tables(pairs, tmp_path, "some", [0, 1])
    frame = pd.read_csv(tmp_path / "some_differences.csv")
    assert set(frame["setting"]) == {0, 1}
    assert set(frame["predictor"]) == {"mine", "other"}
    assert set(frame["metric"]) == set(screens.JUDGED)
