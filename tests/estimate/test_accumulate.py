from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.estimate import EffectSums, Groups
from scgraphvci.estimate._accumulate import N_ROLES


def test_groups_are_the_pairs_that_occur():
    groups, group = Groups.from_codes([1, 0, 1, 1], cluster=[2, 0, 0, 2], n_strata=4)
    assert groups.n_strata == 4
    assert list(zip(groups.stratum[group], groups.cluster[group], strict=True)) == [(1, 2), (0, 0), (1, 0), (1, 2)]
    assert groups.n_groups == 3


def test_groups_without_clusters_are_the_strata():
    groups, group = Groups.from_codes([2, 0], n_strata=3, n_blocks=0)
    assert groups.stratum.tolist() == [0, 1, 2]
    assert group.tolist() == [2, 0]
    assert groups.cluster is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stratum": [0, -1]}, "-1"),
        ({"stratum": [0, 3], "n_strata": 2}, "0 to 1"),
        ({"stratum": [0, 1], "cluster": [0]}, "cluster"),
        ({"stratum": [0, 1], "cluster": [0, -2]}, "-2"),
    ],
)
def test_bad_codes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Groups.from_codes(**arguments)


def test_sums_equal_a_loop_over_cells(make_cells):
    cells = make_cells(n_cells=60, n_genes=2)
    sums = cells.sums(clustered=True, batch_size=7)
    variables = [cells.outcome, cells.predicted, cells.predicted_reference]
    count, first, second = np.zeros_like(sums.count), np.zeros_like(sums.first), np.zeros_like(sums.second)
    for k in range(60):
        x, role = cells.stratum[k], cells.treatment[k]
        (group,) = np.flatnonzero((sums.groups.stratum == x) & (sums.groups.cluster == cells.cluster[k]))
        count[group, role] += 1
        for i, variable in enumerate(variables):
            first[i, role, group] += variable[k] - sums.offset[x]
        for p, (i, j) in enumerate(sums.pairs):
            second[p, x, role] += (variables[i][k] - sums.offset[x]) * (variables[j][k] - sums.offset[x])
    # Outcomes of cells in neither arm enter no estimate.
    first[0, 2] = 0
    second[[p for p, (i, _) in enumerate(sums.pairs) if i == 0], :, 2] = 0
    np.testing.assert_array_equal(sums.count, count)
    by_group = np.stack([sums.first[:, role, sums.row[:, role]] for role in range(N_ROLES)], axis=1)
    np.testing.assert_allclose(by_group * (count.T[:, :, None] > 0), first, atol=1e-10)
    assert ((sums.row >= 0) == (count > 0)).all()
    np.testing.assert_allclose(sums.second, second, atol=1e-10)
    for x in range(3):
        np.testing.assert_allclose(sums.total[:, x], first[:, :, sums.groups.stratum == x].sum(axis=2), atol=1e-10)
    assert sums.first.shape == (3, N_ROLES, sums.groups.n_groups, 2)
    assert sums.second.shape == (6, 3, N_ROLES, 2)


def test_the_offset_is_an_outcome_of_the_stratum(make_cells):
    cells = make_cells()
    sums = cells.sums(batch_size=11)
    for x in range(3):
        first_cell = np.flatnonzero(cells.stratum == x)[0]
        np.testing.assert_array_equal(sums.offset[x], cells.outcome[first_cell])


def test_float32_batches_are_summed_in_float64(make_cells):
    cells = make_cells()
    for name in ("outcome", "predicted", "predicted_reference"):
        setattr(cells, name, getattr(cells, name).astype(np.float32))
    single = cells.sums(batch_size=13)
    for name in ("outcome", "predicted", "predicted_reference"):
        setattr(cells, name, getattr(cells, name).astype(np.float64))
    np.testing.assert_array_equal(single.second, cells.sums(batch_size=13).second)
    assert single.first.dtype == np.float64


@pytest.mark.parametrize("with_reference", [True, False])
def test_cleared_sums_take_other_cells_as_new_ones_do(make_cells, with_reference):
    """The second screen has the first one's groups in another order of arms, so that other rows are taken."""
    cells = make_cells(n_cells=60)
    used = cells.sums(clustered=True, with_reference=with_reference)
    cells.outcome, cells.predicted = 3 * cells.outcome + 7, cells.predicted - 2
    cells.treatment = np.roll(cells.treatment, 1)
    fresh = cells.sums(clustered=True, with_reference=with_reference, batch_size=13)
    used.clear()
    assert not used.count.any()
    cells.sums(clustered=True, with_reference=with_reference, batch_size=13, into=used)
    for name in ("count", "row", "offset", "total", "second"):
        np.testing.assert_array_equal(getattr(used, name), getattr(fresh, name))
    for role in range(N_ROLES):
        rows = fresh.row[fresh.row[:, role] >= 0, role]
        np.testing.assert_array_equal(used.first[:, role, rows], fresh.first[:, role, rows])


@pytest.fixture
def batch():
    return {
        "outcome": np.ones((3, 2)),
        "predicted": np.ones((3, 2)),
        "predicted_reference": np.ones((3, 2)),
        "in_arm": np.array([True, False, False]),
        "in_reference": np.array([False, True, False]),
        "group": np.zeros(3, dtype=int),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": np.ones((3, 5))}, r"`outcome` has shape \(3, 5\)"),
        ({"predicted": np.ones((2, 2))}, "`predicted` has shape"),
        ({"predicted_reference": None}, "missing"),
        ({"in_arm": np.ones(2, dtype=bool)}, "must have shape"),
        ({"in_reference": np.array([True, True, False])}, "1 cells are in the arm and in the reference"),
        ({"group": np.array([0, -1, 0])}, "Group codes run from -1 to 0, allowed is 0 to 0"),
        ({"group": np.array([0, 1, 0])}, "Group codes run from 0 to 1"),
    ],
)
def test_bad_batches_are_refused(batch, change, message):
    groups, _ = Groups.from_codes([0])
    with pytest.raises(ValueError, match=message):
        EffectSums(groups, 2).update(**{**batch, **change})


def test_a_reference_is_refused_without_one(batch):
    groups, _ = Groups.from_codes([0])
    sums = EffectSums(groups, 2, with_reference=False)
    with pytest.raises(ValueError, match="given"):
        sums.update(**batch)
    with pytest.raises(ValueError, match="1 cells are in the reference"):
        sums.update(**{**batch, "predicted_reference": None})
