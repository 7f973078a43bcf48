"""Copies of cells are counted, unless their clusters say that they are copies."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from scgraphvci.model._copies import Copies


def found(cells, cluster=None, batch=7):
    copies = Copies(len(cells))
    order = np.random.default_rng(0).permutation(len(cells))
    for start in range(0, len(cells), batch):
        position = order[start : start + batch]
        copies.update(cells[position], position)
    return copies, copies.count(None if cluster is None else np.asarray(cluster))


def draw(n_cells, n_genes=30):
    return np.random.default_rng(1).normal(size=(n_cells, n_genes)).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "cluster", "expected"),
    [
        (range(10), None, 0),
        ([0, 1, 1, 2, 2, 2], None, 3),
        ([0, 0, 0, 0], None, 3),
        ([0, 0, 1, 1], [0, 0, 1, 1], 0),  # each pair in its own cluster
        ([0, 0, 1, 1], [0, 1, 0, 0], 1),
        ([0, 0, 0, 1], [0, 1, 2, 2], 2),
        ([], None, 0),
    ],
)
def test_count(rows, cluster, expected):
    assert found(draw(10)[list(rows)], cluster)[1] == expected


def test_cells_of_few_genes_may_agree_by_chance():
    few = np.zeros((6, 30), np.float32)
    few[:, :19] = 1
    assert found(few)[1] == 0
    few[:, 19] = 1
    assert found(few)[1] == 5


def test_the_smallest_difference_counts():
    cells = draw(1)[[0, 0]]
    cells[1, 3] = np.nextafter(cells[1, 3], np.float32(9))
    assert found(cells)[1] == 0


def test_one_in_a_hundred_is_let_pass():
    cells = draw(300)
    cells[:3] = cells[3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found(cells)[0].warn(None)
    cells[4] = cells[3]
    with pytest.warns(UserWarning, match="4 of 300 cells have exactly the expression of another cell.*cluster_key"):
        found(cells)[0].warn(None)
    with pytest.warns(UserWarning, match="4 of 300 cells .* of a cell of another cluster"):
        found(cells)[0].warn(np.arange(300))
