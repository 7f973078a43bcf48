from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgraphvci.estimate import EffectSums, Groups, adjust_p_values, marginal_effects

GENES = ["g0", "g1", "g2", "g3"]
STRATA = pd.DataFrame({"s": ["x", "y", "z"]})


def result_of(cells, *, clustered=False, **options):
    return marginal_effects([("a", cells.sums(clustered=clustered))], strata=STRATA, genes=GENES, **options)


def test_kept_totals_are_the_error_of_the_estimate(make_cells):
    effects = result_of(make_cells(n_clusters=20), clustered=True)
    totals = effects.influence.total.astype(float)
    assert totals.shape == (1, 3, 20, 4)
    n = effects.influence.effective[:, :, None]
    np.testing.assert_allclose(np.sqrt(n / (n - 1) * (totals**2).sum(axis=2)), effects.std_error, rtol=1e-5)
    np.testing.assert_allclose(totals.sum(axis=2), 0, atol=1e-6)


def test_blocks_of_independent_cells_have_the_same_variance_on_average(make_cells):
    effects = result_of(make_cells(n_cells=3000, n_genes=4))
    assert effects.influence.total.shape == (1, 3, 50, 4)
    ratio = (effects.influence.total.astype(float) ** 2).sum(axis=2) / effects.std_error**2
    np.testing.assert_allclose(ratio.mean(), 1, atol=0.15)
    assert (effects.n_clusters == 0).all()


def test_below_12_clusters_bands_are_bonferronis(make_cells):
    effects = result_of(make_cells(n_clusters=6), clustered=True)
    low, high, method = effects.joint_bands()
    assert (method == "bonferroni").all()
    half = stats.t.ppf(1 - 0.05 / 4 / 2, effects.df) * effects.std_error
    np.testing.assert_allclose(low, effects.estimate - half)
    np.testing.assert_allclose(high, effects.estimate + half)


def test_bands_lie_between_pointwise_and_bonferroni(make_cells):
    effects = result_of(make_cells(n_cells=6000, n_clusters=15), clustered=True)
    low, high, method = effects.joint_bands(n_draws=4000)
    assert (method == "multiplier_bootstrap").all()
    pointwise = effects.ci_high - effects.estimate
    bonferroni = stats.t.ppf(1 - 0.05 / 4 / 2, effects.df) * effects.std_error
    assert (high - effects.estimate > pointwise).all()
    assert (high - effects.estimate < 1.1 * bonferroni).all()
    np.testing.assert_allclose(high - effects.estimate, effects.estimate - low)


def test_copies_of_a_gene_have_pointwise_bands(make_cells):
    cells = make_cells(n_cells=1500)
    for name in ("outcome", "predicted", "predicted_reference"):
        setattr(cells, name, np.repeat(getattr(cells, name)[:, :1], 4, axis=1))
    effects = result_of(cells)
    _, high, _ = effects.joint_bands(n_draws=4000)
    np.testing.assert_allclose(high, effects.ci_high, rtol=0.02)


def test_genes_without_error_are_not_counted(make_cells):
    cells = make_cells(n_clusters=6)
    cells.outcome[:, 1] = 0.0
    effects = result_of(cells, clustered=True, estimator="observed")
    _, high, _ = effects.joint_bands()
    np.testing.assert_allclose(
        (high - effects.estimate)[..., 0], stats.t.ppf(1 - 0.05 / 3 / 2, effects.df[..., 0]) * effects.std_error[..., 0]
    )
    assert np.isnan(high[..., 1]).all()


def test_frame_has_bands_only_when_asked(make_cells):
    effects = result_of(make_cells())
    assert "band_low" not in effects.to_frame()
    frame = effects.to_frame(strata={"s": "z"}, genes=["g3"], joint=True)
    low, high, method = effects.joint_bands()
    assert frame["band_low"].item() == low[0, 2, 3]
    assert frame["band_high"].item() == high[0, 2, 3]
    assert frame["band_method"].item() == method[0, 2]


def test_select_keeps_totals_and_leaks_of_its_rows(make_cells):
    effects = marginal_effects(
        [("a", make_cells(seed=1).sums()), ("b", make_cells(seed=2).sums())], strata=STRATA, genes=GENES
    )
    chosen = effects.select("b", {"s": ["z", "x"]})
    np.testing.assert_array_equal(chosen.influence.total, effects.influence.total[[1]][:, [0, 2]])
    np.testing.assert_array_equal(chosen.leaks.leak, effects.leaks.leak[[1]][:, [0, 2]])
    np.testing.assert_array_equal(chosen.leaks.p_value, effects.leaks.p_value[[1]][:, [0, 2]])


def test_romano_wolf_needs_totals_and_is_holms_for_few_clusters(make_cells):
    cells = make_cells(n_clusters=6)
    few = result_of(cells, clustered=True, p_adjust="romano_wolf")
    np.testing.assert_allclose(few.p_value_adj, adjust_p_values(few.p_value, "holm"))
    many = result_of(make_cells(n_cells=1500), p_adjust="romano_wolf")
    assert (many.p_value_adj >= many.p_value).all()
    assert many.to_frame()["p_value_adj"].notna().all()
    for given in ({"keep_influence": False}, {"keep_influence": "bands"}, {"estimator": "plugin"}):
        with pytest.raises(ValueError, match="needs influence totals"):
            result_of(cells, p_adjust="romano_wolf", **given)


def joint_coverage(estimator, *, n_cells, share, n_donors=0):
    """Share of 300 replicates whose bands hold all 30 correlated genes."""
    rng = np.random.default_rng(11)
    n_replicates, n_genes = 300, 30
    stratum = np.repeat(np.arange(n_replicates), n_cells)
    treated = np.tile(np.arange(n_cells) % round(1 / share) == 0, n_replicates)
    loading = 0.5 * np.random.default_rng(0).normal(size=(5, n_genes))
    state = rng.normal(size=(len(stratum), 5)) @ loading + rng.normal(size=(len(stratum), n_genes))
    donor = np.tile(rng.permutation(n_cells) % n_donors, n_replicates) if n_donors else None
    groups, group = Groups.from_codes(stratum, donor)
    sums = EffectSums(groups, n_genes)
    outcome = state + treated[:, None] + 0.5 * rng.normal(size=state.shape)
    sums.update(outcome, state + 1.0, state, treated, ~treated, group)
    strata = pd.DataFrame({"replicate": range(n_replicates)})
    effects = marginal_effects([("a", sums)], strata=strata, genes=range(n_genes), estimator=estimator)
    low, high, _ = effects.joint_bands(n_draws=500)
    return ((low <= 1.0) & (1.0 <= high)).all(axis=2).mean()


@pytest.mark.parametrize("estimator", ["observed", "robust"])
@pytest.mark.parametrize("design", [{"n_cells": 200, "share": 0.25}, {"n_cells": 240, "share": 0.25, "n_donors": 12}])
def test_bands_cover_all_genes(estimator, design):
    assert joint_coverage(estimator, **design) >= 0.912  # .95 less three Monte-Carlo errors


def test_levels_can_be_found_in_the_place_of_totals(make_cells):
    """Bands, alone or of a selection, are those of kept totals, and nothing else is kept."""
    cells = make_cells(n_cells=1500)
    kept, found = (result_of(cells, keep_influence=value) for value in (True, "bands"))
    assert found.influence is None
    for one, other in ((kept, found), (kept.select(strata={"s": "y"}), found.select(strata={"s": "y"}))):
        for value, again in zip(one.joint_bands(), other.joint_bands(), strict=True):
            np.testing.assert_array_equal(value, again)
    with pytest.raises(ValueError, match="keep_influence"):
        found.joint_bands(n_draws=50)
    with pytest.raises(ValueError, match="keep_influence"):
        found.contrast(found)


def test_bands_of_a_small_arm_have_its_degrees_of_freedom(make_cells):
    """Welch's degrees of freedom are themselves an estimate, and too many where the error is too small."""
    cells = make_cells(n_cells=900)
    few = np.flatnonzero((cells.stratum == 0) & (cells.treatment == 0))[10:]
    cells.treatment[few] = 2
    effects = result_of(cells, estimator="observed").select(strata={"s": "x"})
    low, high, method = effects.joint_bands()
    assert effects.n_treated[0, 0] == 10
    assert method[0, 0] == "bonferroni"
    assert (effects.df > 9).any()
    quantile = stats.t.ppf(1 - 0.05 / 4 / 2, np.minimum(effects.df, 9))
    np.testing.assert_allclose(high - low, 2 * quantile * effects.std_error)


@pytest.mark.parametrize(("n_clusters", "method"), [(11, "bonferroni"), (12, "multiplier_bootstrap")])
def test_twelve_clusters_are_enough_for_the_bootstrap(make_cells, n_clusters, method):
    found = result_of(make_cells(n_cells=6000, n_clusters=n_clusters), clustered=True, estimator="observed")
    assert (found.n_clusters == n_clusters).all()
    assert (found.joint_bands()[2] == method).all()


def test_genes_without_error_do_not_widen_bands_of_the_bootstrap(make_cells):
    """A constant gene beside the others, or not there at all: their bands are the same."""
    cells = make_cells(n_cells=6000, n_clusters=15)
    cells.outcome[:, 1] = 0.0
    constant = result_of(cells, clustered=True, estimator="observed")
    _, high, method = constant.joint_bands()
    assert (method == "multiplier_bootstrap").all()
    others = np.delete(np.arange(cells.outcome.shape[1]), 1)
    for name in ("outcome", "predicted", "predicted_reference"):
        setattr(cells, name, getattr(cells, name)[:, others])
    sums = [("a", cells.sums(clustered=True))]
    without = marginal_effects(sums, strata=STRATA, genes=[GENES[j] for j in others], estimator="observed")
    _, expected, _ = without.joint_bands()
    np.testing.assert_allclose(high[..., others], expected, rtol=1e-6)
