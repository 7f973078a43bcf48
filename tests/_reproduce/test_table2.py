"""Table 2: estimators of stratum means during training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scgraphvci import datasets
from scgraphvci._reproduce import reproduce_table2
from scgraphvci._reproduce._experiment import FAST_SCREEN
from scgraphvci.metrics import r2


@pytest.fixture(scope="module")
def report(tiny):
    return reproduce_table2(replace(tiny, models=("VCI",), max_epochs=3))


def test_rows_are_epochs_and_columns_estimators(report):
    table = report.numbers["table2"]
    assert table.index.tolist() == ["VCI, 1/3", "VCI, 2/3", "VCI, 3/3"]  # a quarter of 3 epochs is rounded up
    assert table.columns.tolist()[::2] == [f"{m} {e}" for m in ("r2", "r2_de") for e in ("mean", "robust", "observed")]
    assert np.isfinite(table.to_numpy()).all()


def test_observed_mean_by_hand(report):
    pairs = report.numbers["table2_pairs"]
    for seed in (0, 1):
        adata = datasets.simulate(**FAST_SCREEN, seed=seed)
        values = pd.DataFrame(adata.X.toarray().astype(float), index=adata.obs_names)
        keys = [adata.obs[key].astype(str) for key in ("split", "perturbation", "cell_type", "donor")]
        means, counts, variances = (getattr(values.groupby(keys), name)() for name in ("mean", "size", "var"))
        expected = {
            key[1:]: r2(means.loc[key].to_numpy(), means.loc[("train", *key[1:])].to_numpy())
            for key, n in counts.items()
            if key[0] == "test" and key[1] != "control" and n >= 5 and ("train", *key[1:]) in counts.index
        }
        found = pairs[(pairs["seed"] == seed) & (pairs["estimator"] == "observed") & (pairs["epoch"] == 2)]
        found = found.set_index(["treatment", "cell_type", "donor"])
        assert found["r2"].to_dict() == pytest.approx(expected, abs=1e-4)
        pair = found.index[0]
        treated, control = ("test", *pair), ("train", "control", *pair[1:])
        error = variances.loc[treated] / counts.loc[treated] + variances.loc[control] / counts.loc[control]
        t = (means.loc[treated] - means.loc[control]) / np.sqrt(error + 1e-12)
        genes = np.argsort(-t.abs().to_numpy(), kind="stable")[:50]
        by_hand = r2(means.loc[treated].to_numpy()[genes], means.loc[("train", *pair)].to_numpy()[genes])
        assert found.loc[pair, "r2_de"] == pytest.approx(by_hand, abs=1e-3)


def test_estimates_are_those_of_the_model_at_that_epoch(report, tiny):
    experiment = replace(tiny, models=("VCI",), max_epochs=3)
    split = next(experiment.splits())
    model, _ = experiment.fit("VCI", split)
    train = split.adata[split.adata.obs["split"] == "train"].copy()
    effects = model.marginal_effect(adata=train, reference=None, leak_guard=False).to_frame()
    pairs = report.numbers["table2_pairs"]
    last = pairs[(pairs["seed"] == 0) & (pairs["epoch"] == 3)].set_index("estimator")
    row = last.loc["robust"].iloc[0]
    inside = (split.adata.obs["split"] == "test") & (split.adata.obs["perturbation"] == row["treatment"])
    for key in ("cell_type", "donor"):
        inside &= split.adata.obs[key] == row[key]
        effects = effects[effects[key] == row[key]]
    truth = np.asarray(split.adata.X[inside.to_numpy()].mean(axis=0)).ravel()
    effects = effects[effects["treatment"] == row["treatment"]].set_index("gene").loc[split.adata.var_names]
    for estimator, column in {"mean": "plugin", "robust": "robust", "observed": "observed"}.items():
        found = last.loc[estimator].query("treatment == @row.treatment and cell_type == @row.cell_type")
        found = found[found["donor"] == row["donor"]]["r2"].item()
        assert found == pytest.approx(r2(truth, effects[column].to_numpy()), abs=1e-4)


def test_models_without_marginal_effects(tiny):
    with pytest.raises(ValueError, match=r"\['AE'\] have no marginal effects"):
        reproduce_table2(tiny)


def test_notes(report):
    assert "2 run(s)" in report.notes[1]
    assert "at least 5 validation cells" in report.notes[1]
