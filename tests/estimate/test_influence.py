"""Against the definitions, cell by cell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgraphvci.estimate import EffectSums, Groups, marginal_effects
from scgraphvci.estimate._influence import (
    influence_function,
    influence_totals,
    point_estimates,
    stratum_moments,
    variance_by_role,
)

ESTIMATORS = ["robust", "observed"]


def naive_arm(outcome, predicted, in_arm, estimator):
    """Estimate and influence values of one arm of one stratum, as the definitions state them."""
    n, n_genes = outcome.shape
    predicted = predicted if estimator == "robust" else np.zeros_like(predicted)
    share = in_arm.sum() / n
    residual_mean = np.mean([outcome[k] - predicted[k] for k in range(n) if in_arm[k]], axis=0)
    prediction_mean = np.mean(predicted, axis=0)
    phi = np.zeros((n, n_genes))
    for k in range(n):
        phi[k] = predicted[k] - prediction_mean
        if in_arm[k]:
            phi[k] += (outcome[k] - predicted[k] - residual_mean) / share
    return prediction_mean + residual_mean, phi


def naive(cells, stratum, estimator, *, with_reference):
    rows = cells.stratum == stratum
    outcome, treatment = cells.outcome[rows], cells.treatment[rows]
    estimate, phi = naive_arm(outcome, cells.predicted[rows], treatment == 0, estimator)
    if with_reference:
        other, phi_other = naive_arm(outcome, cells.predicted_reference[rows], treatment == 1, estimator)
        estimate, phi = estimate - other, phi - phi_other
    return estimate, phi


@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimate_and_error_equal_the_naive_computation(make_cells, estimator, with_reference):
    cells = make_cells()
    moments = stratum_moments(cells.sums(with_reference=with_reference, batch_size=37))
    estimate = getattr(point_estimates(moments), estimator)
    influence = influence_function(moments, estimator)
    variance = variance_by_role(moments, influence, small_sample=False).sum(axis=1)
    for x in range(3):
        expected, phi = naive(cells, x, estimator, with_reference=with_reference)
        np.testing.assert_allclose(estimate[x], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(np.sqrt(variance[x]), np.sqrt((phi**2).sum(axis=0)) / len(phi), rtol=0, atol=1e-9)


@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_small_sample_factor_is_that_of_each_role(make_cells, estimator, with_reference):
    cells = make_cells()
    moments = stratum_moments(cells.sums(with_reference=with_reference))
    by_role = variance_by_role(moments, influence_function(moments, estimator))
    for x in range(3):
        role = cells.treatment[cells.stratum == x]
        role = role if with_reference else np.where(role == 0, 0, 2)
        _, phi = naive(cells, x, estimator, with_reference=with_reference)
        for r in np.unique(role):
            of_role = phi[role == r]
            expected = len(of_role) * (of_role.var(axis=0, ddof=1) + of_role.mean(axis=0) ** 2) / len(phi) ** 2
            np.testing.assert_allclose(by_role[x, r], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_totals_by_group_equal_the_naive_ones(make_cells, estimator, with_reference):
    cells = make_cells()
    sums = cells.sums(clustered=True, with_reference=with_reference, batch_size=50)
    moments = stratum_moments(sums)
    (totals,) = influence_totals(sums, moments, influence_function(moments, estimator))
    for x in range(3):
        _, phi = naive(cells, x, estimator, with_reference=with_reference)
        cluster = cells.cluster[cells.stratum == x]
        for group in np.flatnonzero(sums.groups.stratum == x):
            expected = phi[cluster == sums.groups.cluster[group]].sum(axis=0)
            np.testing.assert_allclose(totals[group], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(totals[sums.groups.stratum == x].sum(axis=0), 0, atol=1e-9)


def test_equation_4_equals_its_rearrangement(make_cells):
    cells = make_cells()
    robust = point_estimates(stratum_moments(cells.sums(with_reference=False))).robust
    for x in range(3):
        rows = cells.stratum == x
        outcome, predicted, arm = cells.outcome[rows], cells.predicted[rows], cells.treatment[rows] == 0
        equation_4 = predicted.mean(axis=0) + (outcome - predicted)[arm].mean(axis=0)
        rearranged = outcome[arm].mean(axis=0) + (predicted.mean(axis=0) - predicted[arm].mean(axis=0))
        np.testing.assert_allclose(robust[x], equation_4, rtol=0, atol=1e-9)
        np.testing.assert_allclose(robust[x], rearranged, rtol=0, atol=1e-9)


def test_predicting_zero_gives_the_error_of_the_mean(make_cells):
    cells = make_cells()
    cells.predicted[:] = 0
    moments = stratum_moments(cells.sums(with_reference=False))
    influence = influence_function(moments, "robust")
    plain = variance_by_role(moments, influence, small_sample=False).sum(axis=1)
    corrected = variance_by_role(moments, influence).sum(axis=1)
    for x in range(3):
        arm = cells.outcome[(cells.stratum == x) & (cells.treatment == 0)]
        np.testing.assert_allclose(np.sqrt(plain[x]), arm.std(axis=0, ddof=0) / np.sqrt(len(arm)), rtol=1e-9)
        np.testing.assert_allclose(np.sqrt(corrected[x]), stats.sem(arm), rtol=1e-9)


def test_plugin_is_the_mean_of_predictions(make_cells):
    cells = make_cells()
    plugin = point_estimates(stratum_moments(cells.sums())).plugin
    for x in range(3):
        rows = cells.stratum == x
        expected = (cells.predicted - cells.predicted_reference)[rows].mean(axis=0)
        np.testing.assert_allclose(plugin[x], expected, atol=1e-12)


def test_plugin_has_no_influence_function(make_cells):
    with pytest.raises(ValueError, match="'plugin'"):
        influence_function(stratum_moments(make_cells().sums()), "plugin")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_large_common_level_costs_no_precision(make_cells, estimator):
    cells = make_cells()
    moments = stratum_moments(cells.sums())
    expected = variance_by_role(moments, influence_function(moments, estimator))
    for name in ("outcome", "predicted", "predicted_reference"):
        setattr(cells, name, getattr(cells, name) + 2.0**20)
    moments = stratum_moments(cells.sums(batch_size=17))
    variance = variance_by_role(moments, influence_function(moments, estimator))
    np.testing.assert_allclose(variance, expected, rtol=1e-7)


def test_a_gene_without_variation_has_error_zero(make_cells):
    cells = make_cells()
    cells.outcome[:, 0] = 0.1
    moments = stratum_moments(cells.sums(batch_size=17))
    assert (variance_by_role(moments, influence_function(moments, "observed"))[..., 0] == 0).all()


def test_blocks_of_one_cell_have_its_influence_value(make_cells):
    """With strata 0 and 1 reported as one, whose cells are numbered together."""
    cells = make_cells(n_cells=600)
    reported = np.array([0, 0, 1])
    groups, group = Groups.of_cells(cells.stratum, reported)
    assert groups.n_groups == 600 and not groups.clustered
    sums = EffectSums(groups, 4)
    for batch in (slice(0, 250), slice(250, 600)):
        variables = (cells.outcome[batch], cells.predicted[batch], cells.predicted_reference[batch])
        sums.update(*variables, cells.treatment[batch] == 0, cells.treatment[batch] == 1, group[batch])
    strata = pd.DataFrame({"s": ["x", "y"]})
    effects = marginal_effects(
        [("a", sums)], strata=strata, genes=range(4), reported=reported, min_cells=2, keep_influence="float64"
    )
    for row in range(2):
        member = np.flatnonzero(reported[cells.stratum] == row)
        expected, variance = np.zeros((len(member), 4)), np.zeros(4)
        for x in np.flatnonzero(reported == row):
            _, phi = naive(cells, x, "robust", with_reference=True)
            expected[cells.stratum[member] == x] = phi / len(member)
            role = cells.treatment[cells.stratum == x]
            for r in range(3):  # around the mean of each role n / (n - 1), as in every error of independent cells
                of_role = phi[role == r] / len(member)
                variance += len(of_role) * (of_role.var(axis=0, ddof=1) + of_role.mean(axis=0) ** 2)
        total = effects.influence.total[0, row]
        np.testing.assert_allclose(total[: len(member)], expected, rtol=0, atol=1e-12)
        assert not total[len(member) :].any()
        np.testing.assert_allclose(total.sum(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(effects.std_error[0, row] ** 2, variance, rtol=1e-10)
        np.testing.assert_allclose((total**2).sum(axis=0), variance, rtol=0.03)
