"""Pooled strata against the direct estimate, least squares, and the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgraphvci.estimate import EffectSums, Groups, coarsen_strata, marginal_effects
from scgraphvci.estimate._pool import _tests_of_parts

GENES = ["g0", "g1", "g2", "g3"]
STRATA = pd.DataFrame({"type": list("BBBTTT"), "donor": list("123123")})
ARRAYS = ("estimate", "std_error", "df", "robust", "observed", "plugin")
COUNTS = ("n_treated", "n_reference", "n_stratum", "n_clusters", "share")


def estimates(cells, groupby=None, *, clustered=True, with_reference=True, strata=STRATA, **options):
    strata, reported = coarsen_strata(strata, groupby)
    options = {"keep_influence": "float64", "estimator": "observed", **options}
    reference = {} if with_reference else {"reference": None}
    sums = [("a", cells.sums(clustered=clustered, with_reference=with_reference))]
    return marginal_effects(sums, strata=strata, genes=GENES, reported=reported, **reference, **options)


@pytest.fixture
def cells(make_cells):
    """Six strata that share clusters, of different effects and sizes, one of them with four treated cells."""
    made = make_cells(n_cells=900, n_strata=6, n_clusters=14)
    made.outcome += (made.treatment == 0)[:, None] * 0.7 * made.stratum[:, None]
    few = np.flatnonzero((made.stratum == 4) & (made.treatment == 0))[4:]
    made.treatment[few] = 2
    return made


@pytest.mark.parametrize("clustered", [True, False])
@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("estimator", ["robust", "observed"])
@pytest.mark.parametrize(("over", "groupby"), [("donor", ["type"]), ("type", ["donor"]), (None, [])])
def test_equals_the_direct_estimate(cells, clustered, with_reference, estimator, over, groupby):
    options = {"clustered": clustered, "with_reference": with_reference, "estimator": estimator}
    pooled = estimates(cells, **options).pool(over)
    direct = estimates(cells, groupby, **options)
    pd.testing.assert_frame_equal(pooled.strata, direct.strata)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(pooled, name), getattr(direct, name), rtol=1e-10, atol=1e-10, err_msg=name)
    for name in COUNTS:
        np.testing.assert_array_equal(getattr(pooled, name), getattr(direct, name), err_msg=name)
    np.testing.assert_allclose(pooled.influence.total, direct.influence.total, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(pooled.influence.cells, direct.influence.cells)
    for low, again in zip(pooled.joint_bands()[:2], direct.joint_bands()[:2], strict=True):
        np.testing.assert_allclose(low, again, rtol=1e-6)


def test_pooled_in_two_steps_as_in_one(cells):
    fine = estimates(cells)
    at_once, in_steps = fine.pool(), fine.pool("donor").pool("type")
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(in_steps, name), getattr(at_once, name), rtol=1e-10)


def test_float32_totals_are_good_to_six_digits(cells):
    pooled, exact = (estimates(cells, keep_influence=kept).pool("donor") for kept in (True, "float64"))
    np.testing.assert_allclose(pooled.std_error, exact.std_error, rtol=1e-6)
    assert pooled.influence.total.dtype == np.float32


def test_strata_without_both_arms_are_left_out_and_the_share_is_stated(cells):
    cells.treatment[(cells.stratum == 1) & (cells.treatment == 1)] = 2
    cells.treatment[(cells.stratum > 2) & (cells.treatment == 0)] = 2
    pooled, direct = estimates(cells).pool("donor"), estimates(cells, ["type"])
    assert pooled.status.tolist() == direct.status.tolist() == [["ok", "extrapolated"]]
    assert pooled.share[0, 0] == 1 - (cells.stratum == 1).sum() / (cells.stratum <= 2).sum()
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(pooled, name), getattr(direct, name), rtol=1e-10)


def least_squares(cells):
    """Coefficient of the arm with an intercept per stratum, and its error from the sandwich."""
    kept = cells.treatment < 2
    arm = (cells.treatment[kept] == 0).astype(float)
    stratum = np.eye(6)[cells.stratum[kept]]
    y = cells.outcome[kept]
    design = np.column_stack([arm, stratum])
    coefficient = np.linalg.lstsq(design, y, rcond=None)[0]
    within = arm - stratum @ (stratum.T @ arm / stratum.sum(axis=0))
    score = within[:, None] * (y - design @ coefficient) / (within**2).sum()
    total = np.stack([score[cells.cluster[kept] == c].sum(axis=0) for c in range(14)])
    shares = [np.bincount(cells.cluster[cells.treatment == one]) / (cells.treatment == one).sum() for one in (0, 1)]
    effective = min(1 / (share**2).sum() for share in shares)
    return coefficient[0], np.sqrt(effective / (effective - 1) * (total**2).sum(axis=0))


def test_precision_weights_are_least_squares_with_stratum_intercepts(cells):
    pooled = estimates(cells).pool(weights="precision")
    coefficient, error = least_squares(cells)
    np.testing.assert_allclose(pooled.estimate[0, 0], coefficient, rtol=1e-10)
    np.testing.assert_allclose(pooled.std_error[0, 0], error, rtol=1e-10)
    assert pooled.params["pool_weights"] == "precision"


def test_precision_weights_of_independent_cells_add_variances(cells):
    fine = estimates(cells, clustered=False, min_cells=2)
    n_a, n_0 = fine.n_treated[0], fine.n_reference[0]
    weight = n_a * n_0 / (n_a + n_0)
    weight = weight / weight.sum()
    pooled = fine.pool(weights="precision")
    np.testing.assert_allclose(pooled.estimate[0, 0], weight @ fine.estimate[0], rtol=1e-12)
    np.testing.assert_allclose(pooled.std_error[0, 0] ** 2, weight**2 @ fine.std_error[0] ** 2, rtol=1e-12)
    assert (pooled.std_error**2).mean() < (fine.pool().std_error ** 2).mean()


@pytest.mark.parametrize("weights", ["cells", "precision"])
def test_intervals_cover_where_strata_share_donors(weights):
    """Donor effects in level and effect, common to three cell types: strata of one donor err together."""
    rng = np.random.default_rng(1)
    n_genes, n_donors = 1500, 8
    donor, stratum = np.repeat(np.arange(n_donors), 60), np.tile(np.arange(3), 20 * n_donors)
    arm = rng.random(donor.size) < 0.4
    deviation = 0.5 * rng.normal(size=(2, n_donors, n_genes))
    outcome = rng.normal(size=(donor.size, n_genes)) + deviation[0][donor] + arm[:, None] * (1.0 + deviation[1][donor])
    groups, group = Groups.from_codes(stratum, donor)
    sums = EffectSums(groups, n_genes)
    sums.update(outcome, np.zeros_like(outcome), np.zeros_like(outcome), arm, ~arm, group)
    fine = marginal_effects([("a", sums)], strata=pd.DataFrame({"type": range(3)}), genes=range(n_genes),
                            estimator="observed")  # fmt: skip
    pooled = fine.pool("type", weights=weights)
    assert 0.935 <= ((pooled.ci_low <= 1) & (1 <= pooled.ci_high)).mean() <= 0.965
    taken_for_independent = (fine.std_error**2).sum(axis=1) / 9
    assert taken_for_independent.mean() < 0.65 * (pooled.std_error**2).mean()


def test_a_leak_of_one_stratum_is_the_leak_of_the_average(cells):
    cells.predicted += (cells.treatment == 0)[:, None] * (cells.stratum == 0)[:, None] * 3.0
    fine = estimates(cells, estimator="robust")
    assert fine.status[0, 0] == "leak_detected"
    assert fine.pool("donor").status[0].tolist() == ["leak_detected", "ok"]
    assert fine.pool("donor").leaks is None


@pytest.fixture
def nested(make_cells):
    """Ten donors with a stratum each: no stratum can test its own leak, which is the same in all."""

    def made(leak, donor_is_cluster=True):
        rng = np.random.default_rng(2)
        cells = make_cells(n_cells=3000, n_strata=10, n_clusters=10)
        if donor_is_cluster:
            cells.cluster = cells.stratum
        cells.outcome += (cells.treatment == 0)[:, None] * 1.0
        state = rng.normal(size=cells.predicted.shape)
        cells.outcome += state
        cells.predicted, cells.predicted_reference = state + 1.0, state.copy()
        for predicted in (cells.predicted, cells.predicted_reference):
            predicted += leak * (cells.treatment == 0)[:, None]
        return cells

    return made


DONORS = pd.DataFrame({"type": ["B"] * 10, "donor": list("0123456789")})


@pytest.mark.parametrize("clustered", [True, False])
@pytest.mark.parametrize(("leak", "status"), [(0.0, "ok"), (0.5, "leak_detected")])
def test_a_leak_that_strata_cannot_test_alone_is_found_in_their_average(nested, leak, status, clustered):
    """As the direct estimate finds it. Each donor's stratum is one cluster, so its own test says nothing."""
    options = {"estimator": "robust", "strata": DONORS, "clustered": clustered}
    fine, direct = (estimates(nested(leak), groupby, **options) for groupby in (None, ["type"]))
    if clustered:
        assert set(fine.status[0]) == {"too_few_clusters"}
        assert np.isnan(fine.leaks.p_value).all()
    assert direct.status.tolist() == fine.pool("donor").status.tolist() == [[status]]
    assert fine.pool("donor").pool("type").status.tolist() == [[status]]  # and it is not forgotten


def test_pooling_finds_a_leak_no_more_often_than_the_level(make_cells):
    """400 averages of 8 strata with a cluster each, predictions that vary and do not leak."""
    rng = np.random.default_rng(0)
    n_genes, n_averages, n_strata, n = 5, 400, 8, 40
    stratum, treated = np.repeat(np.arange(n_averages * n_strata), n), np.tile(np.arange(n) % 2 == 0, 3200)
    donor = stratum % n_strata
    state = rng.normal(size=(stratum.size, n_genes))
    groups, group = Groups.from_codes(stratum, donor)
    sums = EffectSums(groups, n_genes)
    outcome = state + rng.normal(size=state.shape)
    sums.update(outcome, state + 1.0, state, treated, ~treated, group)
    strata = pd.DataFrame({"screen": np.repeat(np.arange(n_averages), n_strata), "donor": np.tile(np.arange(8), 400)})
    fine = marginal_effects([("a", sums)], strata=strata, genes=range(n_genes))
    found = (fine.pool("donor").status == "leak_detected").mean()
    assert 0.01 <= found <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_averages)


@pytest.mark.parametrize(
    ("options", "arguments", "error", "message"),
    [
        ({}, {"over": "batch"}, KeyError, r"Cannot pool over \['batch'\].*'type', 'donor'"),
        ({}, {"over": []}, KeyError, "Cannot pool over"),
        ({}, {"weights": "variance"}, ValueError, "Unknown `weights` 'variance'"),
        ({"keep_influence": False}, {}, ValueError, "keep_influence"),
        ({"estimand": "ratio"}, {}, ValueError, "coarser `groupby`"),
    ],
)
def test_what_cannot_be_pooled_is_refused(cells, options, arguments, error, message):
    with pytest.raises(error, match=message):
        estimates(cells, **options).pool(**arguments)


def test_a_contrast_cannot_be_pooled(cells):
    fine = estimates(cells)
    with pytest.raises(ValueError, match="Pool both results"):
        fine.contrast(fine).pool()


def test_the_bias_along_the_prediction_is_tested_by_the_t_test_of_its_parts():
    rng = np.random.default_rng(0)
    brought, predicted = rng.normal(0.2, 1.0, (7, 30)), rng.normal(size=30)
    p_value = _tests_of_parts(brought, predicted)[-1]
    np.testing.assert_allclose(p_value, stats.ttest_1samp(brought @ predicted, 0.0).pvalue)
    assert len(_tests_of_parts(brought, np.zeros(30))) == 1  # without a spread there is no such test
