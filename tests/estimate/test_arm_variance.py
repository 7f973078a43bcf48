"""The variance of mean latents between arms, and what of Eq. 4's correction it leaves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.estimate import EffectSums, Groups, MarginalEffects, marginal_effects
from scgraphvci.estimate._arm_moments import ArmMoments
from scgraphvci.estimate._arm_variance import _excess, concentration, trace_factor, trust, variance_between


def estimate(latent: np.ndarray, stratum: np.ndarray, condition: np.ndarray, batch: int = 997) -> float:
    arms = ArmMoments(stratum, condition)
    for start in range(0, len(latent), batch):
        rows = np.arange(start, min(start + batch, len(latent)))
        arms.update(latent[rows], rows)
    return variance_between(arms)


def screen(rng: np.random.Generator, n_cells: int, between: float, n_latent: int = 8) -> tuple[np.ndarray, ...]:
    """Latents with any covariance within arms, strata that differ widely, and arms that differ by `between`."""
    stratum, condition = rng.integers(4, size=n_cells), rng.integers(20, size=n_cells)
    mixing = np.linalg.qr(rng.normal(size=(n_latent, n_latent)))[0] * np.linspace(0.3, 2.0, n_latent)
    trace = np.sqrt(between) * rng.normal(size=(4, 20, n_latent))
    latent = (rng.normal(size=(n_cells, n_latent)) + trace[stratum, condition]) @ mixing
    return latent + 30 * rng.normal(size=(4, n_latent))[stratum], stratum, condition


@pytest.mark.parametrize("between", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("n_cells", [2_000, 20_000])
def test_finds_the_variance_between_arms(between: float, n_cells: int) -> None:
    found = [estimate(*screen(np.random.default_rng(seed), n_cells, between)) for seed in range(10)]
    assert np.mean(found) == pytest.approx(between, rel=0.12, abs=0.1 * 80 / n_cells)


@pytest.mark.parametrize("n_cells", [1_000, 10_000])
def test_no_variance_where_arms_differ_by_chance(n_cells: int) -> None:
    found = [estimate(*screen(np.random.default_rng(seed), n_cells, 0.0)) for seed in range(20)]
    assert np.mean(found) < 0.05 * 80 / n_cells  # 80 / n_cells is what chance gives
    assert np.median(found) < 0.02 * 80 / n_cells


def test_does_not_depend_on_scale_batches_or_unused_latents() -> None:
    latent, stratum, condition = screen(np.random.default_rng(0), 3_000, 0.1)
    found = estimate(latent, stratum, condition)
    mixed = latent @ np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0] * 7 + 1e4
    assert estimate(mixed, stratum, condition, batch=3_000) == pytest.approx(found, rel=1e-6)
    collapsed = np.column_stack([latent, 1e-6 * np.random.default_rng(2).normal(size=(3_000, 4)), np.ones(3_000)])
    assert estimate(collapsed, stratum, condition) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize(
    ("latent", "stratum", "condition"),
    [
        (np.zeros((6, 2)), np.zeros(6, dtype=int), np.arange(6) % 2),  # all collapsed
        (np.eye(4), np.zeros(4, dtype=int), np.arange(4)),  # a cell in each arm
        (np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) // 3, np.zeros(9, dtype=int)),  # one treatment
    ],
)
def test_nothing_to_learn_from(latent: np.ndarray, stratum: np.ndarray, condition: np.ndarray) -> None:
    assert estimate(latent, stratum, condition) == 0.0


def test_trust_is_the_best_linear_predictor_of_what_is_due_to_the_cells_drawn() -> None:
    rng = np.random.default_rng(0)
    n_arm, n_stratum, between = 25, 400, 0.03
    by_chance = 1 / n_arm - 1 / n_stratum
    drawn = np.sqrt(by_chance) * rng.normal(size=400_000)
    difference = drawn + np.sqrt(between) * rng.normal(size=drawn.size)
    slope = (drawn @ difference) / (difference @ difference)
    assert trust(n_arm, n_stratum, between, 2 * n_arm / n_stratum) == pytest.approx(
        slope, abs=5e-3
    )  # whose factor is 1


def test_trust_at_the_ends() -> None:
    assert trust([5, 0, 50], [50, 50, 50], 0.0, 0.3).tolist() == [1.0, 1.0, 1.0]
    assert trust([50, 0], [50, 50], 0.2, 1.0).tolist() == [
        1.0,
        1.0,
    ]  # an arm that is its stratum has nothing to correct


def test_a_large_control_arm_does_not_hide_the_variance_between_arms() -> None:
    """Twelve arms of 5 % against one of 40 %, which is most of the stratum's mean."""
    share, between = np.array([0.4, *[0.05] * 12]), 0.04
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        condition, stratum = rng.choice(13, size=4_000, p=share), rng.integers(4, size=4_000)
        trace = np.sqrt(between) * rng.normal(size=(4, 13, 8))
        found.append(estimate(rng.normal(size=(4_000, 8)) + trace[stratum, condition], stratum, condition))
    assert np.mean(found) == pytest.approx(between, rel=0.06)


def test_the_factor_is_the_variance_of_the_distance_of_independent_traces() -> None:
    share = np.array([0.6, 0.3, 0.1])
    trace = np.random.default_rng(0).normal(size=(200_000, 3))
    expected = (trace - (trace @ share)[:, None]).var(axis=0)
    stratum, condition = np.zeros(10, dtype=int), np.repeat([0, 1, 2], [6, 3, 1])
    concentrated = concentration(stratum, condition, 2)
    assert concentrated == pytest.approx([0.46, 0.0])
    assert trace_factor(share, concentrated[0]) == pytest.approx(expected, rel=0.02)


def drawn() -> tuple[np.ndarray, ...]:
    """Stratum, role (arm, reference or neither), state and outcome of cells of two strata."""
    rng = np.random.default_rng(3)
    n, n_genes = 600, 4
    stratum, state = rng.integers(2, size=n), rng.normal(size=(n, n_genes))
    role = rng.choice(3, size=n, p=[0.1, 0.3, 0.6])
    return stratum, role, state, state + (role == 0)[:, None] + rng.normal(size=(n, n_genes))


def effects_of(
    arm_variance: float, scale: tuple[float, float] = (1.0, 1.0), concentrated: tuple[float, float] | None = None
) -> MarginalEffects:
    """Effects on the screen of `drawn` with predictions that know the state, of arm and reference each multiplied."""
    stratum, role, state, outcome = drawn()
    groups, group = Groups.from_codes(stratum)
    sums = EffectSums(groups, state.shape[1])
    sums.update(outcome, scale[0] * (state + 1), scale[1] * state, role == 0, role == 1, group)
    strata = pd.DataFrame({"x": ["a", "b"]})
    return marginal_effects(
        [("t", sums)], strata=strata, genes=list("abcd"), arm_variance=arm_variance, concentrated=concentrated
    )


@pytest.mark.parametrize("concentrated", [None, (0.5, 0.2)])
def test_the_guard_is_eq_4_with_predictions_multiplied_by_the_trust(concentrated: tuple[float, float] | None) -> None:
    guarded = effects_of(0.02, concentrated=concentrated)
    stratum, role, state, _ = drawn()
    for x in range(2):
        arms, n = np.array([guarded.n_treated[0, x], guarded.n_reference[0, x]]), guarded.n_stratum[0, x]
        squared_shares = ((arms / n) ** 2).sum() if concentrated is None else concentrated[x]
        share = trust(arms, n, 0.02, squared_shares)
        multiplied = effects_of(0.0, tuple(share))
        for name in ("robust", "observed", "df"):
            np.testing.assert_allclose(getattr(guarded, name)[0, x], getattr(multiplied, name)[0, x], rtol=1e-10)
        # Predictions of both arms are the state, up to a constant.
        arm = [state[(stratum == x) & (role == one)] for one in range(3)]
        within = sum(((one - one.mean(axis=0)) ** 2).sum(axis=0) for one in arm) / (n - 3)
        # Coefficients of the traces of arm, reference and the others, whose own are unknown: of their squares the sum.
        own = np.array([share[0], -share[1]]) - (share[0] - share[1]) * arms / n
        others = (share[0] - share[1]) ** 2 * (squared_shares - ((arms / n) ** 2).sum())
        traces = 0.02 * ((own**2).sum() + others) * within
        error = np.sqrt(multiplied.std_error[0, x] ** 2 + traces)
        np.testing.assert_allclose(guarded.std_error[0, x], error, rtol=1e-10)
    np.testing.assert_array_equal(guarded.plugin, effects_of(0.0).plugin)  # the model's answer is what it was
    np.testing.assert_allclose(guarded.influence.total.sum(axis=2), 0, atol=1e-5)
    assert guarded.params["arm_variance"] == 0.02


def test_errors_hold_what_traces_add() -> None:
    """Strata that are screens of their own, every arm with a trace; without it in the error .82 would be covered."""
    rng = np.random.default_rng(0)
    n_strata, n, n_arm, n_genes, effect = 400, 300, 30, 10, 0.5
    variance = 1 / n_arm - 1 / n
    stratum, role = np.repeat(np.arange(n_strata), n), np.tile(np.repeat([0, 1], [n_arm, n - n_arm]), n_strata)
    state = rng.normal(size=(n_strata * n, n_genes))
    trace = np.sqrt(variance) * rng.normal(size=(n_strata, 2, n_genes))[stratum, role]
    outcome = state + effect * (role == 0)[:, None] + 0.3 * rng.normal(size=state.shape)
    groups, group = Groups.from_codes(stratum, seed=0)
    sums = EffectSums(groups, n_genes)
    sums.update(outcome, state + trace + effect, state + trace, role == 0, role == 1, group)
    effects = marginal_effects(
        [("t", sums)], strata=pd.DataFrame({"x": range(n_strata)}), genes=range(n_genes), arm_variance=variance,
        keep_influence="bands",
    )  # fmt: skip
    covered = (effects.ci_low <= effect) & (effect <= effects.ci_high)
    assert covered.mean() == pytest.approx(0.95, abs=0.01)
    low, high, _ = effects.joint_bands()
    assert ((low <= effect) & (effect <= high)).all(axis=2).mean() == pytest.approx(0.95, abs=0.03)
    error = ((effects.robust - effect) ** 2).mean()
    assert (effects.std_error**2).mean() == pytest.approx(error, rel=0.06)


def test_the_guard_leads_from_eq_4_to_the_observed_mean() -> None:
    plain, none = effects_of(0.0), effects_of(1e12)
    np.testing.assert_allclose(none.robust, plain.observed, rtol=1e-8)
    between = effects_of(0.02)
    assert ((plain.std_error < between.std_error) & (between.std_error < none.std_error)).all()


def test_the_estimate_is_the_most_likely_for_arms_of_unequal_size() -> None:
    """Squared distances of mean w = v + f t each: minimise the sum of log(w) + d / w, here by a plain search."""
    rng = np.random.default_rng(4)
    by_chance = rng.uniform(0.001, 0.2, size=60)
    factor = rng.uniform(0.2, 1.2, size=60)
    squared = (by_chance + 0.05 * factor) * rng.chisquare(8, size=60) / 8
    grid = np.linspace(0, 0.3, 300_001)
    loss = sum(np.log(v + f * grid) + d / (v + f * grid) for v, d, f in zip(by_chance, squared, factor, strict=True))
    assert _excess(squared, by_chance, factor) == pytest.approx(grid[np.argmin(loss)], abs=2e-6)


def test_arms_whose_cells_never_come_do_not_count() -> None:
    """As in a fold, whose model encodes some of the cells."""
    latent, stratum, condition = screen(np.random.default_rng(5), 600, 0.1)
    seen = np.flatnonzero((condition != 1) & (stratum != 0))
    arms = ArmMoments(stratum, condition)
    arms.update(latent[seen], seen)
    assert variance_between(arms) == pytest.approx(estimate(latent[seen], stratum[seen], condition[seen]), rel=1e-9)
    assert variance_between(arms) > 0
