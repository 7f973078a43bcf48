"""Marginal effects: equal to what follows from `predict` and the data, cell by cell."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pandas as pd
import pytest

import scgraphvci as sgv
from scgraphvci.estimate import EffectSums, Groups, marginal_effects
from scgraphvci.estimate._arm_moments import ArmMoments
from scgraphvci.estimate._arm_variance import variance_between
from scgraphvci.estimate._cell_states import CellStates
from scgraphvci.model import _effect_cells as cells_module
from scgraphvci.model._cross_fit import fit_folds
from scgraphvci.model._effect_cells import effect_cells
from scgraphvci.model._fold_training import Recipe
from scgraphvci.model._folds import assign_folds, repetition_seeds
from scgraphvci.tl._rank_effects import rank_effects

KEYS = ["cell_type", "donor"]


@pytest.fixture(scope="module")
def model(fit, new_screen):
    """A model of enough cells for intervals, with donors as clusters."""
    return fit(new_screen(n_cells=500, n_donors=3, seed=2), categorical_covariate_keys=KEYS)


@pytest.fixture(scope="module")
def effects(model):
    return model.marginal_effect()


def table_of(model):
    """Expression, predictions and labels of every cell, from the public API alone."""
    adata = model.adata
    names = ["control", *model.treatments.perturbations]
    return {
        "obs": adata.obs,
        "outcome": adata.X.toarray().astype(np.float64),
        "predicted": {name: model.predict(name, source="all").X.astype(np.float64) for name in names},
        "used": (adata.obs["split"] != "ood").to_numpy(),
    }


def naive_effect(cells, treatment, reference, member, arm_variance):
    """Eq. 4, its correction shrunk, and its parts in the cells of one stratum, one arm after the other."""
    obs, used = cells["obs"], cells["used"] & member
    robust, observed, plugin = [], [], []
    for name in [treatment] if reference is None else [treatment, reference]:
        arm = used & (obs["perturbation"] == name).to_numpy()
        predicted = cells["predicted"][name]
        mean = cells["outcome"][arm].mean(axis=0)
        plugin.append(predicted[used].mean(axis=0))
        observed.append(mean)
        by_chance = 1 / arm.sum() - 1 / used.sum()
        others = obs[used]["perturbation"].value_counts(normalize=True)
        own = others.pop(name)  # the stratum's mean holds traces of all its arms
        share = by_chance / (by_chance + arm_variance * ((1 - own) ** 2 + (others**2).sum()))
        robust.append(mean + share * (predicted[used].mean(axis=0) - predicted[arm].mean(axis=0)))
    parts = [robust, observed, plugin]
    return [part[0] if reference is None else part[0] - part[1] for part in parts]


def stratum_mask(obs, stratum):
    mask = np.ones(len(obs), dtype=bool)
    for key, level in stratum.items():
        mask &= (obs[key] == level).to_numpy()
    return mask


def n_arm(cells, name, member):
    return int((cells["used"] & member & (cells["obs"]["perturbation"] == name).to_numpy()).sum())


def rows_of(effects):
    for i, treatment in enumerate(effects.treatments):
        for j, stratum in effects.strata.iterrows():
            yield i, j, treatment, stratum.to_dict()


@pytest.mark.parametrize("reference", ["control", None, "treatment"])
def test_estimates_equal_a_computation_cell_by_cell(model, reference):
    cells = table_of(model)
    reference = model.treatments.perturbations[1] if reference == "treatment" else reference
    effects = model.marginal_effect(reference=reference)
    compared = 0
    for i, j, treatment, stratum in rows_of(effects):
        member = stratum_mask(cells["obs"], stratum)
        arms = [n_arm(cells, name, member) for name in (treatment, reference) if name is not None]
        assert effects.n_treated[i, j] == arms[0]
        assert effects.n_stratum[i, j] == (cells["used"] & member).sum()
        if min(arms) == 0:
            continue
        compared += 1
        robust, observed, plugin = naive_effect(cells, treatment, reference, member, effects.params["arm_variance"])
        np.testing.assert_allclose(effects.robust[i, j], robust, atol=1e-5)
        np.testing.assert_allclose(effects.observed[i, j], observed, atol=1e-5)
        np.testing.assert_allclose(effects.plugin[i, j], plugin, atol=1e-5)
        np.testing.assert_array_equal(effects.estimate[i, j], effects.robust[i, j])
    assert compared > 10


def test_coarser_groups_are_averages_of_strata_with_both_arms(model):
    cells = table_of(model)
    effects = model.marginal_effect(groupby="cell_type")
    assert list(effects.strata.columns) == ["cell_type"]
    for i, j, treatment, stratum in rows_of(effects):
        parts, weights, total = [], [], 0
        for donor in sorted(cells["obs"]["donor"].unique()):
            member = stratum_mask(cells["obs"], {**stratum, "donor": donor})
            size = int((cells["used"] & member).sum())
            total += size
            if min(n_arm(cells, treatment, member), n_arm(cells, "control", member)) >= 2:
                parts.append(naive_effect(cells, treatment, "control", member, effects.params["arm_variance"]))
                weights.append(size)
        if not weights:
            assert effects.status[i, j] != "ok"
            continue
        for k, name in enumerate(["robust", "observed", "plugin"]):
            expected = np.average([part[k] for part in parts], axis=0, weights=weights)
            np.testing.assert_allclose(getattr(effects, name)[i, j], expected, atol=1e-5)
        np.testing.assert_allclose(effects.share[i, j], sum(weights) / total)


def test_the_guard_measures_the_latents_of_the_cells_used(model):
    cells = table_of(model)
    obs = cells["obs"][cells["used"]]
    arms = ArmMoments(obs.groupby(KEYS, observed=True).ngroup(), pd.factorize(obs["perturbation"])[0])
    arms.update(model.get_latent_representation()[cells["used"]], np.arange(len(obs)))
    guarded, plain = (model.marginal_effect(leak_guard=guard) for guard in (True, False))
    np.testing.assert_allclose(guarded.params["arm_variance"], variance_between(arms), rtol=1e-5)
    assert guarded.params["arm_variance"] > 0 == plain.params["arm_variance"]
    np.testing.assert_array_equal(guarded.observed, plain.observed)
    np.testing.assert_array_equal(guarded.plugin, plain.plugin)
    known = np.isfinite(plain.robust)
    assert (np.abs(guarded.robust - guarded.observed) < np.abs(plain.robust - plain.observed))[known].mean() > 0.8


def test_the_guard_by_states_is_eq_4_with_predictions_from_states(model):
    cells = table_of(model)
    used, outcome = np.flatnonzero(cells["used"]), cells["outcome"]
    obs = cells["obs"].iloc[used]
    conditions = pd.factorize(obs["perturbation"])
    stratum = obs.groupby(KEYS, observed=True).ngroup().to_numpy()
    levels = obs.groupby(KEYS, observed=True).size().index.to_frame().apply(lambda key: pd.factorize(key)[0])
    states = CellStates(stratum, conditions[0], levels.to_numpy())
    states.update(outcome[used], model.get_latent_representation()[used], np.arange(len(used)))
    predictions = states.fit()
    predicted = {
        name: predictions.of(code).predict(outcome[used], np.arange(len(used)))
        for code, name in enumerate(conditions[1])
    }
    guarded, plain = (model.marginal_effect(leak_guard=guard, batch_size=128) for guard in ("states", False))
    np.testing.assert_allclose(guarded.observed, plain.observed, atol=1e-6)
    np.testing.assert_allclose(guarded.plugin, plain.plugin, atol=1e-5)
    differs = 0
    for i, treatment in enumerate(guarded.treatments):
        for j, row in guarded.strata.iterrows():
            member = stratum_mask(obs, row)
            corrections = []
            for name in (treatment, "control"):
                arm = member & (obs["perturbation"] == name).to_numpy()
                corrections.append(predicted[name][arm].mean(axis=0) if arm.any() else np.nan)
            expected = guarded.observed[i, j] - corrections[0] + corrections[1]
            np.testing.assert_allclose(guarded.robust[i, j], expected, atol=1e-4)
            differs += np.nanmax(np.abs(np.append(expected - guarded.observed[i, j], 0))) > 1e-3
    assert differs > 6
    assert guarded.params["leak_guard"] == "states"
    np.testing.assert_allclose(guarded.influence.total.sum(axis=2), 0, atol=1e-4)


def test_the_guard_by_states_with_folds_and_a_mean(model):
    mean = model.marginal_effect(reference=None, leak_guard="states")
    np.testing.assert_allclose(mean.plugin, model.marginal_effect(reference=None).plugin, atol=1e-5)
    treatment = mean.treatments[0]
    kwargs = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    folds = model.marginal_effect(treatment, cross_fit=2, train_kwargs=kwargs, leak_guard="states")
    np.testing.assert_allclose(folds.observed, model.marginal_effect(treatment).observed, atol=1e-6)
    assert np.isfinite(folds.std_error).any()


@pytest.mark.parametrize("guard", [True, "share"])
def test_the_default_guard_is_by_share(model, guard):
    effects = model.marginal_effect(leak_guard=guard, keep_influence=False)
    assert effects.params["leak_guard"] == "share"
    assert effects.params["arm_variance"] > 0
    assert model.marginal_effect(leak_guard=False, keep_influence=False).params["leak_guard"] is False


def test_without_other_strata_the_guard_is_by_share(model):
    pooled, share = (model.marginal_effect(groupby=[], pooled=True, leak_guard=guard) for guard in ("states", "share"))
    assert pooled.params["leak_guard"] == "share"
    np.testing.assert_array_equal(pooled.robust, share.robust)
    np.testing.assert_array_equal(pooled.std_error, share.std_error)


def test_unknown_guards_are_refused(model):
    with pytest.raises(ValueError, match="Unknown `leak_guard` 'gene'"):
        model.marginal_effect(leak_guard="gene")


def test_groupby_of_nothing_averages_everything(model):
    effects = model.marginal_effect(groupby=[])
    assert effects.strata.shape == (1, 0)
    assert "cell_type" not in effects.to_frame()


def test_pooled_takes_cells_together(model):
    cells = table_of(model)
    effects = model.marginal_effect(groupby=["donor"], pooled=True)
    for i, j, treatment, stratum in rows_of(effects):
        member = stratum_mask(cells["obs"], stratum)
        if n_arm(cells, treatment, member) == 0:
            continue
        robust, observed, _ = naive_effect(cells, treatment, "control", member, effects.params["arm_variance"])
        np.testing.assert_allclose(effects.robust[i, j], robust, atol=1e-5)
        np.testing.assert_allclose(effects.observed[i, j], observed, atol=1e-5)
    assert effects.params["pooled"] is True


@pytest.mark.parametrize("cluster_key", [None, "donor"])
@pytest.mark.parametrize("estimator", ["robust", "observed"])
def test_errors_equal_those_of_one_pass_over_all_cells(model, estimator, cluster_key):
    cells = table_of(model)
    used, obs = cells["used"], cells["obs"]
    stratum, levels = pd.factorize(obs["cell_type"][used].astype(str), sort=True)
    clusters = None if cluster_key is None else pd.factorize(obs[cluster_key][used])[0]
    groups, group = Groups.from_codes(stratum, clusters)
    treatment = model.treatments.perturbations[0]
    sums = EffectSums(groups, n_genes=40)
    received = obs["perturbation"][used].to_numpy()
    sums.update(
        cells["outcome"][used],
        cells["predicted"][treatment][used],
        cells["predicted"]["control"][used],
        received == treatment,
        received == "control",
        group,
    )
    expected = marginal_effects(
        [(treatment, sums)],
        strata=pd.DataFrame({"cell_type": levels}),
        genes=list(model.adata.var_names),
        estimator=estimator,
    )
    effects = model.marginal_effect(
        treatment, groupby="cell_type", pooled=True, estimator=estimator, cluster_key=cluster_key, leak_guard=False
    )
    assert (effects.status == expected.status).all()
    assert np.isfinite(effects.std_error).any()
    for name in ("std_error", "ci_low", "ci_high", "p_value", "df"):
        np.testing.assert_allclose(getattr(effects, name), getattr(expected, name), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(effects.n_clusters, expected.n_clusters)
    if cluster_key:
        assert (effects.n_clusters[np.isfinite(effects.std_error).any(axis=2)] == 3).all()


def test_equation_4_is_an_identity_in_float64(model):
    cells = table_of(model)
    used, obs = cells["used"], cells["obs"]
    received = obs["perturbation"][used].to_numpy()
    treatment = model.treatments.perturbations[0]
    groups, group = Groups.from_codes(np.zeros(used.sum(), dtype=int))
    sums = EffectSums(groups, n_genes=40)
    predicted = {name: cells["predicted"][name][used] for name in (treatment, "control")}
    arms = {name: received == name for name in (treatment, "control")}
    outcome = cells["outcome"][used]
    sums.update(outcome, predicted[treatment], predicted["control"], arms[treatment], arms["control"], group)
    result = marginal_effects([(treatment, sums)], strata=pd.DataFrame(index=[0]), genes=list(model.adata.var_names))
    mean = {name: outcome[arms[name]].mean(axis=0) for name in arms}
    correction = {name: predicted[name].mean(axis=0) - predicted[name][arms[name]].mean(axis=0) for name in arms}
    expected = mean[treatment] + correction[treatment] - mean["control"] - correction["control"]
    np.testing.assert_allclose(result.robust[0, 0], expected, rtol=0, atol=1e-9)


def test_estimator_chooses_the_estimate(model, effects):
    for estimator in ("robust", "observed", "plugin"):
        other = model.marginal_effect(estimator=estimator)
        ok = other.status == "ok"
        np.testing.assert_array_equal(other.estimate[ok], getattr(other, estimator)[ok])
        np.testing.assert_allclose(other.robust[ok], effects.robust[ok], atol=1e-12)
        assert np.isnan(other.std_error).all() == (estimator == "plugin")


def test_status_says_why_there_is_no_interval(model):
    cells = table_of(model)
    effects = model.marginal_effect(min_cells=15)
    seen = set()
    for i, j, treatment, stratum in rows_of(effects):
        member = stratum_mask(cells["obs"], stratum)
        treated, control = (n_arm(cells, name, member) for name in (treatment, "control"))
        status = effects.status[i, j]
        found = effects.leaks.harmful(0.05)[i, j]
        assert not found or effects.leaks.p_value[i, j] <= 0.05
        enough = "leak_detected" if found else "ok"
        expected = "extrapolated" if treated == 0 else "too_few_cells" if min(treated, control) < 15 else enough
        assert status == expected
        assert np.isfinite(effects.std_error[i, j]).all() == (status == enough)
        seen.add("has error" if status == enough else status)
        if status == "extrapolated":
            np.testing.assert_allclose(effects.estimate[i, j], effects.plugin[i, j])
    assert seen == {"has error", "extrapolated", "too_few_cells"}


def test_stratum_without_control_warns_and_has_no_reference(new_screen, fit):
    adata = new_screen(n_cells=400)
    alone = (adata.obs["cell_type"] == "type0") & (adata.obs["donor"] == adata.obs["donor"].cat.categories[0])
    adata = adata[~(alone & (adata.obs["perturbation"] == "control"))].copy()
    with pytest.warns(UserWarning, match=r"1 strata have no control cells.*type0, .*'no_reference'"):
        model = fit(adata, max_epochs=1)
    effects = model.marginal_effect()
    without = (effects.strata["cell_type"] == "type0") & (
        effects.strata["donor"] == adata.obs["donor"].cat.categories[0]
    )
    assert (effects.status[:, without] == "no_reference").all()
    assert not (effects.status[:, ~without] == "no_reference").any()
    assert np.isnan(effects.std_error[:, without]).all()
    coarse = model.marginal_effect(groupby="cell_type")
    averaged = np.isfinite(coarse.std_error).any(axis=2) & (coarse.strata["cell_type"] == "type0").to_numpy()
    assert averaged.any()
    assert (coarse.share[averaged] < 1).all()


def test_one_cluster_gives_no_error(model):
    model.adata.obs["one"] = "same"
    effects = model.marginal_effect(cluster_key="one", groupby="cell_type")
    assert not (effects.status == "ok").any()
    assert "too_few_clusters" in effects.status
    del model.adata.obs["one"]


def test_held_out_cells_are_never_used(model, new_screen):
    effects = model.marginal_effect()
    adata = new_screen(n_cells=500, n_donors=3, seed=2)
    held_out = (adata.obs["split"] == "ood").to_numpy()
    dense = adata.X.toarray()
    dense[held_out] = 777.0
    adata.X = dense
    other = model.marginal_effect(adata=adata)
    for name in ("estimate", "std_error", "robust", "observed", "plugin", "n_stratum"):
        np.testing.assert_allclose(getattr(other, name), getattr(effects, name), atol=1e-6)
    without = adata[~held_out].copy()
    np.testing.assert_allclose(model.marginal_effect(adata=without).estimate, effects.estimate, atol=1e-6)


def test_result_does_not_depend_on_batches_or_memory(model, effects, monkeypatch):
    np.testing.assert_allclose(model.marginal_effect(batch_size=17).estimate, effects.estimate, atol=1e-5)
    monkeypatch.setattr("scgraphvci.model._effect_sums.MAX_SUMS_BYTES", 1)
    one_by_one = model.marginal_effect()  # in memory that is used again and again
    for name in ("estimate", "std_error", "robust", "observed", "plugin"):
        np.testing.assert_allclose(getattr(one_by_one, name), getattr(effects, name), atol=1e-6)


def test_frame_has_the_columns_of_the_design(effects):
    frame = effects.to_frame()
    assert list(frame.columns) == [
        *["treatment", "cell_type", "donor", "gene", "estimate", "std_error", "ci_low", "ci_high", "p_value"],
        *["p_value_adj", "robust", "observed", "plugin"],
        *["n_treated", "n_reference", "n_stratum", "n_clusters", "status"],
    ]
    assert len(frame) == 4 * 6 * 40
    assert frame["gene"].iloc[:40].tolist() == list(effects.genes)


def test_leak_equals_the_difference_of_predictions(model, effects):
    cells = table_of(model)
    frame = effects.leakage().to_frame()
    shape = (len(effects.treatments), len(effects.strata), -1)
    leak, bias = (frame[name].to_numpy().reshape(shape) for name in ("leak", "bias"))
    for i, j, treatment, stratum in rows_of(effects):
        member = cells["used"] & stratum_mask(cells["obs"], stratum)
        arm = member & (cells["obs"]["perturbation"] == treatment).to_numpy()
        if arm.sum() < 2:
            continue
        predicted = cells["predicted"][treatment]
        expected = predicted[arm].mean(axis=0) - predicted[member & ~arm].mean(axis=0)
        np.testing.assert_allclose(leak[i, j], expected, atol=1e-5)
        np.testing.assert_allclose(bias[i, j], effects.robust[i, j] - effects.observed[i, j], atol=1e-12)
    assert len(effects.leakage().summary()) == len(effects.treatments) * len(effects.strata)


def test_joint_bands_and_romano_wolf_come_from_the_model(model):
    effects = model.marginal_effect(groupby=[], p_adjust="romano_wolf")
    frame = effects.to_frame(joint=True)
    frame = frame[np.isfinite(frame["std_error"]) & (frame["std_error"] > 0)]
    assert (frame["band_method"] == "multiplier_bootstrap").all()
    assert (frame["band_high"] - frame["band_low"] >= frame["ci_high"] - frame["ci_low"]).all()
    assert (frame["p_value_adj"] >= frame["p_value"]).all()
    with pytest.raises(ValueError, match="keep_influence"):
        model.marginal_effect(groupby=[], keep_influence=False).joint_bands()


def test_influence_values_of_cells_add_up_to_those_of_blocks(model, monkeypatch):
    name = model.treatments.perturbations[0]
    by_cell, by_block = (model.marginal_effect(name, groupby=[], keep_influence=kept) for kept in ("cells", True))
    np.testing.assert_allclose(by_cell.std_error, by_block.std_error, rtol=1e-12)
    used = (model.adata.obs["split"] != "ood").to_numpy()
    value = by_cell.influence.total[0, 0]
    assert value.shape == (used.sum(), model.adata.n_vars)
    in_arm = by_cell.influence.cells[0, 0, :, 0] == 1
    assert in_arm.any() and (model.adata.obs["perturbation"][used][in_arm] == name).all()
    stratum = model.adata.obs.loc[used, KEYS].astype(str).agg("/".join, axis=1).factorize(sort=True)[0]
    groups, group = Groups.from_codes(stratum)
    for block, total in enumerate(by_block.influence.total[0, 0]):
        np.testing.assert_allclose(value[groups.cluster[group] == block].sum(axis=0), total, atol=1e-5)
    with pytest.raises(ValueError, match="'cells' is for errors of independent cells"):
        model.marginal_effect(name, keep_influence="cells", cluster_key="donor")
    monkeypatch.setattr(cells_module, "MAX_CELL_INFLUENCE_BYTES", 1000)
    with pytest.raises(ValueError, match=r"need [\d,]+ bytes for 1 treatments x .* Choose fewer `treatments`"):
        model.marginal_effect(name, keep_influence="cells")


def test_an_allowed_leak_widens_the_interval(model):
    plain, wide = (model.marginal_effect(groupby=[], max_leak=leak) for leak in (0.0, 0.1))
    np.testing.assert_allclose(plain.ci_low - wide.ci_low, 0.1 * np.abs(plain.plugin), atol=1e-6)


def test_a_contrast_knows_its_cells(model):
    first, second = (model.marginal_effect(name, groupby=[]) for name in model.treatments.perturbations[:2])
    result = first.contrast(second)
    np.testing.assert_allclose(result.estimate, first.estimate - second.estimate)
    assert np.isfinite(result.std_error).all()
    subset = model.adata[40:].copy()
    other = model.marginal_effect(model.treatments.perturbations[1], groupby=[], adata=subset)
    with pytest.raises(ValueError, match="same cells"):
        first.contrast(other)


def test_fold_changes_are_of_counts(model, fitted_counts):
    effects = fitted_counts.marginal_effect(groupby=[], estimator="observed", estimand="ratio", pseudocount=1.0)
    plain = fitted_counts.marginal_effect(groupby=[], estimator="observed")
    arm = fitted_counts.marginal_effect(groupby=[], estimator="observed", reference=None)
    full = plain.share == arm.share
    ratio = (arm.estimate + 1) / (arm.estimate - plain.estimate + 1)
    np.testing.assert_allclose(effects.estimate[full], ratio[full], rtol=1e-6)
    with pytest.raises(ValueError, match="natural log fold change already"):
        model.marginal_effect(estimand="log_fold_change")


def test_order_and_choice_of_treatments(model, effects):
    first, second = model.treatments.perturbations[:2]
    chosen = model.marginal_effect([second, first])
    assert list(chosen.treatments) == [second, first]
    np.testing.assert_allclose(chosen.estimate[0], effects.select(second).estimate[0], atol=1e-6)


def test_recovers_the_sign_of_a_strong_effect(model):
    """A knock-down lowers its own regulator: the least a marginal effect must show."""
    effects = model.marginal_effect(groupby=[], estimator="observed")
    for treatment in effects.treatments:
        row = effects.to_frame(treatments=treatment, genes=treatment)
        assert row["estimate"].item() < 0


def test_no_covariates_at_all(new_screen, fit):
    model = fit(new_screen(), categorical_covariate_keys=None)
    effects = model.marginal_effect()
    assert effects.strata.shape == (1, 0)
    cells = table_of(model)
    treatment = effects.treatments[0]
    everywhere = np.ones(240, dtype=bool)
    robust, _, _ = naive_effect(cells, treatment, "control", everywhere, effects.params["arm_variance"])
    np.testing.assert_allclose(effects.robust[0, 0], robust, atol=1e-5)


def test_doses_choose_their_own_cells(fitted_doses):
    adata = fitted_doses.adata
    name = fitted_doses.treatments.perturbations[0]
    used = (adata.obs["split"] != "ood").to_numpy()
    for dose in (0.5, 2.0):
        effects = fitted_doses.marginal_effect(name, dose=dose, groupby=[], pooled=True)
        assert set(effects.to_frame()["dose"]) == {str(dose)}
        arm = used & ((adata.obs["perturbation"] == name) & (adata.obs["dose"].astype(str) == f"{dose:g}")).to_numpy()
        assert effects.n_treated.item() == arm.sum() > 0
        control = used & (adata.obs["perturbation"] == "control").to_numpy()
        dense = adata.X.toarray()
        expected = dense[arm].mean(axis=0) - dense[control].mean(axis=0)
        np.testing.assert_allclose(effects.observed[0, 0], expected, atol=1e-5)


def test_combination_as_reference(fitted_doses):
    combination = next(name for name in fitted_doses.treatments.names if "+" in name)
    single = fitted_doses.treatments.perturbations[0]
    effects = fitted_doses.marginal_effect(single, reference=combination, groupby=[])
    assert effects.params["reference"] == combination
    with pytest.raises(ValueError, match="also the reference"):
        fitted_doses.marginal_effect([single, combination], reference=combination)


def test_treatment_only_seen_held_out_is_extrapolated(new_screen, fit):
    adata = new_screen()
    name = adata.obs["perturbation"].cat.categories[-1]
    adata.obs.loc[adata.obs["perturbation"] == name, "split"] = "ood"
    effects = fit(adata, max_epochs=1).marginal_effect()
    row = list(effects.treatments).index(name)
    assert (effects.status[row] == "extrapolated").all()
    assert (effects.n_treated[row] == 0).all()


def test_counts_are_on_the_scale_of_the_median_library(fitted_counts):
    adata = fitted_counts.adata
    effects = fitted_counts.marginal_effect(groupby=[], pooled=True, estimator="observed")
    assert effects.params["scale"] == "counts"
    counts = adata.layers["counts"].toarray().astype(float)
    split = adata.obs["split"].to_numpy()
    totals = counts.sum(axis=1, keepdims=True)
    scaled = counts / totals * np.median(totals[split == "train"])
    for i, treatment in enumerate(effects.treatments):
        used = split != "ood"
        arms = [used & (adata.obs["perturbation"] == name).to_numpy() for name in (treatment, "control")]
        expected = scaled[arms[0]].mean(axis=0) - scaled[arms[1]].mean(axis=0)
        np.testing.assert_allclose(effects.estimate[i, 0], expected, rtol=1e-3, atol=1e-3)


def test_rank_effects_takes_the_result(model):
    adata = model.adata.copy()
    rank_effects(adata, model.marginal_effect(groupby=[]), key_added="rank_effects")
    assert "rank_effects" in adata.uns


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"groupby": "library"}, ValueError, r"library.*Choose from \['cell_type', 'donor'\]"),
        ({"groupby": ["library"], "pooled": True}, ValueError, "library"),
        ({"treatments": "NOPE"}, ValueError, "Unknown treatment 'NOPE'"),
        ({"treatments": []}, ValueError, "No treatment"),
        ({"treatments": ["A", "B", "A"]}, ValueError, r"names \['A'\] more than once"),
        ({"reference": "NOPE"}, ValueError, "Unknown treatment 'NOPE'"),
        ({"treatments": "control"}, ValueError, "also the reference"),
        ({"cluster_key": "nowhere"}, KeyError, "nowhere"),
        ({"estimator": "best"}, ValueError, "best"),
        ({"alpha": 0}, ValueError, "alpha"),
        ({"min_cells": 1}, ValueError, "min_cells"),
        ({"p_adjust": "none"}, ValueError, "p_adjust"),
        ({"max_leak": 2}, ValueError, "max_leak"),
        ({"dose": 1}, ValueError, "dose_key"),
    ],
)
def test_wrong_requests_are_refused(model, arguments, error, match):
    with pytest.raises(error, match=match):
        model.marginal_effect(**arguments)


def test_untrained_model_says_so(new_screen):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="train"):
        sgv.GraphVCI(adata, n_hidden=8).marginal_effect()


class TestCrossFit:
    """Every cell is predicted by the model of its fold."""

    KWARGS = {"max_epochs": 2, "accelerator": "cpu"}

    def test_equals_a_naive_computation(self, model):
        """Eq. 4 with the predictions of each fold's own model in the place of the model's."""
        found = model.marginal_effect(cross_fit=3, train_kwargs=self.KWARGS, seed=4)
        cells = effect_cells(model, model.adata, None, None)
        fold = assign_folds(3, cells.groups.stratum[cells.group], cells.condition, None, 4)
        predictors, _ = fit_folds(model, model.adata, cells.cell, fold, self.KWARGS, 4)
        naive = table_of(model)
        for name in naive["predicted"]:
            naive["predicted"][name][:] = np.nan
            for one in predictors:
                mine = cells.cell[one.position]
                naive["predicted"][name][mine] = one.model.predict(name, indices=mine).X
            naive["predicted"][name][~naive["used"]] = 0.0
        frame = found.strata
        for i, treatment in enumerate(found.treatments):
            for j, stratum in enumerate(frame.to_dict("records")):
                if found.status[i, j] in ("ok", "leak_detected"):
                    member = stratum_mask(model.adata.obs, stratum)
                    robust, observed, plugin = naive_effect(
                        naive, treatment, "control", member, found.params["arm_variance"]
                    )
                    np.testing.assert_allclose(found.robust[i, j], robust, rtol=1e-4, atol=1e-5)
                    np.testing.assert_allclose(found.observed[i, j], observed, rtol=1e-4, atol=1e-5)
                    np.testing.assert_allclose(found.plugin[i, j], plugin, rtol=1e-4, atol=1e-5)
        assert found.params["cross_fit"] == 3
        assert found.params["left_out_of_folds"] == []

    def test_clusters_are_predicted_by_models_that_never_saw_them(self, model):
        found = model.marginal_effect(
            model.treatments.perturbations[0], groupby="cell_type", cluster_key="donor", cross_fit=3,
            train_kwargs=self.KWARGS,
        )  # fmt: skip
        assert found.params["left_out_of_folds"] == ["donor"]
        same = model.marginal_effect(model.treatments.perturbations[0], groupby="cell_type", cluster_key="donor")
        np.testing.assert_allclose(found.observed, same.observed, rtol=1e-6)
        assert np.isfinite(found.std_error).any()

    def test_counts_stay_on_the_models_scale(self, fit, new_screen):
        model = fit(new_screen(n_cells=300, seed=2), layer="counts", likelihood="nb")
        effects, again = (model.marginal_effect(cross_fit=k, train_kwargs=self.KWARGS) for k in (0, 2))
        known = np.isfinite(effects.observed)
        np.testing.assert_allclose(again.observed[known], effects.observed[known], rtol=1e-4, atol=1e-5)

    def test_repetitions_equal_a_loop(self, model):
        """Median estimate and the error of definition 3.3, from results of single repetitions."""
        arguments = {"groupby": "cell_type", "cross_fit": 2, "train_kwargs": self.KWARGS}
        before = model.adata.obs.copy(), set(model.adata.uns)
        found = model.marginal_effect(n_repeats=3, seed=4, **arguments)
        single = [model.marginal_effect(seed=one, **arguments) for one in repetition_seeds(4, 3)]
        pd.testing.assert_frame_equal(model.adata.obs, before[0])
        assert set(model.adata.uns) == before[1]
        theta = np.stack([one.robust for one in single])
        assert (np.ptp(theta, axis=0) > 0).any()  # folds and trainings differ
        centre = np.median(theta, axis=0)
        error = np.sqrt(np.median(np.stack([one.std_error for one in single]) ** 2 + (theta - centre) ** 2, axis=0))
        np.testing.assert_allclose(found.estimate, np.where(np.isnan(centre), found.plugin, centre))
        np.testing.assert_allclose(found.std_error, error)
        assert found.params["n_repeats"] == 3
        assert np.isfinite(found.to_frame(joint=True)["band_low"]).any()

    def test_models_of_folds_are_let_go(self, model, monkeypatch):
        """Neither models nor data of folds outlive the call, whether it ends well or not."""
        alive, train = [], Recipe.train

        def watched(*args):
            one = train(*args)
            alive.extend([weakref.ref(one), weakref.ref(one.adata)])
            if len(alive) == 12:
                raise KeyboardInterrupt
            return one

        monkeypatch.setattr(Recipe, "train", watched)
        model.marginal_effect(cross_fit=2, n_repeats=2, train_kwargs=self.KWARGS)
        gc.collect()
        assert [one() for one in alive] == [None] * 8
        with pytest.raises(KeyboardInterrupt):
            model.marginal_effect(cross_fit=2, train_kwargs=self.KWARGS)
        gc.collect()
        assert [one() for one in alive[8:10]] == [None] * 2

    def test_progress_is_shown_unless_unwanted(self, model, capsys):
        """The model itself was trained without a bar."""
        model.marginal_effect(cross_fit=2, train_kwargs=self.KWARGS)
        assert "Cross-fitting" not in "".join(capsys.readouterr())
        model.marginal_effect(cross_fit=2, train_kwargs={**self.KWARGS, "enable_progress_bar": True})
        assert "Cross-fitting" in "".join(capsys.readouterr())

    @pytest.mark.parametrize("arguments", [{"n_repeats": 2}, {"cross_fit": 2, "n_repeats": 0}])
    def test_repetitions_need_folds(self, model, arguments):
        with pytest.raises(ValueError, match="`n_repeats` is"):
            model.marginal_effect(**arguments)

    @pytest.mark.parametrize("folds", [-1, 1, 10**6])
    def test_impossible_numbers_of_folds(self, model, folds):
        with pytest.raises(ValueError, match=rf"cross_fit={folds} must be 0, or between 2 and"):
            model.marginal_effect(cross_fit=folds)
