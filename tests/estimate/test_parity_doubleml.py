"""Equal to DoubleML's interactive regression model on a design of strata, given the same predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from scgraphvci.estimate import EffectSums, Groups, marginal_effects
from scgraphvci.estimate._influence import influence_function, stratum_moments, variance_by_role

doubleml = pytest.importorskip("doubleml")

SIZES = (80, 120, 200)


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    """Outcome, treatment, stratum, two predictions whose residuals have mean zero in each arm, and the propensity."""
    rng = np.random.default_rng(0)
    stratum = np.repeat(np.arange(len(SIZES)), SIZES)
    treated = rng.random(len(stratum)) < np.array([0.2, 0.4, 0.6])[stratum]
    state = rng.normal(size=len(stratum))
    outcome = stratum + state + treated * (1 + 0.5 * stratum + state) + 0.5 * rng.normal(size=len(stratum))
    frame = pd.DataFrame({"y": outcome, "d": treated.astype(float), "stratum": stratum})
    for name, arm, predicted in (
        ("g1", treated, stratum + 1 + 1.8 * state),
        ("g0", ~treated, stratum + 0.9 * state),
    ):
        residual = pd.Series(np.where(arm, outcome - predicted, np.nan)).groupby(stratum).transform("mean")
        frame[name] = predicted + residual
    frame["m"] = frame.groupby("stratum")["d"].transform("mean")
    return frame


def doubleml_fit(frame: pd.DataFrame):
    one_hot = pd.get_dummies(frame["stratum"], prefix="x", dtype=float)
    table = pd.concat([frame[["y", "d"]], one_hot], axis=1)
    data = doubleml.DoubleMLData(table, y_col="y", d_cols="d", x_cols=list(one_hot))
    irm = doubleml.DoubleMLIRM(data, LinearRegression(), LogisticRegression(), n_folds=2)
    external = {name: frame[[column]].to_numpy() for name, column in (("ml_g0", "g0"), ("ml_g1", "g1"), ("ml_m", "m"))}
    return irm.fit(external_predictions={"d": external})


def our_sums(frame: pd.DataFrame) -> EffectSums:
    groups, group = Groups.from_codes(frame["stratum"] - frame["stratum"].min(), n_blocks=0)
    sums = EffectSums(groups, 1)
    treated = frame["d"].to_numpy() == 1
    outcome, g1, g0 = (frame[[name]].to_numpy() for name in ("y", "g1", "g0"))
    sums.update(outcome, g1, g0, treated, ~treated, group)
    return sums


def test_estimate_over_all_strata(cells):
    """Also with predictions that are off: the propensity is known, and both correct for it alike."""
    for shift in (0.0, 0.7):
        frame = cells.assign(g1=cells["g1"] + shift * np.sin(cells["y"]), g0=cells["g0"] - shift)
        effects = marginal_effects(
            [("d", our_sums(frame))], strata=pd.DataFrame(index=[0]), genes=["y"], reported=np.zeros(3, dtype=int)
        )
        np.testing.assert_allclose(effects.estimate.item(), doubleml_fit(frame).coef[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("stratum", range(len(SIZES)))
def test_error_of_each_stratum(cells, stratum):
    """Where residuals of each arm have mean zero (elsewhere theirs are not centred), less our small-sample factor."""
    frame = cells[cells["stratum"] == stratum].reset_index(drop=True)
    moments = stratum_moments(our_sums(frame))
    variance = variance_by_role(moments, influence_function(moments, "robust"), small_sample=False).sum(axis=1)
    theirs = doubleml_fit(frame)
    np.testing.assert_allclose(np.sqrt(variance.item()), theirs.se[0], rtol=0, atol=1e-8)


def test_error_over_all_strata(cells):
    """Theirs is of strata drawn at random, ours given the strata: the variance between them is the difference."""
    moments = stratum_moments(our_sums(cells))
    within = variance_by_role(moments, influence_function(moments, "robust"), small_sample=False).sum(axis=1)[:, 0]
    theirs = doubleml_fit(cells)
    effect = [doubleml_fit(frame.reset_index(drop=True)).coef[0] for _, frame in cells.groupby("stratum")]
    share = np.array(SIZES) / sum(SIZES)
    between = share @ (np.array(effect) - theirs.coef[0]) ** 2 / sum(SIZES)
    np.testing.assert_allclose(np.sqrt(share**2 @ within + between), theirs.se[0], rtol=0, atol=1e-8)
