"""Table 1: accuracy in held-out strata."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scgraphvci import datasets
from scgraphvci._reproduce import reproduce_table1
from scgraphvci._reproduce._experiment import FAST_SCREEN
from scgraphvci._reproduce._table1 import _pooled
from scgraphvci.baselines import ContextShift
from scgraphvci.metrics import r2

BASELINES = ["no change", "train mean", "stratum mean", "control level", "context shift", "additive", "ridge pca"]
DUPLICATES = ["technical duplicate", "interpolated duplicate"]


def test_rows_are_models_baselines_and_duplicates(table1):
    assert table1.numbers["table1"].index.tolist() == ["AE", "GraphVCI", *BASELINES, *DUPLICATES]
    main, differences = table1.tables.values()
    assert main.index.tolist() == table1.numbers["table1"].index.tolist()
    assert {"r2", "r2_de", "pearson_perturbed", "weighted_r2", "centroid_accuracy"} <= set(main.columns)
    assert {"best baseline", "AE", "GraphVCI"} <= set(differences.columns)


def test_numbers_are_means_over_runs_of_means_over_conditions(table1):
    conditions, table = table1.numbers["table1_conditions"], table1.numbers["table1"]
    for name in ("AE", "no change", "technical duplicate"):
        own = conditions[conditions["predictor"] == name]
        runs = [own.loc[own["seed"] == seed, "r2_de"].mean() for seed in (0, 1)]
        assert table.loc[name, "r2_de"] == pytest.approx(np.mean(runs))
        assert table.loc[name, "r2_de_sd"] == pytest.approx(np.std(runs, ddof=1))
    assert (table.loc[["AE", "GraphVCI"], "seconds"] > 0).all()
    assert table.loc["no change", ["seconds"]].isna().all()


def test_context_shift_of_a_run_by_hand(table1):
    adata = datasets.simulate(**FAST_SCREEN, seed=1)
    truth = datasets.truth(adata)
    model = ContextShift(adata, categorical_covariate_keys=["cell_type", "donor"], split_key="split")
    conditions = table1.numbers["table1_conditions"]
    rows = conditions[(conditions["predictor"] == "context shift") & (conditions["seed"] == 1)]
    assert len(rows)
    obs = adata.obs
    for row in rows.itertuples():
        inside = (obs["cell_type"] == row.cell_type) & (obs["donor"] == row.donor)
        start = np.flatnonzero(inside & (obs["perturbation"] == "control") & (obs["split"] != "ood"))
        predicted = model.predict(row.treatment, indices=start.tolist()).X.mean(axis=0)
        true = truth.stratum_mean(row.treatment, ["cell_type", "donor"]).loc[(row.cell_type, row.donor)]
        assert row.r2 == pytest.approx(r2(true.to_numpy(), predicted.astype(float)), abs=1e-5)


def test_differences_are_paired_by_condition(table1):
    conditions, differences = table1.numbers["table1_conditions"], table1.numbers["table1_differences"]
    wide = conditions.set_index(["seed", "treatment", "cell_type", "donor", "predictor"])["weighted_mse"].unstack()
    best = wide[BASELINES].mean().idxmin()
    row = differences.query("metric == 'weighted_mse' and predictor == 'AE'").iloc[0]
    assert row["best_baseline"] == best
    assert row["n"] == len(wide)
    assert row["difference"] == pytest.approx((wide[best] - wide["AE"]).mean())  # smaller is better
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_notes_say_what_was_run(table1):
    notes = " ".join(table1.notes)
    n = table1.numbers["table1_conditions"].query("predictor == 'AE'").shape[0] / 2
    for words in ("2 run(s)", f"over {n:.0f} held-out conditions", "2 epochs", "noise-free", "scvi-tools"):
        assert words in notes
    assert "flatters" not in notes


def test_runs_on_the_same_data_are_not_independent_conditions(tiny, table1, tmp_path):
    """One file, two seeds: conditions are averaged over seeds before they are resampled."""
    conditions = table1.numbers["table1_conditions"]
    again = conditions[conditions["seed"] == 0]
    both = pd.concat([again, again.assign(seed=1, r2=again["r2"] + 0.1)])
    one = _pooled(replace(tiny, data=tmp_path), both, ["r2", "mmd"])
    n = (again["predictor"] == "AE").sum()
    assert len(one.labels) == n
    np.testing.assert_allclose(one.values("AE", "r2"), again.loc[again["predictor"] == "AE", "r2"] + 0.05)
    assert len(_pooled(tiny, both, ["r2", "mmd"]).labels) == 2 * n


def test_treatments_of_simulated_runs_are_others(tiny, table1, tmp_path):
    one = table1.numbers["table1_conditions"].query("seed == 0 and predictor in ['AE', 'no change']")
    one = one.assign(treatment="x")
    table = _pooled(tiny, pd.concat([one.assign(seed=seed) for seed in range(10)]), ["r2"])
    assert table.cluster_keys == ("seed", "treatment", "dose")
    np.testing.assert_array_equal(table.resamples.cluster, table.labels["seed"])
    assert _pooled(replace(tiny, data=tmp_path), one, ["r2"]).cluster_keys == ("treatment", "dose")


def test_refined_network_and_the_papers_protocol(tiny):
    models = ("GraphVCI-refined", "GraphVCI-paper")
    report = reproduce_table1(replace(tiny, models=models, n_seeds=1, protocol="paper", max_epochs=1))
    assert report.numbers["table1"].index[:2].tolist() == list(models)
    assert np.isfinite(report.numbers["table1"].loc[list(models), "r2"]).all()
    notes = " ".join(report.notes)
    assert "trained for 1 epoch;" in notes
    assert "covariates overwritten" in notes
    assert report.title == "Table 1, paper protocol"
