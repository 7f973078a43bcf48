"""Set-up of AnnData and MuData: what is written, and that formats and orders do not matter."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy import sparse

import scgraphvci as sgv
from scgraphvci._constants import KEYS

SETUP = {"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split", "grn_key": "grn"}


def codes_of(adata):
    return adata.obs[["_scgraphvci_treatment", "_scgraphvci_stratum"]].to_numpy()


def test_only_the_documented_slots_are_written(new_screen):
    adata = new_screen()
    adata.obs["age"] = np.arange(adata.n_obs, dtype=float)
    before = {name: set(getattr(adata, name)) for name in ("obs", "obsm", "var", "varm", "varp", "layers", "uns")}
    columns = adata.obs.copy()
    sgv.GraphVCI.setup_anndata(adata, continuous_covariate_keys=["age"], **SETUP)
    written = {name: set(getattr(adata, name)) - keys for name, keys in before.items()}
    assert written.pop("obs") == {"_scgraphvci_treatment", "_scgraphvci_stratum"}
    assert written.pop("obsm") == {"_scgraphvci_continuous"}
    assert written.pop("uns") == {"_scvi_uuid", "_scvi_manager_uuid"}
    assert not any(written.values())
    pd.testing.assert_frame_equal(adata.obs[columns.columns], columns)


def test_set_up_data_can_be_written(new_screen, tmp_path):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata, continuous_covariate_keys=["cell_state"], **SETUP)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(codes_of(back), codes_of(adata))


def test_codes_point_into_the_tables_of_the_registry(new_screen):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    model = sgv.GraphVCI(adata)
    treatment, stratum = codes_of(adata).T
    table = model.treatments
    assert [table.names[code] for code in treatment] == adata.obs["perturbation"].tolist()
    assert table.design.sum(axis=1).tolist() == [0, 1, 1, 1, 1]
    state = model.get_state_registry(KEYS.STRATUM)
    for j, key in enumerate(["cell_type", "donor"]):
        levels = np.asarray(state["levels"][key])[np.asarray(state["strata"])[stratum, j]]
        assert levels.tolist() == adata.obs[key].astype(str).tolist()


def test_order_and_use_of_categories_do_not_matter(new_screen):
    adata, other = new_screen(), new_screen()
    for key in ("perturbation", "cell_type", "donor", "split"):
        other.obs[key] = other.obs[key].astype("category").cat.add_categories(["never used"])
        other.obs[key] = other.obs[key].cat.reorder_categories(other.obs[key].cat.categories[::-1])
    for data in (adata, other):
        sgv.GraphVCI.setup_anndata(data, **SETUP)
    np.testing.assert_array_equal(codes_of(adata), codes_of(other))


def test_boolean_and_whole_number_categories(new_screen, fit):
    adata = new_screen()
    adata.obs["treated"] = (adata.obs["perturbation"] != "control").to_numpy()
    adata.obs["cell_type"] = pd.factorize(adata.obs["cell_type"])[0]
    adata.obs["donor"] = pd.Categorical(pd.factorize(adata.obs["donor"])[0])
    model = fit(adata, perturbation_key="treated", control=False, max_epochs=1)
    assert model.predict("True").n_obs == (~adata.obs["treated"]).sum()
    effects = model.marginal_effect()
    assert list(effects.treatments) == ["True"]
    assert set(effects.strata["cell_type"]) == {"0", "1"}


def test_a_second_set_up_replaces_the_first(new_screen):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["donor"])
    model = sgv.GraphVCI(adata)
    assert model.summary_stats["n_strata"] == 2
    assert model.summary_stats["n_grn_edges"] == 0
    assert len(model.get_graph()) == 0


def test_network_is_the_one_in_varp(new_screen):
    adata = new_screen()
    sgv.GraphVCI.setup_anndata(adata, **SETUP)
    graph = sgv.GraphVCI(adata).get_graph()
    network = sparse.coo_array(adata.varp["grn"])
    expected = pd.DataFrame(
        {
            "source": adata.var_names[network.coords[0]],  # rows are regulators
            "target": adata.var_names[network.coords[1]],
            "weight": network.data.astype(np.float32),
        }
    )
    by = ["source", "target"]
    pd.testing.assert_frame_equal(
        graph.sort_values(by, ignore_index=True).astype(dict.fromkeys(by, str)),
        expected.sort_values(by, ignore_index=True).astype(dict.fromkeys(by, str)),
    )


@pytest.mark.parametrize("form", ["dense", "data frame of features", "csc"])
def test_forms_of_network_and_features(new_screen, form):
    adata = new_screen()
    features = np.random.default_rng(0).normal(size=(adata.n_vars, 3))
    adata.varm["features"] = (
        pd.DataFrame(features, index=adata.var_names, columns=list("abc")) if "frame" in form else features
    )
    if form == "dense":
        adata.varp["grn"] = adata.varp["grn"].toarray()
    elif form == "csc":
        adata.varp["grn"] = sparse.csc_array(adata.varp["grn"])
    sgv.GraphVCI.setup_anndata(adata, gene_features_key="features", **SETUP)
    model = sgv.GraphVCI(adata)
    assert len(model.get_graph()) == sparse.coo_array(adata.varp["grn"]).nnz
    np.testing.assert_allclose(model.module.graph.features.mean(dim=0), 0, atol=1e-5)


def test_strata_without_control_are_named_once(new_screen):
    adata = new_screen(n_cells=400)
    lacking = (adata.obs["cell_type"] == "type1") & (adata.obs["perturbation"] == "control")
    adata = adata[~lacking].copy()
    with pytest.warns(UserWarning, match=r"2 strata have no control cells.*type1, .*; type1, "):
        sgv.GraphVCI.setup_anndata(adata, **SETUP)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["donor"], split_key="split")


def test_held_out_strata_need_no_control(new_screen):
    adata = new_screen(n_cells=400)
    adata.obs["split"] = np.where(adata.obs["cell_type"] == "type1", "ood", "train")
    lacking = (adata.obs["cell_type"] == "type1") & (adata.obs["perturbation"] == "control")
    adata = adata[~lacking].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgv.GraphVCI.setup_anndata(adata, **SETUP)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mudata_and_anndata_give_the_same_model(new_screen, fit, quiet_train, tmp_path):
    adata = new_screen()
    expected = fit(adata)
    other = ad.AnnData(np.ones((240, 3), np.float32), obs=pd.DataFrame(index=adata.obs_names))
    mdata = MuData({"other": other, "rna": new_screen()})
    sgv.GraphVCI.setup_mudata(mdata, **SETUP)
    assert {"_scgraphvci_treatment", "_scgraphvci_stratum"} <= set(mdata["rna"].obs)
    model = quiet_train(mdata)
    treatment = model.treatments.perturbations[0]
    np.testing.assert_array_equal(model.predict(treatment).X, expected.predict(treatment).X)
    np.testing.assert_allclose(
        model.marginal_effect(cluster_key="donor").estimate, expected.marginal_effect().estimate, atol=1e-5
    )
    model.add_counterfactuals(treatment, indices=[0, 1])
    assert np.isfinite(mdata["rna"].layers[f"counterfactual_{treatment}"][:2]).all()
    model.save(tmp_path / "m", save_anndata=True)
    for loaded in (sgv.GraphVCI.load(tmp_path / "m"), sgv.GraphVCI.load(tmp_path / "m", mdata.copy())):
        np.testing.assert_allclose(loaded.predict(treatment).X, expected.predict(treatment).X, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mudata_of_another_modality_name_and_order_of_cells(new_screen):
    rna = new_screen()
    other = ad.AnnData(np.ones((240, 3), np.float32), obs=pd.DataFrame(index=rna.obs_names[::-1]))
    mdata = MuData({"other": other, "expression": rna})
    assert mdata.obs_names.tolist() != mdata["expression"].obs_names.tolist()
    with pytest.raises(ValueError, match="in another order.*obs_names"):
        sgv.GraphVCI.setup_mudata(mdata, modality="expression", **SETUP)


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_backed_file_is_set_up_trained_and_predicted_in_place(new_screen, quiet_train, form, tmp_path):
    adata = new_screen()
    if form == "dense":
        adata.X = adata.X.toarray()
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sgv.GraphVCI.setup_anndata(backed, **SETUP)
    model = quiet_train(backed)
    assert backed.isbacked
    treatment = model.treatments.perturbations[0]
    indices = [200, 3, 50, 3]  # neither sorted nor unique: h5py would refuse, scvi-tools' loader would sort
    for chosen in (None, indices):
        predicted = model.predict(treatment, indices=chosen)
        expected = model.predict(treatment, indices=chosen, adata=new_screen())
        np.testing.assert_allclose(predicted.X, expected.X, atol=1e-5)
        assert predicted.obs["source_cell"].tolist() == expected.obs["source_cell"].tolist()
    estimates = [model.marginal_effect(adata=data).estimate for data in (None, new_screen())]
    np.testing.assert_allclose(*estimates, atol=1e-5)
    adata[:, ::-1].write_h5ad(tmp_path / "b.h5ad")
    shuffled = ad.read_h5ad(tmp_path / "b.h5ad", backed="r")
    for data in (shuffled, shuffled[:, 5:], backed[:], shuffled[:]):
        if data.n_vars < 40:
            with pytest.raises(ValueError, match="5 of 40 genes of the model are missing"):
                model.predict(treatment, adata=data)
            continue
        np.testing.assert_allclose(model.predict(treatment, adata=data).X, model.predict(treatment).X, atol=1e-5)
    backed.file.close()
    shuffled.file.close()


def test_training_on_a_file_learns_the_same(new_screen, quiet_train, fit, tmp_path):
    """Rows of a minibatch come in another order, and so meet other draws, but scales are equal."""
    new_screen().write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sgv.GraphVCI.setup_anndata(backed, **SETUP)
    model, expected = quiet_train(backed), fit(new_screen())
    for name in ("input_mean", "within_scale", "library_size"):
        np.testing.assert_allclose(getattr(model.module, name), getattr(expected.module, name), rtol=1e-5)
    losses = [m.history["train_loss"].astype(float).to_numpy() for m in (model, expected)]
    np.testing.assert_allclose(*losses, rtol=0.05)
    backed.file.close()


@pytest.mark.parametrize("form", ["dense", "csc", "csr_array", "csc_array", "float64", "layer"])
def test_format_of_expression_does_not_matter(new_screen, fit, form):
    expected = fit(new_screen(), max_epochs=1)
    adata = new_screen()
    if form == "layer":
        adata.layers["logged"], adata.X = adata.X, None
    else:
        convert = {
            "dense": lambda x: x.toarray(),
            "csc": lambda x: x.tocsc(),
            "csr_array": sparse.csr_array,
            "csc_array": sparse.csc_array,
            "float64": lambda x: x.astype(np.float64),
        }
        adata.X = convert[form](adata.X)
    model = fit(adata, max_epochs=1, layer="logged" if form == "layer" else None)
    treatment = model.treatments.perturbations[0]
    np.testing.assert_allclose(model.predict(treatment).X, expected.predict(treatment).X, atol=1e-5)
    np.testing.assert_allclose(model.marginal_effect().estimate, expected.marginal_effect().estimate, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float64])
def test_type_of_counts_does_not_matter(new_screen, fit, fitted_counts, dtype):
    adata = new_screen()
    adata.layers["counts"] = adata.layers["counts"].astype(dtype)
    model = fit(adata, layer="counts", likelihood="nb")
    treatment = model.treatments.perturbations[0]
    np.testing.assert_allclose(model.predict(treatment).X, fitted_counts.predict(treatment).X, rtol=1e-4)
