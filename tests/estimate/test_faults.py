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


TIED = {
    "all the same": np.full(40, 0.1),
    "all zero": np.zeros(40),
    "the same within arms": 0.7 * HALF + 0.1,
    "far from zero": 1e6 + 0.1 * HALF,
    "as float32 can tell": (1.0 + np.arange(40) * 1e-9),
}


@pytest.mark.parametrize("estimator", ["robust", "observed"])
@pytest.mark.parametrize("cluster", [None, np.repeat(range(10), 4)], ids=["cells", "clusters"])
@pytest.mark.parametrize("values", TIED.values(), ids=list(TIED))
def test_an_outcome_that_never_varies_has_no_interval(values, cluster, estimator):
    """Its error would be of rounding, and the p-value of any difference zero."""
    varied = np.random.default_rng(0).normal(size=40)
    outcome = np.stack([values, varied], axis=1)
    frame = effects(HALF, outcome=outcome, cluster=cluster, estimator=estimator).set_index("gene")
    assert frame.loc["g", INTERVAL].isna().all()
    assert frame.loc["g", "status"] == "too_few_cells"
    np.testing.assert_allclose(frame.loc["g", "estimate"], values[1::2].mean() - values[::2].mean(), atol=1e-9)
    assert frame.loc["h", "status"] == "ok"
    np.testing.assert_allclose(frame.loc["h", "p_value"], frame.loc["h", "p_value_adj"])  # the only gene that is tested


@pytest.mark.parametrize("estimator", ["robust", "observed"])
def test_many_ties_within_an_arm_leave_the_error_of_the_other_cells(estimator):
    """Dropouts in one arm: the error is that of the textbook."""
    rng = np.random.default_rng(2)
    values = np.where(HALF == 1, 0.0, rng.exponential(size=40))
    frame = effects(HALF, outcome=np.stack([values] * 2, axis=1), estimator=estimator)
    expected = values[HALF == 0].std(ddof=1) / np.sqrt(20)
    np.testing.assert_allclose(frame["std_error"], expected, rtol=1e-6)


@pytest.mark.parametrize("estimator", ["robust", "observed"])
def test_clusters_that_lie_in_one_arm_still_count_as_replicates(estimator):
    """Donors that are all treated or all not: the error is that of a comparison of donor means, coverage is kept."""
    covered, rng = [], np.random.default_rng(3)
    cluster = np.repeat(range(12), 10)
    arm = (cluster < 6).astype(int)
    for _ in range(300):
        outcome = rng.normal(size=(12, 2))[cluster] + 0.3 * rng.normal(size=(120, 2))
        frame = effects(arm, outcome=outcome, cluster=cluster, estimator=estimator)
        assert (frame["status"] == "ok").all()
        covered.append((frame["ci_low"] <= 0) & (frame["ci_high"] >= 0))
    assert 0.91 <= np.mean(covered) <= 0.99


def test_all_cells_of_an_arm_in_one_cluster_have_no_interval():
    """One donor treated, nine not: nothing tells the treatment from the donor."""
    cluster = np.repeat(range(10), 10)
    frame = effects((cluster == 0).astype(int), cluster=cluster, estimator="observed")
    assert set(frame["status"]) == {"too_few_clusters"}
    assert frame[INTERVAL].isna().all(axis=None)


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
