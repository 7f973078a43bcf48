"""Checks of options, of expression against the likelihood, and of clusters against strata."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scgraphvci.data._outcome_field import RAW_COUNTS_FROM
from scgraphvci.model._checks import (
    CHOICES,
    check_clusters,
    check_options,
    check_outcome,
    warn_of_few_clusters,
    warn_of_small_panel,
)

LOG = {"integer": False, "min": 0.0, "max": 6.2}
COUNTS = {"integer": True, "min": 0.0, "max": 900.0}


@pytest.mark.parametrize("name", CHOICES)
def test_every_allowed_word_passes_and_others_do_not(name):
    for word in CHOICES[name]:
        check_options(**{name: word})
    with pytest.raises(ValueError, match=rf"Unknown {name} 'nonsense'\. Choose one of \["):
        check_options(**{name: "nonsense"})


def test_other_options_are_not_looked_at():
    check_options(n_latent="many")


@pytest.mark.parametrize(("state", "likelihood"), [(LOG, "normal"), (COUNTS, "nb"), (COUNTS, "zinb")])
def test_suitable_expression_passes_without_a_word(state, likelihood):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_outcome(state, likelihood)


def test_whole_numbers_that_are_small_may_be_anything():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_outcome({"integer": True, "min": 0.0, "max": float(RAW_COUNTS_FROM)}, "normal")


def test_raw_counts_under_normal_warn():
    with pytest.warns(UserWarning, match=r"raw counts \(whole numbers up to 900\)"):
        check_outcome(COUNTS, "normal")


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_values_that_are_no_counts_are_refused(likelihood):
    with pytest.raises(ValueError, match="not whole numbers"):
        check_outcome(LOG, likelihood)
    with pytest.raises(ValueError, match=r"negative values \(smallest -2"):
        check_outcome({**COUNTS, "min": -2.0}, likelihood)


BY_DONOR = pd.DataFrame({"cell_type": ["B", "B", "T", "T"], "donor": ["d1", "d2", "d1", "d2"]})


@pytest.mark.parametrize(
    ("strata", "stratum", "cluster", "match"),
    [
        (BY_DONOR, [0, 1, 2, 3], [0, 1, 0, 1], r"split by \['donor'\].*`groupby=\['cell_type'\]`"),
        (BY_DONOR[["donor"]].head(2), [0, 1, 0, 1], [0, 1, 0, 1], r"split by \['donor'\].*`groupby=\[\]`"),
        # A covariate of another name that says the same, and one nested in donors.
        (BY_DONOR.rename(columns={"donor": "patient"}), [0, 1, 2, 3], [0, 1, 0, 1], r"split by \['patient'\]"),
        (BY_DONOR, [0, 1, 2, 3], [0, 0, 0, 0], "all cells are of one cluster. Leave `cluster_key` out"),
        (BY_DONOR, [0, 1, 2, 3], [0, 1, 1, 0], r"joint levels of \['cell_type', 'donor'\]"),
    ],
)
def test_strata_within_clusters_warn(strata, stratum, cluster, match):
    with pytest.warns(UserWarning, match=f"cluster_key='unit'.*'too_few_clusters'.*{match}"):
        check_clusters("unit", np.array(cluster), strata, np.array(stratum))


@pytest.mark.parametrize(
    ("strata", "stratum", "cluster"),
    [
        (BY_DONOR[["cell_type"]].drop_duplicates(), [0, 0, 1, 1], [0, 1, 0, 1]),
        (BY_DONOR, [0, 0, 1, 2, 3], [0, 1, 1, 0, 1]),  # one stratum has two: the others say so in their status
        (pd.DataFrame(index=[0]), [0, 0], [0, 1]),
    ],
)
def test_strata_with_several_clusters_pass_without_a_word(strata, stratum, cluster):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_clusters("unit", np.array(cluster), strata.reset_index(drop=True), np.array(stratum))
        check_clusters(None, None, strata, np.array(stratum))


def test_intervals_of_few_clusters_are_explained():
    def effects(n_clusters, status):
        return SimpleNamespace(n_clusters=np.array(n_clusters), status=np.array(status, dtype=object))

    with pytest.warns(UserWarning, match="2 of 4 rows rest on 2 or 3 clusters"):
        warn_of_few_clusters(effects([[2, 3], [4, 2]], [["ok", "ok"], ["ok", "leak_detected"]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_few_clusters(effects([[0, 1], [4, 2]], [["ok", "too_few_clusters"], ["ok", "too_few_cells"]]))


@pytest.mark.parametrize(
    ("n_genes", "estimator", "cross_fit", "warns"),
    [(60, "robust", 0, True), (300, "robust", 0, False), (60, "observed", 0, False), (60, "robust", 2, False)],
)
def test_a_panel_without_cross_fitting_is_warned_of(n_genes, estimator, cross_fit, warns):
    effects = SimpleNamespace(
        genes=range(n_genes),
        params={"estimator": estimator, "cross_fit": cross_fit},
        std_error=np.ones((1, 1, n_genes)),
    )
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_small_panel(effects)
    assert [f"{n_genes} genes" in str(one.message) for one in found] == [True] * warns
