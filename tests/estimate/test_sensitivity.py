from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgraphvci.estimate import EffectSums, Groups, marginal_effects

GENES = ["g0", "g1", "g2", "g3"]
STRATA = pd.DataFrame({"s": ["x", "y", "z"]})


@pytest.fixture
def effects(make_cells):
    return marginal_effects([("a", make_cells().sums())], strata=STRATA, genes=GENES)


def test_no_leak_allowed_is_the_result_itself(effects):
    frame = effects.sensitivity(0)
    whole = effects.to_frame()
    for name in ("estimate", "ci_low", "ci_high", "p_value"):
        np.testing.assert_allclose(frame[name], whole[name], rtol=1e-12)
    np.testing.assert_array_equal(frame["estimate_low"], frame["estimate_high"])


def test_interval_grows_by_the_bias_that_is_possible(effects):
    frame = effects.sensitivity([0.0, 0.1, 0.3], strata={"s": "y"}, genes=["g2", "g0"])
    assert frame["gene"].tolist() == ["g2"] * 3 + ["g0"] * 3
    assert frame["leak"].tolist() == [0.0, 0.1, 0.3] * 2
    for position, gene in [(0, 2), (3, 0)]:
        predicted = abs(effects.plugin[0, 1, gene])
        for step, leak in enumerate([0.0, 0.1, 0.3]):
            row = frame.iloc[position + step]
            assert row["ci_low"] == pytest.approx(effects.ci_low[0, 1, gene] - leak * predicted)
            assert row["ci_high"] == pytest.approx(effects.ci_high[0, 1, gene] + leak * predicted)
            assert row["estimate_high"] - row["estimate_low"] == pytest.approx(2 * leak * predicted)
            beyond = max(abs(row["estimate"]) - leak * predicted, 0) / effects.std_error[0, 1, gene]
            assert row["p_value"] == pytest.approx(2 * stats.t.sf(beyond, effects.df[0, 1, gene]))


def test_significance_is_lost_at_the_leak_stated(effects):
    lost = effects.sensitivity(0)["leak_to_insignificance"].to_numpy().reshape(3, 4)
    assert (lost > 0).any()
    for x, gene in zip(*np.nonzero(lost > 0), strict=True):
        for factor, significant in [(0.999, True), (1.001, False)]:
            frame = effects.sensitivity(lost[x, gene] * factor).iloc[4 * x + gene]
            assert (frame["p_value"] < 0.05) == significant
            assert (frame["ci_low"] > 0 or frame["ci_high"] < 0) == significant
    assert ((effects.p_value[0] >= 0.05) == (lost == 0)).all()


def test_max_leak_is_the_interval_of_that_sensitivity(make_cells, effects):
    allowed = marginal_effects([("a", make_cells().sums())], strata=STRATA, genes=GENES, max_leak=0.2)
    frame = effects.sensitivity(0.2)
    for name in ("ci_low", "ci_high", "p_value"):
        np.testing.assert_allclose(allowed.to_frame()[name], frame[name], rtol=1e-12)
    np.testing.assert_array_equal(allowed.std_error, effects.std_error)
    low, high, _ = allowed.joint_bands()
    narrow_low, narrow_high, _ = effects.joint_bands()
    np.testing.assert_allclose(narrow_low - low, 0.2 * np.abs(effects.plugin))
    np.testing.assert_allclose(high - narrow_high, 0.2 * np.abs(effects.plugin))


@pytest.mark.parametrize(("leak", "max_leak", "covers"), [(0.1, 0.0, False), (0.1, 0.1, True), (-0.1, 0.1, True)])
def test_the_interval_is_valid_under_the_leak_allowed(leak, max_leak, covers):
    """1,500 genes, each a replicate, with an effect that a share of leaks into the predictions."""
    rng = np.random.default_rng(1)
    treated = rng.permutation(600) < 180
    state = rng.normal(size=(600, 1500))
    leaking = state + leak * treated[:, None]
    outcome = state + treated[:, None] + 0.3 * rng.normal(size=state.shape)
    groups, group = Groups.from_codes(np.zeros(600, dtype=int))
    sums = EffectSums(groups, 1500)
    sums.update(outcome, leaking + 1.0, leaking, treated, ~treated, group)
    result = marginal_effects(
        [("a", sums)], strata=pd.DataFrame(index=[0]), genes=range(1500), max_leak=max_leak, keep_influence=False
    )
    covered = ((result.ci_low <= 1.0) & (1.0 <= result.ci_high)).mean()
    assert covered >= 0.93 if covers else covered < 0.6


def test_an_effect_that_is_not_predicted_is_never_lost(make_cells):
    cells = make_cells()
    cells.predicted = cells.predicted_reference
    result = marginal_effects([("a", cells.sums())], strata=STRATA, genes=GENES)
    lost = result.sensitivity(0)["leak_to_insignificance"]
    significant = result.to_frame()["p_value"] < 0.05
    assert significant.any()
    assert np.isinf(lost[significant]).all()
    assert (lost[~significant] == 0).all()


@pytest.mark.parametrize(
    ("options", "leaks", "message"),
    [
        ({}, [-0.1], r"\[-0.1\]"),
        ({}, [], "shares"),
        ({"estimator": "observed"}, 0.1, "'observed'"),
    ],
)
def test_wrong_requests_are_refused(make_cells, options, leaks, message):
    result = marginal_effects([("a", make_cells().sums())], strata=STRATA, genes=GENES, **options)
    with pytest.raises(ValueError, match=message):
        result.sensitivity(leaks)


def test_a_mean_has_no_sensitivity(make_cells):
    sums = make_cells().sums(with_reference=False)
    result = marginal_effects([("a", sums)], strata=STRATA, genes=GENES, reference=None)
    with pytest.raises(ValueError, match="reference None"):
        result.sensitivity()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_leak": -0.1}, "`max_leak` is -0.1"), ({"max_leak": 1.0}, "below 1"),
     ({"max_leak": 0.1, "estimator": "observed"}, "'observed'")],
)  # fmt: skip
def test_bad_bounds_are_named(make_cells, options, message):
    with pytest.raises(ValueError, match=message):
        marginal_effects([("a", make_cells().sums())], strata=STRATA, genes=GENES, **options)
