"""Treatments that no training cell received, through the model."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import scgraphvci as sgv
from scgraphvci.data._unseen import UnseenModel
from scgraphvci.data._unseen_strata import StrataErrors

SIZES = {"n_cells": 500, "n_genes": 40, "n_perturbations": 10, "n_regulators": 14, "n_donors": 1, "n_ood_pairs": 0}


def screen(**kwargs):
    """Ten regulators perturbed, the cells of one of them held out."""
    adata = sgv.datasets.simulate(seed=1, **{**SIZES, **kwargs})
    held = adata.obs["perturbation"].astype(str) == treatments(adata)[0]
    adata.obs["split"] = np.where(held, "ood", adata.obs["split"].astype(str))
    return adata


def treatments(adata):
    """Single perturbations."""
    return [name for name in adata.obs["perturbation"].cat.categories[1:] if "+" not in name]


def new_genes(adata):
    """Regulators that no cell was perturbed in."""
    return sorted(set(adata.uns["simulation"]["regulators"]) - set(treatments(adata)))


def descriptors(adata, names):
    """Random descriptors of drugs."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(len(names), 3)), index=names, columns=["a", "b", "c"])


@pytest.fixture(scope="module")
def fitted(fit):
    """A model, and its data; not to be changed."""
    adata = screen()
    model = fit(adata, categorical_covariate_keys=["cell_type"], combination_sep="+")
    return model, adata


@pytest.fixture(scope="module")
def described(fit):
    """A model of drugs with descriptors, one of which is no gene and not in the data."""
    adata = screen()
    adata.obs["perturbation"] = adata.obs["perturbation"].cat.rename_categories(lambda x: x.replace("G", "drug"))
    names = [*(name.replace("G", "drug") for name in treatments(screen())), "drug new"]
    adata.uns["drugs"] = descriptors(adata, names)
    sgv.GraphVCI.setup_anndata(
        adata, categorical_covariate_keys=["cell_type"], split_key="split", treatment_features="drugs"
    )
    return adata


def shift(model, name, **kwargs):
    """Predicted shift from control of the control cells of each stratum."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No training cell")
        return model.predict(name, **kwargs).X - model.predict("control").X


def test_unseen_responses_start_from_what_is_foretold(fitted):
    model, adata = fitted
    new = new_genes(adata)[0]
    effect = UnseenModel.from_state(model.unseen_["model"]).predict(list(adata.var_names).index(new))
    control = np.flatnonzero(adata.obs["perturbation"] == "control")
    levels = adata.obs["cell_type"].cat.codes.to_numpy()[control]
    # Pooled effect, plus how the average seen treatment acts in the stratum beyond how it acts on average.
    baseline = model.module.baseline
    vectors = np.eye(len(model.treatments.perturbations), dtype=np.float32)[model.unseen_["weight"] > 0]
    extra = np.zeros((adata.obs["cell_type"].nunique(), adata.n_vars))
    for x in range(len(extra)):
        rows = torch.full((len(vectors), 1), x)
        extra[x] = baseline.response(torch.as_tensor(vectors), rows).numpy().mean(axis=0)
    expected = effect.shift + (extra - model.unseen_["pooled"])[levels]
    latent = model.get_latent_representation(indices=control)
    gain = latent @ model.module.gain.weight.detach().numpy().T
    np.testing.assert_allclose(shift(model, new), expected * (1 + gain), atol=1e-4)


def test_untrained_treatments_are_foretold_too(fitted):
    model, adata = fitted
    name = treatments(adata)[0]
    frame = model.unseen_effect(name, alpha=0.2)
    np.testing.assert_allclose(shift(model, name).mean(axis=0), frame["estimate"], atol=0.3)
    assert frame["estimate"].abs().max() > 0.1
    assert model.unseen_["names"] == treatments(adata)[1:]


def test_combinations_add_up_whatever_the_order(fitted):
    model, adata = fitted
    seen, (one, two) = treatments(adata)[3], new_genes(adata)[:2]
    mixed = shift(model, f"{seen}+{one}")
    np.testing.assert_array_equal(mixed, shift(model, f"{one}+{seen}"))
    both = shift(model, f"{one}+{two}")
    np.testing.assert_allclose(both, shift(model, one) + shift(model, two), atol=1e-4)
    np.testing.assert_allclose(mixed - shift(model, seen), shift(model, one), atol=1e-4)


def test_seen_treatments_do_not_notice(fitted, fit, monkeypatch):
    model, _ = fitted
    monkeypatch.setattr(sgv.GraphVCI, "_fit_unseen", lambda *args: None)
    other = fit(screen(), categorical_covariate_keys=["cell_type"], combination_sep="+")
    assert other.unseen_ is None
    for name, weight in model.module.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), other.module.state_dict()[name].numpy())
    for name in ("control", treatments(screen())[2]):
        np.testing.assert_array_equal(model.predict(name).X, other.predict(name).X)
        np.testing.assert_array_equal(model.sample(name, seed=3).X, other.sample(name, seed=3).X)


def test_descriptors_change_nothing_of_seen_treatments(quiet_train):
    models = []
    for features in (None, descriptors(screen(), treatments(screen()))):
        adata = screen()
        sgv.GraphVCI.setup_anndata(
            adata, categorical_covariate_keys=["cell_type"], split_key="split", treatment_features=features
        )
        models.append(quiet_train(adata))
    for name, weight in models[0].module.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), models[1].module.state_dict()[name].numpy())
    for name in treatments(screen())[1:]:
        np.testing.assert_array_equal(models[0].predict(name).X, models[1].predict(name).X)


@pytest.fixture(scope="module")
def incomplete(fit):
    """A model of a screen where one treatment was never measured in one cell type."""
    adata = screen()
    level, name = adata.obs["cell_type"].cat.categories[1], treatments(adata)[2]
    missing = (adata.obs["perturbation"] == name) & (adata.obs["cell_type"] == level)
    adata = adata[~missing.to_numpy()].copy()
    return fit(adata, categorical_covariate_keys=["cell_type"]), adata, name, {"cell_type": level}


def test_effects_in_unseen_strata(incomplete, tmp_path):
    model, adata, name, stratum = incomplete
    frame = model.unseen_effect(name, alpha=0.1, stratum=stratum)
    assert frame.index.tolist() == adata.var_names.tolist()
    row = torch.tensor([[1]])
    vector = torch.as_tensor(model.treatments.vector(name))[None]
    np.testing.assert_allclose(frame["estimate"], model.module.baseline.response(vector, row)[0], rtol=1e-6)
    errors = StrataErrors.from_state(model.unseen_strata_)
    reach = errors.margin(1, model.treatments.perturbations.index(name), 0.1) * frame["std_error"]
    np.testing.assert_allclose(frame["ci_high"] - frame["estimate"], reach)
    np.testing.assert_allclose(frame["estimate"] - frame["ci_low"], reach)
    assert frame.attrs["new_covariate"] == "cell_type"
    assert frame.attrs["n_left_out"] == len(errors.errors[0].scores)
    model.save(tmp_path / "model")
    again = sgv.GraphVCI.load(tmp_path / "model", adata, accelerator="cpu")
    pd.testing.assert_frame_equal(again.unseen_effect(name, 0.1, stratum["cell_type"]), frame)


@pytest.mark.parametrize(
    ("name", "stratum", "alpha", "match"),
    [
        (None, {"donor": "a"}, 0.1, r"level of each covariate \['cell_type'\], not {'donor': 'a'}"),
        (None, "nowhere", 0.1, "no stratum {'cell_type': 'nowhere'}"),
        (None, None, 0.001, r"alpha=0.001 must be between.*pairs of a treatment and a stratum"),
        (3, None, 0.1, "has training cells in.*marginal_effect"),
        (0, None, 0.1, "not a single perturbation with training cells"),
        ("nothing", None, 0.1, "not a single perturbation with training cells"),
    ],
)
def test_errors_in_unseen_strata(incomplete, name, stratum, alpha, match):
    model, adata, missing, where = incomplete
    chosen = {None: missing, "nothing": "nothing"}.get(name) or treatments(adata)[name]
    with pytest.raises(ValueError, match=match):
        model.unseen_effect(chosen, alpha, stratum or where)


def test_prediction_warns_once_and_samples_and_layers_agree(fitted):
    model, adata = fitted
    new = new_genes(adata)[0]
    with pytest.warns(UserWarning, match=rf"\['{new}'\].*extrapolated from 9 seen") as caught:
        predicted = model.predict(new)
    (warning,) = [one for one in caught if "No training cell" in str(one.message)]
    assert warning.filename == __file__
    with pytest.warns(UserWarning, match="extrapolated"):
        drawn = model.sample(new, n_samples=40, seed=0)
    np.testing.assert_allclose(drawn.X.mean(axis=0), predicted.X.mean(axis=0), atol=0.15)
    copy = adata.copy()
    with pytest.warns(UserWarning, match="extrapolated"):
        model.add_counterfactuals(new, adata=copy)
    control = (adata.obs["perturbation"] == "control").to_numpy()
    np.testing.assert_allclose(copy.layers[f"counterfactual_{new}"][control], predicted.X, rtol=1e-5, atol=1e-6)


def test_effect_frame(fitted):
    model, adata = fitted
    frame = model.unseen_effect(new_genes(adata)[0], alpha=0.2)
    assert frame.index.tolist() == adata.var_names.tolist()
    state = UnseenModel.from_state(model.unseen_["model"])
    reach = state.margin(0.2) * frame["std_error"]
    np.testing.assert_allclose(frame["ci_high"] - frame["estimate"], reach)
    np.testing.assert_allclose(frame["estimate"] - frame["ci_low"], reach)
    assert frame.attrs["n_seen"] == 9
    assert frame.attrs["relative_error"] > 0
    assert frame.attrs["explained"] == pytest.approx(max(0, 1 - state.error / state.mean_error))


def test_marginal_effects_are_extrapolated(fitted):
    model, adata = fitted
    new = new_genes(adata)[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No training cell")
        effects = model.marginal_effect([new, treatments(adata)[0]], estimator="plugin").to_frame()
    assert set(effects["status"]) == {"extrapolated"}
    assert effects["ci_low"].isna().all()
    mean = effects[effects["treatment"] == new].groupby("gene")["plugin"].mean()
    frame = model.unseen_effect(new, alpha=0.2)
    assert np.corrcoef(mean[frame.index], frame["estimate"])[0, 1] > 0.9


def test_saved_models_foretell_the_same(fitted, tmp_path):
    model, adata = fitted
    new = new_genes(adata)[0]
    model.save(tmp_path / "model")
    again = sgv.GraphVCI.load(tmp_path / "model", adata, accelerator="cpu")
    np.testing.assert_array_equal(shift(again, new), shift(model, new))
    pd.testing.assert_frame_equal(again.unseen_effect(new, 0.2), model.unseen_effect(new, 0.2))


@pytest.mark.parametrize("by_name", [True, False])
def test_described_drugs(described, quiet_train, tmp_path, by_name):
    adata = described.copy()
    features = "drugs" if by_name else adata.uns["drugs"]
    sgv.GraphVCI.setup_anndata(
        adata, categorical_covariate_keys=["cell_type"], split_key="split", treatment_features=features
    )
    model = quiet_train(adata)
    expected = shift(model, "drug new")
    assert np.abs(expected).max() > 0
    model.save(tmp_path / "model")
    del adata.uns["drugs"]
    again = sgv.GraphVCI.load(tmp_path / "model", adata, accelerator="cpu")
    np.testing.assert_array_equal(shift(again, "drug new"), expected)
    with pytest.raises(ValueError, match=r"Unknown treatment 'drug other'.*row in `treatment_features`"):
        again.predict("drug other")


def test_direction_turns_what_a_target_does(quiet_train):
    effects = {}
    for direction in (None, "knockout", "interference", "activation"):
        adata = screen()
        names = [*treatments(adata), *new_genes(adata)]
        mixed = dict.fromkeys(names, direction or "knockout")
        for given in (direction, mixed):
            sgv.GraphVCI.setup_anndata(
                adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn",
                perturbation_direction=given,
            )  # fmt: skip
            effects[direction, given is mixed] = quiet_train(adata).unseen_effect(names[-1], 0.2)["estimate"].to_numpy()
    for effect in effects.values():  # of a screen with one direction, the data tell which
        np.testing.assert_allclose(effect, effects[None, False], atol=1e-6)


def test_a_mixed_screen_needs_directions(quiet_train):
    adata = screen()
    names = treatments(adata)
    setup = {"categorical_covariate_keys": ["cell_type"], "split_key": "split", "grn_key": "grn"}
    direction = dict.fromkeys(names, "knockout")
    sgv.GraphVCI.setup_anndata(adata, perturbation_direction=direction, **setup)
    model = quiet_train(adata)
    with pytest.raises(ValueError, match=r"perturbation_direction.*says nothing of"):
        model.unseen_effect(new_genes(adata)[0], 0.2)


def test_doses(fit):
    adata = screen(doses=(0.5, 1.0), n_cells=700)
    model = fit(adata, categorical_covariate_keys=["cell_type"], dose_key="dose")
    held, new = treatments(adata)[0], new_genes(adata)[0]
    half = model.module.baseline.bent(torch.tensor([0.5])).item()
    np.testing.assert_allclose(shift(model, held, dose=0.5), half * shift(model, held, dose=1.0), atol=1e-4)
    assert np.isfinite(shift(model, new)).all()
    assert not model.predict(new).obs["counterfactual_dose"].iloc[0]
    with pytest.raises(ValueError, match="no training dose to compare"):
        model.predict(new, dose=1.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No training cell")
        effects = model.marginal_effect([new, held], estimator="plugin").to_frame()
    assert set(effects["status"]) == {"extrapolated"}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda model, new: model.predict("nothing"), r"Unknown treatment 'nothing'.*named after a gene of the data"),
        (lambda model, new: model.unseen_effect("nothing"), "at least 5 seen treatments"),
        (lambda model, new: model.unseen_effect("control"), "not a single unseen perturbation"),
        (lambda model, new: model.unseen_effect(model.unseen_["names"][0]), "not a single unseen perturbation"),
        (lambda model, new: model.unseen_effect(new, alpha=0.05), r"alpha=0.05 must be between 1 / \(n \+ 1\) = 0.1"),
        (lambda model, new: model.predict(new, dose=1.0), "A dose"),
    ],
)
def test_errors(fitted, call, match):
    model, adata = fitted
    with warnings.catch_warnings(), pytest.raises(ValueError, match=match):
        warnings.filterwarnings("ignore", message="No training cell")
        call(model, new_genes(adata)[0])


def test_without_a_baseline_nothing_is_foretold(fit):
    adata = screen()
    model = fit(adata, categorical_covariate_keys=["cell_type"], baseline=False)
    assert model.unseen_ is None
    with pytest.raises(ValueError, match="must have a baseline"):
        model.predict(new_genes(adata)[0])
    with pytest.warns(UserWarning, match="is a guess"):
        model.predict(treatments(adata)[0])
