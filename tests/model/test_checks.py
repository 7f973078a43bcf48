"""Checks of options and of expression against the likelihood."""

from __future__ import annotations

import warnings

import pytest

from scgraphvci.model._checks import CHOICES, RAW_COUNTS_FROM, check_options, check_outcome

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
