"""Counterfactuals: of which cells, under what treatment, on which scale, and written where."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from scipy import sparse

import scgraphvci as sgv
from scgraphvci.module._baseline import MeanBaseline


def treatments_of(model):
    return list(model.treatments.perturbations)


def cells_of(adata, treatment):
    return np.flatnonzero(adata.obs["perturbation"] == treatment)


def naive_mean(model, treatment_vector, indices):
    """Encode cells one at a time, decode under a treatment vector: no loader, no batching."""
    module, adata = model.module.eval(), model.adata
    expression = adata.X.toarray()[indices]
    design = torch.as_tensor(model.treatments.design)
    strata = module.strata
    codes = adata.obs[["_scgraphvci_treatment", "_scgraphvci_stratum"]].to_numpy()[indices]
    rows = []
    with torch.no_grad():
        genes = module.embed_genes()
        for y, (t, x) in zip(expression, codes, strict=True):
            qz = module.encode(
                torch.as_tensor(y[None], dtype=torch.float32), design[t][None], strata[x][None], None, genes
            )
            vector = torch.as_tensor(treatment_vector, dtype=torch.float32)[None]
            rows.append(module.mean(module.decode(qz.mean, vector, strata[x][None], genes)).numpy()[0])
    return np.stack(rows)


# --- which cells ---


def test_source_is_control_by_default(fitted):
    adata = fitted.adata
    treatment = treatments_of(fitted)[0]
    control = cells_of(adata, "control")
    predicted = fitted.predict(treatment)
    assert predicted.obs["source_cell"].tolist() == adata.obs_names[control].tolist()
    assert predicted.obs_names.tolist() == adata.obs_names[control].tolist()
    assert predicted.var_names.tolist() == adata.var_names.tolist()
    assert set(predicted.obs["counterfactual_treatment"]) == {treatment}
    assert predicted.obs["cell_type"].tolist() == adata.obs["cell_type"].iloc[control].tolist()
    np.testing.assert_array_equal(fitted.predict(treatment, source="control").X, predicted.X)


def test_source_may_be_a_treatment_or_all(fitted):
    adata = fitted.adata
    first, second = treatments_of(fitted)[:2]
    assert fitted.predict(first, source=second).obs_names.tolist() == adata.obs_names[cells_of(adata, second)].tolist()
    assert fitted.predict(first, source="all").obs_names.tolist() == adata.obs_names.tolist()


def test_indices_are_kept_in_their_order_whatever_they_received(fitted):
    adata = fitted.adata
    treatment = treatments_of(fitted)[1]
    everything = fitted.predict(treatment, source="all").X
    indices = np.random.default_rng(1).permutation(adata.n_obs)[:50]
    predicted = fitted.predict(treatment, indices=indices)
    assert predicted.obs_names.tolist() == adata.obs_names[indices].tolist()
    np.testing.assert_allclose(predicted.X, everything[indices], atol=1e-6)
    mask = np.zeros(adata.n_obs, dtype=bool)
    mask[[3, 7, 11]] = True
    assert fitted.predict(treatment, indices=mask).obs_names.tolist() == adata.obs_names[[3, 7, 11]].tolist()
    assert fitted.predict(treatment, indices=range(4)).n_obs == 4


def test_repeated_indices_get_distinct_names(fitted):
    predicted = fitted.predict(treatments_of(fitted)[0], indices=[5, 5, 2])
    assert predicted.obs_names.is_unique
    assert predicted.obs["source_cell"].tolist() == fitted.adata.obs_names[[5, 5, 2]].tolist()
    np.testing.assert_allclose(predicted.X[0], predicted.X[1], atol=1e-6)


def test_prediction_is_what_the_module_computes_cell_by_cell(fitted):
    indices = [0, 9, 4, 133]
    for k, treatment in enumerate(treatments_of(fitted)[:2]):
        vector = np.eye(4)[k]
        predicted = fitted.predict(treatment, indices=indices).X
        np.testing.assert_allclose(predicted, naive_mean(fitted, vector, indices), atol=1e-5)
    control = fitted.predict("control", indices=indices).X
    np.testing.assert_allclose(control, naive_mean(fitted, np.zeros(4), indices), atol=1e-5)


def test_batch_size_does_not_matter(fitted):
    treatment = treatments_of(fitted)[0]
    whole = fitted.predict(treatment, source="all")
    np.testing.assert_allclose(fitted.predict(treatment, source="all", batch_size=7).X, whole.X, atol=1e-6)


def test_no_cell_but_the_source_cells_is_read(fitted, new_screen):
    treatment = treatments_of(fitted)[0]
    adata = new_screen()
    expected = fitted.predict(treatment, adata=adata)
    other = new_screen()
    treated = (other.obs["perturbation"] != "control").to_numpy()
    dense = other.X.toarray()
    dense[treated] = 1e6 * np.random.default_rng(0).random((treated.sum(), other.n_vars))
    other.X = dense
    np.testing.assert_array_equal(fitted.predict(treatment, adata=other).X, expected.X)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"source": "control", "indices": [0]}, "either `source` .* or `indices`"),
        ({"source": "nothing"}, "nothing"),
        ({"indices": []}, "at least one cell"),
        ({"indices": [240]}, "there are 240 cells"),
        ({"indices": [-1]}, "there are 240 cells"),
        ({"indices": [[0]]}, "shape"),
        ({"dose": 1.0}, "no `dose_key`"),
        ({"library": "median"}, "standard.*observed"),
    ],
)
def test_wrong_requests_are_refused(fitted, arguments, match):
    with pytest.raises(ValueError, match=match):
        fitted.predict(treatments_of(fitted)[0], **arguments)


def test_mask_of_other_length_is_refused(fitted):
    with pytest.raises(TypeError, match="one boolean for each of 240 cells"):
        fitted.predict(treatments_of(fitted)[0], indices=np.ones(3, dtype=bool))


def test_fractional_indices_are_refused(fitted):
    with pytest.raises(TypeError, match="indices"):
        fitted.predict(treatments_of(fitted)[0], indices=[0.5, 1.0])


def test_unknown_treatment_names_the_known_ones(fitted):
    with pytest.raises(ValueError, match=r"Unknown treatment 'NOPE'.*Known: control, G"):
        fitted.predict("NOPE")
    first, second = treatments_of(fitted)[:2]
    with pytest.raises(ValueError, match="combination_sep"):
        fitted.predict(f"{first}+{second}")


def test_untrained_model_says_so(new_screen):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="train"):
        sgv.GraphVCI(adata, n_hidden=8).predict("control")


def test_registered_control_is_meant_whatever_its_name(new_screen, fit):
    adata = new_screen()
    adata.obs["perturbation"] = adata.obs["perturbation"].cat.rename_categories({"control": "vehicle"})
    model = fit(adata, control="vehicle", max_epochs=1)
    predicted = model.predict(treatments_of(model)[0], source="control")
    assert predicted.obs_names.tolist() == adata.obs_names[cells_of(adata, "vehicle")].tolist()
    assert set(model.predict("vehicle").obs["counterfactual_treatment"]) == {"vehicle"}


# --- new data ---


def test_genes_of_new_data_are_matched_by_name(fitted, new_screen):
    treatment = treatments_of(fitted)[0]
    expected = fitted.predict(treatment, indices=range(60)).X
    new = new_screen()[:60].copy()
    extra = ad.AnnData(np.ones((60, 2), np.float32), obs=new.obs.copy(), var=pd.DataFrame(index=["extra1", "extra2"]))
    wide = ad.concat([new, extra], axis=1, merge="same")
    order = np.random.default_rng(0).permutation(wide.n_vars)
    shuffled = wide[:, order].copy()
    predicted = fitted.predict(treatment, indices=range(60), adata=shuffled)
    assert predicted.var_names.tolist() == fitted.adata.var_names.tolist()
    np.testing.assert_allclose(predicted.X, expected, atol=1e-6)
    assert shuffled.var_names.tolist() == wide.var_names[order].tolist()
    assert not any(name.startswith("_scgraphvci") for name in shuffled.obs)


def test_repeated_prediction_on_permuted_data_keeps_one_copy(fitted, new_screen):
    new = new_screen()[:, ::-1].copy()
    store = type(fitted)._per_instance_manager_store[fitted.id]
    fitted.predict("control", adata=new)
    before = len(store)
    for treatment in treatments_of(fitted):
        fitted.predict(treatment, adata=new)
    assert len(store) == before


def test_missing_genes_are_refused(fitted, new_screen):
    new = new_screen()
    missing = new.var_names[5]
    with pytest.raises(ValueError, match=f"1 of 40 genes of the model are missing.*{missing}"):
        fitted.predict("control", adata=new[:, new.var_names != missing].copy())


def test_new_data_need_neither_split_nor_network(fitted, new_screen):
    treatment = treatments_of(fitted)[0]
    new = new_screen()[:80].copy()
    expected = fitted.predict(treatment, indices=range(80)).X
    del new.varp["grn"], new.obs["split"]
    np.testing.assert_allclose(fitted.predict(treatment, indices=range(80), adata=new).X, expected, atol=1e-6)


def test_new_data_may_be_one_cell_of_one_treatment(fitted, new_screen):
    new = new_screen()
    new = new[new.obs["perturbation"] != "control"][:1].copy()
    assert fitted.predict("control", source="all", adata=new).shape == (1, 40)
    with pytest.raises(ValueError, match="No cell received the source treatment 'control'"):
        fitted.predict("control", adata=new)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, name: model.predict(name),
        lambda model, name: model.predict(model.treatments.perturbations[0], source=name),
        lambda model, name: model.sample(name),
        lambda model, name: model.add_counterfactuals(name),
        lambda model, name: model.marginal_effect(name),
        lambda model, name: model.marginal_effect(reference=name),
    ],
)
def test_a_treatment_in_another_case_is_suggested(fitted, ask):
    known = fitted.treatments.perturbations[0]
    with pytest.raises(ValueError, match=rf"{known.lower()}.*Did you mean '{known}'\?"):
        ask(fitted, known.lower())


def test_new_data_with_unknown_levels_are_refused_and_left_alone(fitted, new_screen):
    for column, value, match in [("cell_type", "type9", "type9"), ("perturbation", "NOPE", "Unknown treatment 'NOPE'")]:
        new = new_screen()
        new.obs[column] = new.obs[column].astype(str)
        new.obs.iloc[3, new.obs.columns.get_loc(column)] = value
        with pytest.raises(ValueError, match=match):
            fitted.predict("control", adata=new)
        assert not any(str(key).startswith("_scgraphvci") for key in [*new.obs, *new.obsm])


@pytest.mark.parametrize("form", ["dense", "float64", "csc", "csr_array", "csc_array", "int64 view"])
def test_any_matrix_gives_the_same_prediction(fitted, new_screen, form):
    treatment = treatments_of(fitted)[0]
    new = new_screen()
    expected = fitted.predict(treatment, indices=range(50)).X
    convert = {
        "dense": lambda x: x.toarray(),
        "float64": lambda x: x.astype(np.float64),
        "csc": lambda x: x.tocsc(),
        "csr_array": sparse.csr_array,
        "csc_array": sparse.csc_array,
        "int64 view": lambda x: x,
    }[form]
    new.X = convert(new.X)
    new = new[:50] if "view" in form else new[:50].copy()
    np.testing.assert_allclose(fitted.predict(treatment, indices=range(50), adata=new).X, expected, atol=1e-6)


# --- doses and combinations ---


def test_default_dose_is_the_most_frequent_in_training(fitted_doses):
    adata = fitted_doses.adata
    single = treatments_of(fitted_doses)[0]
    train = adata.obs[(adata.obs["split"] == "train") & (adata.obs["perturbation"] == single)]
    frequent = train["dose"].value_counts().idxmax()
    indices = range(20)
    predicted = fitted_doses.predict(single, indices=indices)
    np.testing.assert_array_equal(predicted.X, fitted_doses.predict(single, indices=indices, dose=frequent).X)
    assert set(predicted.obs["counterfactual_dose"].astype(float)) == {float(frequent)}
    doses = [fitted_doses.predict(single, indices=indices, dose=dose).X for dose in (0.5, 2.0)]
    assert np.abs(doses[0] - doses[1]).max() > 1e-5


def test_training_ends_with_the_curve_of_the_dose_that_was_fitted(new_screen, fit, monkeypatch):
    original = MeanBaseline.start_from

    def start_from(self, *args):
        original(self, *args)
        self.dose_response.copy_(torch.tensor([3.0, 2.0]))

    monkeypatch.setattr(MeanBaseline, "start_from", start_from)
    model = fit(new_screen(n_cells=300, doses=(0.5, 2.0)), dose_key="dose")
    assert model.module.baseline.dose_response.tolist() == [3.0, 2.0]


def test_doses_are_scaled_by_the_largest_training_dose(fitted_doses):
    table = fitted_doses.treatments
    single = treatments_of(fitted_doses)[0]
    assert table.vector(single, 2.0).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert table.vector(single, 0.5).tolist() == [0.25, 0.0, 0.0, 0.0]
    assert table.vector(single, "4").tolist() == [2.0, 0.0, 0.0, 0.0]
    indices = [0, 5, 9]
    predicted = fitted_doses.predict(single, indices=indices, dose=0.5).X
    np.testing.assert_allclose(predicted, naive_mean(fitted_doses, table.vector(single, 0.5), indices), atol=1e-5)


def test_dose_zero_is_control(fitted_doses):
    single = treatments_of(fitted_doses)[0]
    zero = fitted_doses.predict(single, indices=range(9), dose=0)
    np.testing.assert_array_equal(zero.X, fitted_doses.predict("control", indices=range(9)).X)


def test_members_of_a_combination_have_their_own_doses(fitted_doses):
    first, second = treatments_of(fitted_doses)[:2]
    indices = [1, 2, 3]
    predicted = fitted_doses.predict(f"{first}+{second}", indices=indices, dose="2+0.5")
    np.testing.assert_allclose(predicted.X, naive_mean(fitted_doses, [1, 0.25, 0, 0], indices), atol=1e-5)
    swapped = fitted_doses.predict(f"{second}+{first}", indices=indices, dose="0.5+2")
    np.testing.assert_array_equal(swapped.X, predicted.X)
    assert set(predicted.obs["counterfactual_dose"]) == {"2+0.5"}
    same = fitted_doses.predict(f"{first}+{second}", indices=indices, dose="1+1")
    np.testing.assert_allclose(same.X, naive_mean(fitted_doses, [0.5, 0.5, 0, 0], indices), atol=1e-5)


def test_combination_never_seen_uses_the_default_doses_of_its_members(fitted_doses):
    table = fitted_doses.treatments
    names = table.perturbations
    seen = {frozenset(table.members(name)) for name in table.names}
    pairs = [(a, b) for a in names for b in names if a < b and frozenset((a, b)) not in seen]
    first, second = pairs[0]
    doses = [table.default_dose[name] for name in (first, second)]
    predicted = fitted_doses.predict(f"{first}+{second}", indices=range(6))
    explicit = fitted_doses.predict(f"{first}+{second}", indices=range(6), dose="+".join(doses))
    np.testing.assert_array_equal(predicted.X, explicit.X)
    named = [frame.obs["counterfactual_dose"].iloc[0].split("+") for frame in (predicted, explicit)]
    assert list(map(float, named[0])) == list(map(float, named[1])) == list(map(float, doses))


@pytest.mark.parametrize("dose", [-1, np.nan, "x", "1+1+1", np.inf])
def test_wrong_doses_are_refused(fitted_doses, dose):
    first, second = treatments_of(fitted_doses)[:2]
    with pytest.raises(ValueError, match="[Dd]ose"):
        fitted_doses.predict(f"{first}+{second}", dose=dose)


def test_source_in_a_screen_with_doses_is_every_dose(fitted_doses):
    adata = fitted_doses.adata
    single = treatments_of(fitted_doses)[0]
    predicted = fitted_doses.predict("control", source=single)
    assert predicted.obs_names.tolist() == adata.obs_names[cells_of(adata, single)].tolist()


def test_new_doses_in_new_data_are_fine(fitted_doses, new_screen):
    new = new_screen(n_cells=300, doses=(0.5, 2.0), n_combinations=2)
    new.obs["dose"] = new.obs["dose"].astype(str).replace({"2": "1.25", "0.5": "0.75"})
    assert fitted_doses.predict("control", source="all", adata=new).n_obs == 300


# --- layers ---


def test_add_counterfactuals_writes_all_cells(fitted, new_screen):
    adata = new_screen()
    first, second = treatments_of(fitted)[:2]
    fitted.add_counterfactuals([first, second], adata=adata)
    for treatment in (first, second):
        layer = adata.layers[f"counterfactual_{treatment}"]
        assert layer.dtype == np.float32
        np.testing.assert_allclose(layer, fitted.predict(treatment, source="all").X, atol=1e-6)
    assert adata.uns["counterfactuals"][f"counterfactual_{first}"] == {"treatment": first, "dose": ""}


def test_add_counterfactuals_leaves_nan_where_not_asked(fitted, new_screen, tmp_path):
    adata = new_screen()
    treatment = treatments_of(fitted)[0]
    fitted.add_counterfactuals(treatment, indices=[5, 2], adata=adata)
    layer = adata.layers[f"counterfactual_{treatment}"]
    filled = np.isfinite(layer).all(axis=1)
    assert np.flatnonzero(filled).tolist() == [2, 5]
    assert np.isnan(layer[~filled]).all()
    np.testing.assert_allclose(layer[[5, 2]], fitted.predict(treatment, indices=[5, 2]).X, atol=1e-6)
    adata.write_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "a.h5ad").layers[f"counterfactual_{treatment}"], layer)


def test_layers_carry_the_dose_that_was_given(fitted_doses, new_screen):
    adata = new_screen(n_cells=300, doses=(0.5, 2.0), n_combinations=2)
    first, second = treatments_of(fitted_doses)[:2]
    fitted_doses.add_counterfactuals(first, dose=2.0, adata=adata)
    fitted_doses.add_counterfactuals(f"{first}+{second}", dose="2+0.5", adata=adata)
    fitted_doses.add_counterfactuals(first, adata=adata)
    wanted = {f"counterfactual_{first}@2.0", f"counterfactual_{first}+{second}@2+0.5", f"counterfactual_{first}"}
    assert wanted <= set(adata.layers)
    np.testing.assert_allclose(
        adata.layers[f"counterfactual_{first}@2.0"], fitted_doses.predict(first, source="all", dose=2).X, atol=1e-6
    )
    assert adata.uns["counterfactuals"][f"counterfactual_{first}+{second}@2+0.5"]["dose"] == "2+0.5"


@pytest.fixture
def slashed(new_screen, fit):
    """A model of treatments named A/B and A|B."""
    adata = new_screen()
    names = adata.obs["perturbation"].cat.categories
    others = [name for name in names if name != "control"]
    adata.obs["perturbation"] = adata.obs["perturbation"].cat.rename_categories({others[0]: "A/B", others[1]: "A|B"})
    return fit(adata, max_epochs=1, n_hidden=8)


def test_slash_becomes_bar_and_the_true_name_is_kept(slashed, tmp_path):
    slashed.add_counterfactuals("A/B")
    adata = slashed.adata
    assert "counterfactual_A|B" in adata.layers
    assert adata.uns["counterfactuals"]["counterfactual_A|B"]["treatment"] == "A/B"
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["counterfactuals"]["counterfactual_A|B"]["treatment"] == "A/B"


def test_colliding_layers_are_refused_before_anything_is_written(slashed):
    with pytest.raises(ValueError, match=r"'A/B' and 'A\|B' would share layer 'counterfactual_A\|B'"):
        slashed.add_counterfactuals(["A/B", "A|B"])
    assert not [key for key in slashed.adata.layers if str(key).startswith("counterfactual_")]
    slashed.add_counterfactuals("A/B")
    with pytest.raises(ValueError, match="would share layer"):
        slashed.add_counterfactuals("A|B")
    slashed.add_counterfactuals("A/B")  # the same one again only refreshes it


def test_add_counterfactuals_refuses_other_genes(fitted, new_screen):
    new = new_screen()[:, ::-1].copy()
    with pytest.raises(ValueError, match="genes in its order"):
        fitted.add_counterfactuals("control", adata=new)
    assert not [key for key in new.layers if str(key).startswith("counterfactual_")]


# --- draws ---


def test_draws_are_reproducible_and_spread(fitted):
    treatment = treatments_of(fitted)[0]
    state = torch.get_rng_state()
    first = fitted.sample(treatment, n_samples=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(fitted.sample(treatment, n_samples=3, seed=1).X, first.X)
    assert not np.allclose(fitted.sample(treatment, n_samples=3, seed=2).X, first.X)
    n = fitted.predict(treatment).n_obs
    assert first.n_obs == 3 * n
    assert first.obs["sample"].tolist() == np.repeat([0, 1, 2], n).tolist()
    assert first.obs_names.is_unique
    assert first.obs["source_cell"].tolist() == fitted.predict(treatment).obs_names.tolist() * 3


def test_draws_have_the_mean_and_spread_of_the_model(fitted):
    treatment = treatments_of(fitted)[0]
    draws = fitted.sample(treatment, n_samples=400, indices=[0, 50], seed=0).X.reshape(400, 2, -1)
    # The same law by another road: means over many latents, and the total variance.
    module, levels = fitted.module, fitted.adata.obs["_scgraphvci_stratum"].to_numpy()[[0, 50]]
    own = fitted.adata.obs["_scgraphvci_treatment"].to_numpy()[[0, 50]]
    expression = torch.as_tensor(fitted.adata.X.toarray()[[0, 50]])
    with torch.no_grad():
        genes = module.embed_genes()
        qz = module.encode(expression, module.design[own], module.strata[levels], None, genes)
        target = torch.as_tensor(fitted.treatments.vector(treatment)).expand(2, -1)
        laws = [
            module.outcome_distribution(module.decode(qz.sample(), target, module.strata[levels], genes))
            for _ in range(2000)
        ]
        means = torch.stack([law.mean for law in laws])
        variance = (means.var(dim=0) + laws[0].variance).numpy()
    error = np.abs(draws.mean(axis=0) - means.mean(dim=0).numpy()) / np.sqrt(variance / 400)
    assert np.median(error) < 1.2
    assert error.max() < 5
    np.testing.assert_allclose(np.median(draws.var(axis=0) / variance), 1.0, atol=0.1)


def test_draws_of_counts_are_counts(fitted_counts):
    draws = fitted_counts.sample(treatments_of(fitted_counts)[0], n_samples=2, library="observed").X
    assert (draws >= 0).all()
    np.testing.assert_array_equal(draws, np.round(draws))


def test_number_of_draws_must_be_positive(fitted):
    with pytest.raises(ValueError, match="n_samples"):
        fitted.sample("control", n_samples=0)
    with pytest.raises(ValueError, match="standard.*observed"):
        fitted.sample("control", library="median")


# --- scales ---


def test_counts_are_predicted_at_the_standard_or_at_the_cells_own_library(fitted_counts):
    adata = fitted_counts.adata
    treatment = treatments_of(fitted_counts)[0]
    standard = fitted_counts.predict(treatment, indices=range(30))
    observed = fitted_counts.predict(treatment, indices=range(30), library="observed")
    totals = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    train = (adata.obs["split"] == "train").to_numpy()
    relative = totals[:30] / np.median(totals[train])
    np.testing.assert_allclose(observed.X, standard.X * relative[:, None], rtol=1e-4)
    assert (standard.X > 0).all()


def test_latents_have_one_row_per_cell(fitted):
    latent = fitted.get_latent_representation()
    assert latent.shape == (240, 4)
    np.testing.assert_allclose(fitted.get_latent_representation(indices=[7, 3]), latent[[7, 3]], atol=1e-6)
    drawn = fitted.get_latent_representation(give_mean=False)
    assert drawn.shape == latent.shape
    assert not np.allclose(drawn, latent)


def test_two_setups_of_the_same_data_do_not_disturb_each_other(new_screen, fit):
    adata = new_screen(n_combinations=2)
    first = fit(adata, combination_sep="+")
    name = first.treatments.perturbations[0]
    expected = first.predict(name).X
    second = fit(adata, categorical_covariate_keys=["donor"], grn_key=None)
    predicted = second.predict(name).X
    np.testing.assert_array_equal(first.predict(name).X, expected)
    np.testing.assert_array_equal(second.predict(name).X, predicted)


def test_mudata_with_permuted_genes(new_screen, fit):
    rna = new_screen()
    other = ad.AnnData(np.ones((240, 3), np.float32), obs=pd.DataFrame(index=rna.obs_names))
    mdata = MuData({"rna": rna, "other": other})
    sgv.GraphVCI.setup_mudata(mdata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn")
    model = sgv.GraphVCI(mdata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=None)
    expected = model.predict("control", source="all").X
    shuffled = MuData({"rna": new_screen()[:, ::-1].copy(), "other": other.copy()})
    np.testing.assert_allclose(model.predict("control", source="all", adata=shuffled).X, expected, atol=1e-6)
    with pytest.raises(TypeError, match="MuData"):
        model.predict("control", adata=new_screen())


def test_edits_of_new_data_are_seen(fitted, new_screen):
    adata, moved = new_screen(), new_screen()
    fitted.predict(adata.obs["perturbation"].cat.categories[1], adata=adata, source="all")
    for data in (adata, moved):  # one has been predicted before, the other not
        data.obs["cell_type"] = data.obs["cell_type"].cat.categories[0]
    treatment = adata.obs["perturbation"].cat.categories[1]
    again, fresh = (fitted.predict(treatment, adata=data, source="all").X for data in (adata, moved))
    np.testing.assert_array_equal(again, fresh)


def test_data_in_the_place_of_the_source_are_refused(fitted):
    with pytest.raises(TypeError, match="Data go in `adata=`"):
        fitted.predict(fitted.treatments.perturbations[0], fitted.adata)


def test_doses_beyond_training_warn(fitted_doses):
    table = fitted_doses.treatments
    with pytest.warns(UserWarning, match="beyond the largest training dose"):
        fitted_doses.predict(table.perturbations[0], dose=2 * float(table.max_dose[0]), indices=[0])


def test_treatment_of_no_training_cell_warns(new_screen, fit):
    adata = new_screen()
    never = adata.obs["perturbation"].cat.categories[1]
    adata.obs.loc[adata.obs["perturbation"] == never, "split"] = "ood"
    model = fit(adata)
    with pytest.warns(UserWarning, match="No training cell received"):
        model.predict(never, indices=[0])
