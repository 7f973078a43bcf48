from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgraphvci.estimate import EffectSums, Groups, coarsen_strata, marginal_effects

GENES = ["g0", "g1", "g2", "g3"]


def three(**levels):
    return pd.DataFrame(levels or {"cell_type": ["B", "T", "NK"]})


def test_observed_is_welchs_t_test(make_cells):
    cells = make_cells()
    effects = marginal_effects([("a", cells.sums())], strata=three(), genes=GENES, estimator="observed", p_adjust=None)
    for x in range(3):
        treated, reference = (cells.outcome[(cells.stratum == x) & (cells.treatment == role)] for role in (0, 1))
        welch = stats.ttest_ind(treated, reference, equal_var=False)
        interval = welch.confidence_interval(0.95)
        np.testing.assert_allclose(effects.estimate[0, x], treated.mean(axis=0) - reference.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(effects.p_value[0, x], welch.pvalue, rtol=1e-8)
        np.testing.assert_allclose(effects.ci_low[0, x], interval.low, rtol=1e-9)
        np.testing.assert_allclose(effects.ci_high[0, x], interval.high, rtol=1e-9)


def test_clustered_p_values_use_t_with_effective_clusters_less_one(make_cells):
    cells = make_cells()
    effects = marginal_effects([("a", cells.sums(clustered=True))], strata=three(), genes=GENES)
    assert (effects.n_clusters == 5).all()
    shares = np.array([
        [np.bincount(cells.cluster[(cells.stratum == x) & (cells.treatment == arm)], minlength=5) for arm in (0, 1)]
        for x in range(3)
    ]).astype(float)  # fmt: skip
    shares /= shares.sum(axis=2, keepdims=True)
    df = (1 / (shares**2).sum(axis=2)).min(axis=1)[:, None] - 1
    expected = 2 * stats.t.sf(np.abs(effects.estimate / effects.std_error), df=df)
    np.testing.assert_allclose(effects.p_value, expected, rtol=1e-9)


def test_all_three_estimates_are_on_the_scale_of_the_estimate(make_cells):
    cells = make_cells()
    results = {
        name: marginal_effects([("a", cells.sums())], strata=three(), genes=GENES, estimator=name)
        for name in ("robust", "observed", "plugin")
    }
    for name, effects in results.items():
        np.testing.assert_array_equal(effects.estimate, getattr(effects, name))
        np.testing.assert_array_equal(effects.robust, results["robust"].robust)
    assert np.isnan(results["plugin"].std_error).all()
    assert (results["plugin"].status == "ok").all()


def test_without_reference_it_is_the_mean_of_the_arm(make_cells):
    cells = make_cells()
    sums = cells.sums(with_reference=False)
    effects = marginal_effects(
        [("a", sums)], strata=three(), genes=GENES, estimator="observed", reference=None, p_adjust="holm"
    )
    for x in range(3):
        arm = cells.outcome[(cells.stratum == x) & (cells.treatment == 0)]
        np.testing.assert_allclose(effects.estimate[0, x], arm.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(effects.std_error[0, x], stats.sem(arm), rtol=1e-9)
        np.testing.assert_allclose(effects.df[0, x], len(arm) - 1, rtol=1e-9)
    assert np.isnan(effects.p_value).all()
    assert np.isnan(effects.p_value_adj).all()
    assert np.isfinite(effects.ci_low).all()


def test_p_values_are_adjusted_over_genes_of_treatment_and_stratum(make_cells):
    sums = [("a", make_cells(seed=1).sums()), ("b", make_cells(seed=2).sums())]
    effects = marginal_effects(sums, strata=three(), genes=GENES)
    for t in range(2):
        for x in range(3):
            expected = stats.false_discovery_control(effects.p_value[t, x])
            np.testing.assert_allclose(effects.p_value_adj[t, x], expected)


def test_a_coarser_stratum_averages_and_states_the_share(make_cells):
    cells = make_cells()
    cells.treatment[(cells.stratum == 1) & (cells.treatment == 1)] = 2
    strata, reported = coarsen_strata(three(cell_type=["B", "B", "T"], donor=["1", "2", "1"]), ["cell_type"])
    sums = cells.sums()
    effects = marginal_effects([("a", sums)], strata=strata, genes=GENES, reported=reported)
    single = marginal_effects([("a", sums)], strata=three(), genes=GENES)
    size = np.bincount(cells.stratum)
    np.testing.assert_allclose(effects.estimate[0, 0], single.estimate[0, 0], rtol=1e-12)
    np.testing.assert_allclose(effects.share[0], [size[0] / (size[0] + size[1]), 1.0])
    assert effects.n_stratum[0].tolist() == [size[0] + size[1], size[2]]
    assert effects.n_treated[0, 0] == ((cells.stratum < 2) & (cells.treatment == 0)).sum()


@pytest.mark.parametrize(
    ("groupby", "rows", "reported"),
    [
        (None, [("B", 1), ("T", 1), ("B", 2)], [0, 1, 2]),
        (["cell_type"], [("B",), ("T",)], [0, 1, 0]),
        (["donor", "cell_type"], [(1, "B"), (1, "T"), (2, "B")], [0, 1, 2]),
        ([], [()], [0, 0, 0]),
    ],
)
def test_coarsen_strata(groupby, rows, reported):
    strata = three(cell_type=["B", "T", "B"], donor=[1, 1, 2])
    coarse, index = coarsen_strata(strata, groupby)
    assert coarse.columns.tolist() == (["cell_type", "donor"] if groupby is None else groupby)
    assert [tuple(row) for row in coarse.to_numpy(dtype=object)] == rows
    assert index.tolist() == reported


def test_coarsen_strata_refuses_unknown_keys():
    with pytest.raises(ValueError, match="'batch'.*cell_type"):
        coarsen_strata(three(), ["batch"])


def status_of(cells, *, clustered=False, **options):
    effects = marginal_effects(
        [("a", cells.sums(clustered=clustered))],
        strata=pd.DataFrame({"s": range(cells.stratum.max() + 1)}),
        genes=GENES,
        **options,
    )
    return effects


def test_an_empty_arm_is_extrapolated(make_cells):
    cells = make_cells()
    cells.treatment[(cells.stratum == 1) & (cells.treatment == 0)] = 2
    effects = status_of(cells)
    assert effects.status[0].tolist() == ["ok", "extrapolated", "ok"]
    np.testing.assert_array_equal(effects.estimate[0, 1], effects.plugin[0, 1])
    for name in ("robust", "observed", "std_error", "ci_low", "p_value", "p_value_adj"):
        assert np.isnan(getattr(effects, name)[0, 1]).all()
    assert np.isfinite(effects.std_error[0, [0, 2]]).all()
    assert np.isnan(status_of(cells, estimator="observed").estimate[0, 1]).all()


def test_an_empty_reference_is_no_reference(make_cells):
    cells = make_cells()
    cells.treatment[(cells.stratum == 1) & (cells.treatment == 1)] = 2
    effects = status_of(cells)
    assert effects.status[0].tolist() == ["ok", "no_reference", "ok"]
    assert np.isnan(effects.estimate[0, 1]).all()
    assert np.isfinite(effects.plugin[0, 1]).all()


def test_arms_that_never_meet_have_no_reference(make_cells):
    cells = make_cells(n_strata=2)
    cells.treatment[(cells.stratum == 0) & (cells.treatment == 1)] = 2
    cells.treatment[(cells.stratum == 1) & (cells.treatment == 0)] = 2
    options = {"strata": pd.DataFrame(index=[0]), "genes": GENES, "reported": [0, 0]}
    effects = marginal_effects([("a", cells.sums())], **options)
    assert effects.status.tolist() == [["no_reference"]]
    assert np.isnan(effects.estimate).all()


@pytest.mark.parametrize("role", [0, 1])
def test_too_few_cells_keep_the_estimate(make_cells, role):
    cells = make_cells()
    of_arm = np.flatnonzero((cells.stratum == 2) & (cells.treatment == role))
    cells.treatment[of_arm[5:]] = 2
    assert status_of(cells, min_cells=5).status[0, 2] == "ok"
    effects = status_of(cells, min_cells=6)
    assert effects.status[0].tolist() == ["ok", "ok", "too_few_cells"]
    assert np.isfinite(effects.estimate[0, 2]).all()
    assert np.isnan(effects.std_error[0, 2]).all()


def test_one_cluster_is_too_few(make_cells):
    cells = make_cells()
    cells.cluster[(cells.stratum == 0) & (cells.treatment == 0)] = 0
    effects = status_of(cells, clustered=True)
    assert effects.status[0].tolist() == ["too_few_clusters", "ok", "ok"]
    assert effects.n_clusters[0].tolist() == [1, 5, 5]
    assert np.isfinite(effects.estimate[0, 0]).all()
    assert np.isnan(effects.std_error[0, 0]).all()


def test_a_stratum_without_cells_is_all_nan(make_cells):
    cells = make_cells(n_strata=2)
    groups, group = Groups.from_codes(cells.stratum, n_strata=3)
    sums = EffectSums(groups, 4)
    arms = cells.treatment == 0, cells.treatment == 1
    sums.update(cells.outcome, cells.predicted, cells.predicted_reference, *arms, group)
    effects = marginal_effects([("a", sums)], strata=three(), genes=GENES)
    assert effects.status[0, 2] == "no_reference"
    assert np.isnan(effects.plugin[0, 2]).all()
    assert effects.n_stratum[0, 2] == 0


def test_a_gene_without_variation_has_no_error(make_cells):
    cells = make_cells()
    cells.outcome[:, 1] = 0.0
    effects = status_of(cells, estimator="observed")
    assert np.isnan(effects.std_error[..., 1]).all()
    assert np.isnan(effects.p_value[..., 1]).all()
    assert np.isfinite(np.delete(effects.p_value_adj, 1, axis=-1)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "eq4"}, "'eq4'"),
        ({"min_cells": 1}, "`min_cells` is 1"),
        ({"alpha": 5}, "`alpha` is 5"),
        ({"p_adjust": "bh"}, "'bh'"),
        ({"genes": GENES[:3]}, "3 names"),
        ({"strata": three(s=["a", "b"])}, "3 strata"),
        ({"reported": [0, 1, 3]}, "coarsen_strata"),
        ({"reference": None}, "with_reference=True"),
        ({"strata": three(gene=["a", "b", "c"])}, "'gene'"),
    ],
)
def test_bad_options_are_named(make_cells, change, message):
    options = {"strata": three(), "genes": GENES, **change}
    with pytest.raises(ValueError, match=message):
        marginal_effects([("a", make_cells().sums())], **options)


def test_no_treatment_is_refused():
    with pytest.raises(ValueError, match="No treatment"):
        marginal_effects([], strata=three(), genes=GENES)


# Coverage. Each gene is one replicate; with 3,000 the Monte-Carlo error of .95 is .004.

N_REPLICATES = 3000
TRUTH = 0.5


def coverage(estimator, *, n_cells=200, share=0.3, n_donors=None, leak=0.0):
    """Share of 95 % intervals that hold the truth, and mean error, for a predictor that sees the cell's state."""
    rng = np.random.default_rng(7)
    donor = np.arange(n_cells) % (n_donors or 1)
    treated = np.zeros(n_cells, dtype=bool)
    for d in range(n_donors or 1):
        cells = np.flatnonzero(donor == d)
        treated[rng.permutation(cells)[: round(share * len(cells))]] = True
    state = rng.normal(size=(n_cells, N_REPLICATES))
    effect = TRUTH + (0.5 * rng.normal(size=(n_donors, N_REPLICATES))[donor] if n_donors else 0.0)
    outcome = state + effect * treated[:, None] + 0.5 * rng.normal(size=state.shape)
    predicted_reference = state + leak * treated[:, None]
    groups, group = Groups.from_codes(np.zeros(n_cells, dtype=int), donor if n_donors else None)
    sums = EffectSums(groups, N_REPLICATES)
    sums.update(outcome, predicted_reference + 0.3, predicted_reference, treated, ~treated, group)
    effects = marginal_effects(
        [("a", sums)], strata=pd.DataFrame(index=[0]), genes=range(N_REPLICATES), estimator=estimator
    )
    covered = (effects.ci_low <= TRUTH) & (TRUTH <= effects.ci_high)
    return covered.mean(), effects.std_error.mean()


@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("estimator", ["observed", "robust"])
def test_intervals_cover(estimator, share):
    covered, _ = coverage(estimator, share=share)
    assert 0.935 <= covered <= 0.965


def test_an_honest_predictor_shortens_the_interval():
    _, robust = coverage("robust")
    _, observed = coverage("observed")
    assert robust < 0.55 * observed


def test_a_leak_ruins_the_robust_interval_and_not_the_observed_one():
    assert coverage("robust", leak=0.5)[0] < 0.01
    assert 0.935 <= coverage("observed", leak=0.5)[0] <= 0.965


@pytest.mark.parametrize("estimator", ["observed", "robust"])
def test_clustered_intervals_cover_with_six_donors(estimator):
    covered, _ = coverage(estimator, n_donors=6, n_cells=600)
    assert 0.93 <= covered <= 0.97


def test_genes_with_too_few_counts_have_no_interval(make_cells):
    """Cells of the smaller arm times the mean over both arms decide; a gene silenced by the treatment keeps its own."""
    cells = make_cells(n_cells=900, n_strata=1)
    rng = np.random.default_rng(0)
    mean = np.array([0.1, 5.0, 5.0, 0.5])
    cells.outcome = rng.poisson(np.where((cells.treatment == 0)[:, None], mean * [1, 1, 0.01, 1], mean)).astype(float)
    strata, genes = pd.DataFrame(index=[0]), ["g0", "g1", "g2", "g3"]
    effects = marginal_effects([("a", cells.sums())], strata=strata, genes=genes, min_counts=100, estimator="observed")
    n_a, n_0 = (cells.treatment == 0).sum(), (cells.treatment == 1).sum()
    expected = min(n_a, n_0) * cells.outcome[cells.treatment < 2].mean(axis=0)
    np.testing.assert_array_equal(np.isfinite(effects.std_error[0, 0]), expected >= 100)
    frame = effects.to_frame()
    assert frame["status"].tolist() == ["too_few_cells", "ok", "ok", "ok" if expected[3] >= 100 else "too_few_cells"]
    assert frame["estimate"].notna().all()
    assert effects.status.tolist() == [["ok"]]
    assert effects.to_frame(genes="g0", joint=True)[["ci_low", "band_low", "p_value"]].isna().all(axis=None)
