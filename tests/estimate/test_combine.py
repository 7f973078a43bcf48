from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scgraphvci.estimate import EffectSums, Groups, marginal_effects
from scgraphvci.estimate._clusters import small_sample_factor

GENES = ["g0", "g1", "g2", "g3"]
STRATA = pd.DataFrame({"s": ["x", "y", "z"]})


def swapped(cells):
    """The same cells with the rest as treatment."""
    cells.treatment = np.array([2, 1, 0])[cells.treatment]
    return cells


def both(make_cells, *, clustered, estimator="observed", **options):
    common = {"strata": STRATA, "genes": GENES, "estimator": estimator, **options}
    first = marginal_effects([("a", make_cells().sums(clustered=clustered))], **common)
    second = marginal_effects([("b", swapped(make_cells()).sums(clustered=clustered))], **common)
    return first, second


def test_contrast_of_two_treatments_is_their_direct_difference(make_cells):
    """With a common reference, a - b against the estimate with b as the reference, cluster by cluster."""
    first, second = both(make_cells, clustered=True)
    cells = make_cells()
    cells.treatment = np.array([0, 2, 1])[cells.treatment]
    direct = marginal_effects([("a", cells.sums(clustered=True))], strata=STRATA, genes=GENES, estimator="observed")
    result = first.contrast(second)
    assert result.treatments.tolist() == ["a - b"]
    np.testing.assert_allclose(result.estimate, direct.estimate, rtol=1e-9)
    # The common reference drops out, but its clusters count among those that a contrast effectively has.
    factor = [small_sample_factor(one.influence.effective)[:, :, None] for one in (result, direct)]
    np.testing.assert_allclose(result.std_error**2 / factor[0], direct.std_error**2 / factor[1], rtol=1e-5)
    np.testing.assert_allclose(result.df, np.broadcast_to(result.influence.effective[:, :, None] - 1, result.df.shape))
    assert np.isfinite(result.joint_bands()[0]).all()


def test_cells_of_a_common_reference_count_once(make_cells):
    first, second = both(lambda: make_cells(n_cells=6000), clustered=False)
    cells = make_cells(n_cells=6000)
    cells.treatment = np.array([0, 2, 1])[cells.treatment]
    direct = marginal_effects([("a", cells.sums())], strata=STRATA, genes=GENES, estimator="observed")
    ratio = first.contrast(second).std_error / direct.std_error
    assert 0.95 <= ratio.mean() <= 1.05
    apart = first.contrast(second, independent=True).std_error
    np.testing.assert_allclose(apart, np.hypot(first.std_error, second.std_error))
    assert (apart > direct.std_error).all()


def test_a_result_less_itself_is_zero_without_error(make_cells):
    first, _ = both(make_cells, clustered=False)
    result = first.contrast(first)
    assert result.treatments.tolist() == ["a"]
    assert (result.estimate == 0).all()
    assert (result.std_error == 0).all()
    assert np.isnan(result.p_value).all()


def test_a_contrast_of_doses_says_which(make_cells):
    first, second = both(make_cells, clustered=False)
    doses = [replace(one, params={**one.params, "doses": {one.treatments[0]: dose}})
             for one, dose in ((first, "0.5"), (first, "2.0"), (second, "0.5"))]  # fmt: skip
    for other, treatment, dose in ((doses[1], "a", "0.5 - 2.0"), (doses[2], "a - b", "0.5")):
        frame = doses[0].contrast(other).to_frame()
        assert set(frame["treatment"]) == {treatment}
        assert set(frame["dose"]) == {dose}
    assert "dose" not in first.contrast(second).to_frame()


def test_one_stratum_is_subtracted_from_all(make_cells):
    first, _ = both(make_cells, clustered=False)
    result = first.contrast(first.select(strata={"s": "y"}))
    assert result.strata["s"].tolist() == ["x - y", "y", "z - y"]
    np.testing.assert_allclose(result.estimate[0], first.estimate[0] - first.estimate[0, 1])
    assert result.n_treated.tolist() == [np.minimum(first.n_treated[0], first.n_treated[0, 1]).tolist()]


def test_contrast_intervals_cover_with_a_common_reference():
    rng = np.random.default_rng(0)
    arm = np.arange(600) % 3
    outcome = rng.normal(size=(600, 3000)) + np.array([0.5, 0.0, 0.2])[arm][:, None]
    results = []
    for role in (0, 2):
        groups, group = Groups.from_codes(np.zeros(600, dtype=int))
        sums = EffectSums(groups, 3000)
        sums.update(outcome, np.zeros_like(outcome), np.zeros_like(outcome), arm == role, arm == 1, group)
        results.append(
            marginal_effects([("t", sums)], strata=pd.DataFrame(index=[0]), genes=range(3000), estimator="observed")
        )
    result = results[0].contrast(results[1])
    assert 0.935 <= ((result.ci_low <= 0.3) & (0.3 <= result.ci_high)).mean() <= 0.965


def test_a_contrast_of_ratios_is_tested_against_zero(make_cells):
    def positive():
        cells = make_cells()
        cells.outcome = np.exp(0.3 * cells.outcome)
        return cells

    first, second = both(positive, clustered=False, estimand="ratio")
    result = first.contrast(second)
    far = np.abs(result.estimate) > 4 * result.std_error
    assert ((result.p_value < 0.001) == far).mean() > 0.9


@pytest.mark.parametrize("independent", [True, False])
def test_a_contrast_has_errors_where_both_results_have(make_cells, independent):
    first, second = both(make_cells, clustered=True)
    for result, stratum in ((first, 0), (second, 1)):
        result.std_error[0, stratum] = np.nan
    result = first.contrast(second, independent=independent)
    for values in (result.std_error, result.df, result.p_value):
        assert np.isnan(values[0, :2]).all()
        assert np.isfinite(values[0, 2]).all()


def test_status_is_the_worse_one(make_cells):
    first, second = both(make_cells, clustered=False)
    second.status[0, 1] = "too_few_cells"
    assert first.contrast(second).status[0].tolist() == ["ok", "too_few_cells", "ok"]
    assert second.contrast(first).status[0].tolist() == ["ok", "too_few_cells", "ok"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"genes": ["g0", "g1", "g2", "h"]}, "different genes"),
        ({}, {"estimator": "observed"}, "`estimator` is 'robust'"),
        ({}, {"strata": pd.DataFrame({"t": ["x", "y", "z"]})}, "different stratum keys"),
        ({}, {"params": {"cells": "others"}}, "same cells"),
        ({}, {"keep_influence": False}, "keep_influence"),
        ({"max_leak": 0.1}, {"max_leak": 0.1}, "`max_leak`"),
    ],
)
def test_results_that_do_not_fit_are_refused(make_cells, first, second, message):
    results = [
        marginal_effects([("a", make_cells().sums())], **{"strata": STRATA, "genes": GENES, **options})
        for options in (first, second)
    ]
    with pytest.raises(ValueError, match=message):
        results[0].contrast(results[1])


def test_shapes_that_do_not_match_are_refused(make_cells):
    first, _ = both(make_cells, clustered=False)
    with pytest.raises(ValueError, match="Select as many in both"):
        first.select(strata={"s": ["x", "y"]}).contrast(first)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "difference of two differences to 'control'"),
        ({"estimand": "ratio"}, "difference of two ratios to 'control'"),
        ({"estimand": "log_fold_change"}, "difference of two log fold changes to 'control'"),
    ],
)
def test_a_contrast_says_what_it_is(make_cells, options, what):
    def positive():
        cells = make_cells()
        cells.outcome = np.exp(0.3 * cells.outcome)
        return cells

    first, second = both(positive, clustered=False, **options)
    result = first.contrast(second)
    assert result.is_contrast and not first.is_contrast
    assert f"estimand: {what}\n" in repr(result)
    assert what.replace("'", "&#x27;") in result._repr_html_() or what in result._repr_html_()


def test_a_contrast_of_means_is_the_difference_of_two_arms_and_is_tested(make_cells):
    """Without a reference, a less b is the direct difference of a and b, p-values included."""
    results = []
    for treatment in (0, 2):
        cells = make_cells(n_cells=6000)
        cells.treatment = np.where(cells.treatment == treatment, 0, 2)
        sums = [("ab"[treatment // 2], cells.sums(with_reference=False))]
        results.append(marginal_effects(sums, strata=STRATA, genes=GENES, estimator="observed", reference=None))
    contrast = results[0].contrast(results[1], independent=True)
    assert "estimand: difference of two means\n" in repr(contrast)
    assert np.isnan(results[0].p_value).all()
    cells = make_cells(n_cells=6000)
    cells.treatment = np.array([0, 2, 1])[cells.treatment]
    direct = marginal_effects([("a", cells.sums())], strata=STRATA, genes=GENES, estimator="observed")
    np.testing.assert_allclose(contrast.estimate, direct.estimate, rtol=1e-9)
    np.testing.assert_allclose(contrast.p_value, direct.p_value, rtol=1e-6)
