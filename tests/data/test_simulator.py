from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.data._simulation_parameters import SimulationParameters
from scgraphvci.data._simulator import BLOCK_SIZE, SATURATION, Cells, Screen, dose_response, draw_prior


@pytest.fixture(scope="module")
def screen() -> Screen:
    return Screen.draw(SimulationParameters(n_genes=60, n_perturbations=6, n_regulators=15, n_combinations=3, seed=4))


def path_sums(screen: Screen, cell_type: int) -> np.ndarray:
    """Sum over all paths of products of gated weights, by following them one hop at a time."""
    n = screen.parameters.n_genes
    weights = np.zeros((n, n))
    for source, target, weight, gate in zip(
        screen.network.source,
        screen.network.target,
        screen.network.weight,
        screen.network.gates[cell_type],
        strict=True,
    ):
        weights[source, target] = weight * gate
    total, hop = np.eye(n), np.eye(n)
    for _ in range(n):
        hop = hop @ weights
        total = total + hop
    assert not hop.any()  # acyclic: no path is longer than the number of genes
    return total[screen.network.regulators]


def test_propagation_sums_all_paths(screen):
    for cell_type in range(screen.parameters.n_cell_types):
        expected = path_sums(screen, cell_type)
        np.testing.assert_allclose(screen.mechanism.propagation[cell_type], expected, atol=1e-6)


def test_network_has_several_hops_and_hubs(screen):
    among = np.isin(screen.network.target, screen.network.regulators)
    assert among.sum() >= 10
    assert (screen.network.source != screen.network.target).all()
    assert set(screen.network.source) <= set(screen.network.regulators)
    pairs = set(zip(screen.network.source, screen.network.target, strict=True))
    assert len(pairs) == len(screen.network.source)


def test_shift_equals_a_loop_over_cells(screen):
    rng = np.random.default_rng(0)
    n, m = 7, screen.mechanism
    cells = Cells(
        cell_type=rng.integers(3, size=n),
        donor=np.zeros(n, dtype=int),
        state=rng.normal(size=n),
        activity=np.zeros((n, 15)),
    )
    push = rng.uniform(size=(n, 15)) * (rng.random((n, 15)) < 0.3)
    expected = np.zeros((n, 60))
    for k in range(n):
        for r in range(15):
            gain = 2 / (1 + np.exp(-m.sensitivity[r] * cells.state[k]))
            expected[k] += -m.effect_strength * push[k, r] * gain * m.propagation[cells.cell_type[k], r]
    np.testing.assert_allclose(m.shift(cells, push), SATURATION * np.tanh(expected / SATURATION), atol=1e-12)


def test_blocks_do_not_depend_on_the_number_of_cells(screen):
    n = BLOCK_SIZE + 30
    short, long = list(screen.blocks(n)), list(screen.blocks(2 * BLOCK_SIZE + 1))
    assert [b.counts.shape[0] for b in short] == [BLOCK_SIZE, 30]
    assert [b.counts.shape[0] for b in long] == [BLOCK_SIZE, BLOCK_SIZE, 1]
    assert (short[0].counts != long[0].counts).nnz == 0
    assert (short[1].counts != long[1].counts[:30]).nnz == 0
    np.testing.assert_array_equal(short[1].treatment, long[1].treatment[:30])
    assert not np.array_equal(short[0].cells.state[:30], short[1].cells.state)


def test_treatment_is_independent_of_state_but_not_of_cell_type():
    screen = Screen.draw(SimulationParameters(n_genes=4, n_perturbations=2, treatment_imbalance=1.0, seed=3))
    blocks = list(screen.blocks(40 * BLOCK_SIZE))
    treatment = np.concatenate([b.treatment for b in blocks])
    state = np.concatenate([b.cells.state for b in blocks])
    cell_type = np.concatenate([b.cells.cell_type for b in blocks])
    for x in range(3):
        share = np.bincount(treatment[cell_type == x], minlength=3) / (cell_type == x).sum()
        np.testing.assert_allclose(share, screen.treatment_probability[x], atol=0.02)
        for t in range(3):
            chosen = state[(cell_type == x) & (treatment == t)]
            assert abs(chosen.mean()) < 4.5 / np.sqrt(len(chosen))
    assert np.ptp(screen.treatment_probability[:, 1]) > 0.05


def test_dose_response_is_monotone_and_saturates():
    response = dose_response(np.linspace(0, 8, 50), 4.0)
    assert response[0] == 0
    assert (np.diff(response) > 0).all()
    assert (np.diff(response, 2) < 0).all()
    assert dose_response(np.array([4.0]), 4.0) == pytest.approx(1.0)


def test_held_out_pairs_leave_every_treatment_in_some_type():
    for n_pairs in (0, 5, 9, 18):
        screen = Screen.draw(SimulationParameters(n_genes=60, n_perturbations=9, n_ood_pairs=n_pairs))
        assert screen.held_out.sum() == n_pairs
        assert not screen.held_out[:, 0].any()
        assert not screen.held_out.all(axis=0).any()
    one_type = Screen.draw(SimulationParameters(n_genes=60, n_perturbations=9, n_cell_types=1))
    assert not one_type.held_out.any()


def test_prior_has_the_stated_errors():
    screen = Screen.draw(SimulationParameters(n_genes=400, prior_missing=0.4, prior_false=1.5))
    prior = draw_prior(screen)
    n_true = len(screen.network.source)
    kept = (prior[screen.network.source, screen.network.target] > 0).sum()
    assert kept / n_true == pytest.approx(0.6, abs=0.05)
    assert prior.nnz - kept == round(1.5 * n_true)
    assert prior.data.min() > 0
    assert prior.diagonal().sum() == 0
    assert set(prior.nonzero()[0]) <= set(screen.network.regulators)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_genes", 1),
        ("n_genes", 10.0),
        ("n_perturbations", 0),
        ("n_perturbations", True),
        ("n_regulators", 0),
        ("n_perturbations", 2.5),
        ("n_perturbations", 501),
        ("n_regulators", 501),
        ("n_cell_types", 0),
        ("n_donors", 0),
        ("n_combinations", 191),
        ("combination_sep", ""),
        ("combination_sep", "and"),
        ("doses", ()),
        ("doses", (0.0, 1.0)),
        ("doses", (1.0, 1.0)),
        ("doses", (float("nan"),)),
        ("control_share", 0),
        ("control_share", 1),
        ("effect_strength", -1),
        ("effect_strength", float("inf")),
        ("interaction", 1.1),
        ("state_strength", -0.1),
        ("median_library", 0),
        ("dispersion", 0),
        ("prior_missing", 2),
        ("prior_false", -1),
        ("n_ood_pairs", 41),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_impossible_options_are_named(option, value):
    with pytest.raises(ValueError, match=option):
        SimulationParameters(**{option: value})
