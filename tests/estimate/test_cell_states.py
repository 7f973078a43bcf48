"""Predictions from the states of cells: the conditional mean they stand for, and what Eq. 4 gains by them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scgraphvci.estimate import EffectSums, Groups, MarginalEffects, marginal_effects
from scgraphvci.estimate._cell_states import CellStates, ConditionPredictions, StatePredictions
from scgraphvci.estimate._guarded import GuardedSums

N_GENES, N_STATES = 60, 3
LEVELS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


class Screen:
    """Four strata, six conditions; a third of the genes respond, each stratum's response differs at random."""

    def __init__(self, seed: int, n_cells: int = 1500, n_conditions: int = 6, deviation: float = 0.4) -> None:
        rng = np.random.default_rng(seed)
        self.stratum, self.condition = rng.integers(4, size=n_cells), rng.integers(n_conditions, size=n_cells)
        self.loading = rng.normal(size=(N_GENES, N_STATES))
        responds = rng.random((n_conditions, N_GENES)) < 0.3
        responds[0] = False
        shared = rng.normal(size=(n_conditions, N_GENES)) * responds
        own = shared * (1 + deviation * rng.normal(size=(4, n_conditions, N_GENES)))
        self.effect = own - own[:, :1]
        self.state = rng.normal(size=(n_cells, N_STATES))
        noise = rng.normal(size=(n_cells, N_GENES))
        level = 5 * rng.normal(size=(4, N_GENES))
        self.outcome = (
            level[self.stratum] + own[self.stratum, self.condition] + self.state @ self.loading.T + 1.5 * noise
        )

    def states(self, batch: int = 211) -> CellStates:
        cells = CellStates(self.stratum, self.condition, LEVELS)
        for start in range(0, len(self.stratum), batch):
            rows = np.arange(start, min(start + batch, len(self.stratum)))
            cells.update(self.outcome[rows], self.state[rows], rows)
        return cells

    def effects(
        self, predictions: StatePredictions | None, cluster: np.ndarray | None = None, **kwargs: Any
    ) -> MarginalEffects:
        groups, group = Groups.from_codes(self.stratum, cluster)
        every = np.arange(len(self.stratum))
        codes = range(self.condition.max() + 1)
        nothing = np.zeros_like(self.outcome)
        states = [None if predictions is None else predictions.of(code) for code in codes]
        predicted = [nothing if one is None else one.predict(self.outcome, every) for one in states]

        def sums(code: int, arm: np.ndarray, reference: np.ndarray) -> EffectSums:
            one = EffectSums(groups, N_GENES)
            one.update(self.outcome, arm, reference, self.condition == code, self.condition == 0, group)
            return one

        given: list[tuple[str, Any]] = []
        for code in codes[1:]:
            of_model = sums(code, nothing, nothing)
            if states[code] is not None:
                by_states = np.ones((4, 3), dtype=bool)
                unexpected = states[code].unexpected + states[0].unexpected
                made = sums(code, predicted[code], predicted[0])
                of_model = GuardedSums(of_model, made, by_states, unexpected)
            given.append((f"t{code}", of_model))
        strata = pd.DataFrame(LEVELS, columns=["a", "b"])
        genes = [f"g{i}" for i in range(N_GENES)]
        return marginal_effects(given, strata=strata, genes=genes, **{"keep_influence": False, **kwargs})


def within(values: np.ndarray, screen: Screen) -> np.ndarray:
    arm = pd.Series(screen.stratum * 100 + screen.condition)
    return values - pd.DataFrame(values).groupby(arm).transform("mean").to_numpy()


def test_a_correction_is_the_conditional_mean_of_what_the_states_of_the_cells_drawn_add() -> None:
    screen = Screen(0)
    predictions = screen.states().fit()
    fitted = predictions._screen
    outcome, latent = within(screen.outcome, screen), within(screen.state, screen)
    n_within = len(outcome) - 24
    slope = np.linalg.lstsq(latent, outcome, rcond=None)[0].T
    explained = slope @ (latent.T @ latent / n_within) @ slope.T
    variance = (outcome**2).sum(axis=0) / n_within
    np.testing.assert_allclose(predictions._loading @ predictions._loading.T, explained, atol=1e-8)

    code, x = 2, 1
    arms = fitted.of(code)
    n_arm = np.array([((screen.stratum == s) & (screen.condition == code)).sum() for s in range(4)])
    by_chance = 1 / n_arm - 1 / np.bincount(screen.stratum)
    difference = fitted.difference[arms.arm]
    others = {0: [0, 2, 3], 1: [0], 2: [3]}  # all others, those that share the first level, and the second
    share, certain = np.zeros((N_GENES, 4)), np.zeros((N_GENES, 3))
    for feature, members in others.items():
        mean = np.average(difference[members], axis=0, weights=n_arm[members])
        np.testing.assert_allclose(arms.seen[x, :, feature], mean, atol=1e-10)
        weight = n_arm[members] / n_arm[members].sum()
        certain[:, feature] = np.maximum(1 - 4 * variance * (weight**2 @ by_chance[members]) / mean**2, 0)
        of_feature = fitted.share[feature] + fitted.share[3 + feature] * certain[:, feature]
        share[:, members] += of_feature[:, None] * weight
    by_chance_expected = share**2 @ by_chance
    assert (certain > 0).any()
    assert (certain == 0).any()
    assert fitted.share[3:].any()
    features = np.concatenate([arms.seen, arms.seen * arms.certain], axis=2)
    np.testing.assert_allclose(arms.certain[x], certain, atol=1e-10)
    rho = np.sqrt((arms.seen[x] ** 2).mean(axis=1) / variance)
    unexpected = variance * (fitted.excess @ np.array([np.ones_like(rho), rho, rho**2]))

    usual = by_chance_expected.mean()
    total = by_chance[x] + usual
    noise = np.maximum(variance - np.diag(explained), 0.05 * variance)
    of_expected = usual * noise + np.maximum(by_chance_expected - usual, 0) * variance
    error = by_chance[x] * noise + of_expected + unexpected
    d = difference[x] - fitted.expected[arms.arm[x]]
    np.testing.assert_allclose(fitted.expected[arms.arm], features @ fitted.share, atol=0.05)  # of the last centring
    spread = error
    for _ in range(5):  # errors of t distributions with 4 degrees of freedom
        left = d - total * explained @ np.linalg.solve(total * explained + np.diag(spread), d)
        spread = error * (4 + left**2 / error) / 5
    weights = by_chance[x] * explained @ np.linalg.inv(total * explained + np.diag(spread))
    expected = weights @ d
    not_drawn = np.maximum(unexpected + of_expected, spread - by_chance[x] * noise)
    taken = weights @ (np.diag(not_drawn) + usual * explained) @ weights.T
    np.testing.assert_allclose(predictions.of(code).unexpected[x], np.diag(taken), rtol=1e-6)
    every = np.arange(len(screen.stratum))
    predicted = predictions.of(code).predict(screen.outcome, every)
    member = (screen.stratum == x) & (screen.condition == code)
    np.testing.assert_allclose(predicted[member].mean(axis=0), expected, atol=1e-8)
    np.testing.assert_allclose(predicted[screen.stratum == x].mean(axis=0), 0, atol=1e-8)


def test_batches_origin_and_constant_genes_do_not_matter() -> None:
    screen = Screen(1)
    every = np.arange(len(screen.stratum))
    found = screen.states().fit().of(1).predict(screen.outcome, every)
    np.testing.assert_allclose(screen.states(batch=2000).fit().of(1).predict(screen.outcome, every), found, atol=1e-8)
    screen.outcome = np.column_stack([screen.outcome[:, :-1], np.zeros(len(every))])
    moved = screen.outcome + 1e3
    without = screen.states().fit().of(1).predict(screen.outcome, every)
    assert np.isfinite(without).all()
    assert (without[:, -1] == 0).all()
    screen.outcome = moved
    np.testing.assert_allclose(screen.states().fit().of(1).predict(moved, every), without, atol=1e-6)


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Squared errors over those of `observed`, and coverage of all and of large effects, over 12 screens."""
    kinds = ("observed", "states", "true")
    squared, inside, large = ({kind: [] for kind in kinds} for _ in range(3))
    for seed in range(12):
        screen = Screen(seed)
        truth = screen.effect[:, 1:].swapaxes(0, 1)
        result = {"observed": screen.effects(None), "states": screen.effects(screen.states().fit())}
        for kind, effects in result.items():
            covered = (effects.ci_low <= truth) & (truth <= effects.ci_high)
            squared[kind].append(np.mean((effects.estimate - truth) ** 2))
            inside[kind].append(covered.mean())
            large[kind].append(covered[np.abs(truth) > 1].mean())
        drawn = screen.state @ screen.loading.T
        known = Screen(seed)
        known.outcome = screen.outcome - drawn  # the oracle knows the states, whose mean over the population is 0
        squared["true"].append(np.mean((known.effects(None).estimate - truth) ** 2))
    base = np.mean(squared["observed"])
    found = {kind: float(np.mean(squared[kind]) / base) for kind in kinds}
    return found | {"cover": float(np.mean(inside["states"])), "cover large": float(np.mean(large["states"]))}


def test_half_the_gap_to_known_states_is_closed(errors: dict[str, float]) -> None:
    assert (1 - errors["states"]) / (1 - errors["true"]) > 0.5


def test_intervals_cover_also_large_effects(errors: dict[str, float]) -> None:
    assert 0.94 < errors["cover"] < 0.97
    assert 0.93 < errors["cover large"] < 0.97


@pytest.mark.parametrize("clusters", [None, 8])
def test_errors_hold_what_is_taken_for_states(clusters: int | None) -> None:
    screen = Screen(3)
    cluster = None if clusters is None else np.arange(len(screen.stratum)) % clusters
    predictions = screen.states().fit()
    full = screen.effects(predictions, cluster, keep_influence="float64", p_adjust=None)
    plain = screen.effects(_Told(predictions), cluster, keep_influence="float64", p_adjust=None)
    np.testing.assert_array_equal(plain.estimate, full.estimate)
    for t in range(5):
        added = predictions.of(t + 1).unexpected + predictions.of(0).unexpected
        assert (added > 0).all()
        np.testing.assert_allclose(full.std_error[t] ** 2 - plain.std_error[t] ** 2, added, rtol=1e-6)
    # Totals, from which bands and averages of strata are made, grow as errors do.
    ratio = (full.influence.total**2).sum(axis=2) / (plain.influence.total**2).sum(axis=2)
    np.testing.assert_allclose(ratio, (full.std_error / plain.std_error) ** 2, rtol=1e-6)
    pooled = [one.pool("a") for one in (plain, full)]
    assert (pooled[1].std_error > pooled[0].std_error).mean() > 0.9


class _Told:
    """The same predictions, as if nothing but states moved arms."""

    def __init__(self, predictions: StatePredictions) -> None:
        self._predictions = predictions

    def of(self, condition: int) -> ConditionPredictions:
        one = self._predictions.of(condition)
        return replace(one, unexpected=np.zeros_like(one.unexpected))


def test_a_gene_that_responds_in_one_stratum_only_is_not_taken_for_a_state() -> None:
    """As errors of genes have heavy tails, a response of ten standard deviations hardly moves the correction."""
    screen = Screen(4)
    here = (screen.stratum == 2) & (screen.condition == 3)
    every, arm = np.arange(len(here)), np.flatnonzero(here)
    before = screen.states().fit().of(3).predict(screen.outcome, every)[arm].mean(axis=0)
    screen.outcome[here, 0] += 10 * screen.outcome[:, 0].std()
    after = screen.states().fit().of(3).predict(screen.outcome, every)[arm].mean(axis=0)
    error = np.abs(screen.loading).max() * np.sqrt(1 / len(arm))  # of a gene's mean, by the states of its cells
    assert np.abs(after - before).max() < error


def test_a_status_asks_whether_the_row_is_hurt() -> None:
    """Leaks of the model are reported; rows corrected by states are flagged if their own bias is large."""
    screen = Screen(5)
    groups, group = Groups.from_codes(screen.stratum)
    in_arm, reference = screen.condition == 1, screen.condition == 0
    effect = np.array([screen.effect[screen.stratum, 1]])[0]
    leaking = EffectSums(groups, N_GENES)
    leaking.update(screen.outcome, effect * (1 + 0.5 * in_arm[:, None]), 0 * effect, in_arm, reference, group)
    harmless = EffectSums(groups, N_GENES)
    harmless.update(screen.outcome, 0 * effect, 0 * effect, in_arm, reference, group)
    by_states, nothing = np.ones((4, 3), dtype=bool), np.zeros((4, N_GENES))
    strata, genes = pd.DataFrame(LEVELS, columns=["a", "b"]), [str(i) for i in range(N_GENES)]
    results = [
        marginal_effects([("t", sums)], strata=strata, genes=genes)
        for sums in (leaking, GuardedSums(leaking, harmless, by_states, nothing))
    ]
    for result in results:
        assert (result.leakage().summary()["p_value"] < 0.05).all()
        np.testing.assert_allclose(result.plugin, results[0].plugin)
    assert (results[0].status == "leak_detected").all()
    assert (results[1].status == "ok").all()
    np.testing.assert_allclose(results[1].robust, results[1].observed)
    swapped = marginal_effects([("t", GuardedSums(harmless, leaking, by_states, nothing))], strata=strata, genes=genes)
    assert (swapped.status == "leak_detected").all()
    allowed_for = marginal_effects(
        [("t", GuardedSums(harmless, leaking, by_states, nothing + 10))], strata=strata, genes=genes
    )
    assert (allowed_for.status == "ok").all()


def test_without_other_strata_nothing_is_corrected() -> None:
    screen = Screen(2)
    alone = (screen.condition == 3) & (screen.stratum != 2)
    for name in ("stratum", "condition", "state", "outcome"):
        setattr(screen, name, getattr(screen, name)[~alone])
    every = np.arange(len(screen.stratum))
    predictions = screen.states().fit()
    assert (predictions.of(3).predict(screen.outcome, every) == 0).all()
    assert (predictions.of(99).predict(screen.outcome, every) == 0).all()  # which no cell received
    assert predictions.of(2).predict(screen.outcome, every).any()
    one = CellStates(np.zeros(len(every), dtype=int), screen.condition, np.zeros((1, 0)))
    one.update(screen.outcome, screen.state, every)
    assert (one.fit().of(1).predict(screen.outcome, every) == 0).all()


def test_needs_cells() -> None:
    with pytest.raises(ValueError, match="No cells were added"):
        CellStates([0], [0], [[0]]).fit()
