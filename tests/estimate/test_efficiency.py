"""Against a linear-Gaussian model, whose efficiency bound is known in closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.estimate import EffectSums, Groups, marginal_effects

N_CELLS, N_REPLICATES = 500, 8000
SLOPE, NOISE = {1: 1.5, 0: 0.8}, {1: 1.0, 0: 0.6}


@pytest.fixture(scope="module")
def effects():
    """Every gene is a replicate, with a state of its own; predictions are the true means of a cell given its state."""
    rng = np.random.default_rng(3)
    treated = np.arange(N_CELLS) % 10 < 3
    state = rng.normal(size=(N_CELLS, N_REPLICATES))
    mean = {arm: SLOPE[arm] * state + arm for arm in (0, 1)}
    noise = rng.normal(size=state.shape)
    outcome = np.where(treated[:, None], mean[1] + NOISE[1] * noise, mean[0] + NOISE[0] * noise)
    groups, group = Groups.from_codes(np.zeros(N_CELLS, dtype=int))
    sums = EffectSums(groups, N_REPLICATES)
    sums.update(outcome, mean[1], mean[0], treated, ~treated, group)
    options = {"strata": pd.DataFrame(index=[0]), "genes": range(N_REPLICATES), "keep_influence": False}
    return {name: marginal_effects([("a", sums)], estimator=name, **options) for name in ("robust", "observed")}


def closed_form(estimator):
    """Variance times cells: Hahn's bound (Econometrica 1998), or the difference of two means."""
    share = {1: 0.3, 0: 0.7}
    if estimator == "robust":
        return sum(NOISE[arm] ** 2 / share[arm] for arm in share) + (SLOPE[1] - SLOPE[0]) ** 2
    return sum((NOISE[arm] ** 2 + SLOPE[arm] ** 2) / share[arm] for arm in share)


@pytest.mark.parametrize("estimator", ["robust", "observed"])
def test_variance_and_error_are_the_closed_form(effects, estimator):
    one, bound = effects[estimator], closed_form(estimator) / N_CELLS
    assert one.estimate.mean() == pytest.approx(1.0, abs=4 * np.sqrt(bound / N_REPLICATES))
    assert one.estimate.var() / bound == pytest.approx(1.0, abs=0.05)
    assert (one.std_error**2).mean() / bound == pytest.approx(1.0, abs=0.05)


def test_robust_reaches_the_bound_and_observed_does_not(effects):
    assert closed_form("robust") < 0.5 * closed_form("observed")
    assert effects["robust"].estimate.var() < 0.55 * effects["observed"].estimate.var()
