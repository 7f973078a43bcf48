"""Faults of a screen give a status, never a wrong interval: arrays in, one row of statuses out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.estimate import EffectSums, Groups, marginal_effects

INTERVAL = ["std_error", "ci_low", "ci_high", "p_value"]


def effects(arm, stratum=None, cluster=None, outcome=None, estimator="robust", min_cells=2):
    """Effects of arm 1 against arm 0, with predictions that carry no trace of the treatment."""
    n = len(arm)
    arm, rng = np.asarray(arm), np.random.default_rng(0)
    outcome = rng.normal(size=(n, 2)) + (arm == 1)[:, None] if outcome is None else outcome
    stratum = np.zeros(n, dtype=int) if stratum is None else np.asarray(stratum)
    groups, group = Groups.from_codes(stratum, cluster)
    sums = EffectSums(groups, 2)
    sums.update(outcome, np.ones((n, 2)), np.zeros((n, 2)), arm == 1, arm == 0, group)
    strata = pd.DataFrame({"stratum": range(groups.n_strata)})
    found = marginal_effects([("A", sums)], strata=strata, genes=["g", "h"], estimator=estimator, min_cells=min_cells)
    return found.to_frame()


HALF = np.resize([0, 1], 40)
TABLE = [
    # what, arguments, status of each stratum
    ("both arms", {"arm": HALF}, ["ok"]),
    ("no treated cell", {"arm": np.zeros(40)}, ["extrapolated"]),
    ("no reference", {"arm": np.ones(40)}, ["no_reference"]),
    ("neither arm", {"arm": np.full(40, 2)}, ["no_reference"]),
    ("one treated cell", {"arm": [1] + [0] * 39}, ["too_few_cells"]),
    ("one reference cell", {"arm": [0] + [1] * 39}, ["too_few_cells"]),
    ("one cell each", {"arm": [0, 1]}, ["too_few_cells"]),
    ("fewer than asked", {"arm": HALF, "min_cells": 21}, ["too_few_cells"]),
    ("one donor", {"arm": HALF, "cluster": np.zeros(40, int)}, ["too_few_clusters"]),
    ("two donors", {"arm": HALF, "cluster": np.repeat([0, 1], 20)}, ["ok"]),
    (
        "a stratum without treated cells",
        {"arm": [*HALF, *np.zeros(40)], "stratum": np.repeat([0, 1], 40)},
        ["ok", "extrapolated"],
    ),
    (
        "a stratum without reference",
        {"arm": [*HALF, *np.ones(40)], "stratum": np.repeat([0, 1], 40)},
        ["ok", "no_reference"],
    ),
    (
        "a stratum without cells",
        {"arm": [*HALF, *HALF], "stratum": np.repeat([0, 2], 40)},
        ["ok", "no_reference", "ok"],
    ),
]


@pytest.mark.parametrize("estimator", ["robust", "observed"])
@pytest.mark.parametrize(("arguments", "status"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_status_and_no_interval_where_none_is_valid(arguments, status, estimator):
    frame = effects(**arguments, estimator=estimator)
    assert frame.groupby("stratum", sort=False)["status"].first().tolist() == status
    sure = (frame["status"] == "ok").to_numpy()
    assert frame.loc[~sure, INTERVAL].isna().all(axis=None)
    assert np.isfinite(frame.loc[sure, ["estimate", *INTERVAL]]).all(axis=None)
    assert (frame.loc[sure, "std_error"] > 0).all()


@pytest.mark.parametrize("estimator", ["robust", "observed"])
def test_tied_values_claim_nothing_beyond_what_was_seen(estimator):
    """Where nothing varies the error is 0 and the interval the value itself; a p-value is 1 or NaN if that is 0."""
    frame = effects(HALF, outcome=np.ones((40, 2)), estimator=estimator)
    np.testing.assert_allclose(frame["estimate"], 0, atol=1e-12)
    assert not (frame["p_value"] < 0.99).any()


def test_duplicated_cells_are_no_further_evidence_once_clustered():
    """Every cell ten times over: errors of independent cells shrink, those of clusters of copies do not."""
    rng = np.random.default_rng(1)
    outcome = rng.normal(size=(40, 2)) + HALF[:, None]
    once = effects(HALF, outcome=outcome, cluster=np.arange(40), estimator="observed")
    copies = np.repeat(np.arange(40), 10)
    clustered = effects(HALF[copies], outcome=outcome[copies], cluster=copies, estimator="observed")
    naive = effects(HALF[copies], outcome=outcome[copies], estimator="observed")
    np.testing.assert_allclose(clustered["std_error"], once["std_error"], rtol=1e-6)
    np.testing.assert_allclose(clustered["estimate"], once["estimate"], atol=1e-9)
    assert (naive["std_error"] < 0.5 * clustered["std_error"]).all()
