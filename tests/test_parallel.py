"""Independent calls in the processes that joblib has been given."""

from __future__ import annotations

import os

import pytest
from joblib import parallel_config

from scgraphvci._parallel import call_each, n_processes


def where(number):
    return number, os.getpid()


def test_without_processes_calls_are_made_here_one_by_one():
    made = []
    results = call_each(made.append, ((k,) for k in range(3)))
    next(iter(results))
    assert made == [0]
    assert n_processes() == 1


@pytest.mark.parametrize(("backend", "expected"), [("threading", 1), ("loky", 2), ("multiprocessing", 2)])
def test_only_processes_count(backend, expected):
    with parallel_config(backend, n_jobs=2):
        assert n_processes() == expected


def test_results_of_processes_are_in_order():
    with parallel_config("multiprocessing", n_jobs=2):
        results = list(call_each(where, ((k,) for k in range(6))))
    assert [number for number, _ in results] == list(range(6))
    assert os.getpid() not in {process for _, process in results}
