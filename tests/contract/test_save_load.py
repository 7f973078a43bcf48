"""Items 1 to 3: a loaded model is the saved one, and refuses data it does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from mudata import MuData

import scgraphvci as sgv


def results(model, adata=None):
    """Latents, predictions and effects of a model."""
    treatment = model.treatments.perturbations[0]
    return [
        model.get_latent_representation(adata),
        model.predict(treatment, source="all", adata=adata).X,
        model.marginal_effect([treatment], adata=adata).estimate,
    ]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def without_network(adata):
    for key in list(adata.varp):
        del adata.varp[key]
    return adata


def test_load_with_data(fitted, saved, new_screen):
    loaded = sgv.GraphVCI.load(saved, new_screen())
    assert_same(results(loaded), results(fitted))
    assert loaded.is_trained
    assert set(loaded.history) == set(fitted.history)


def test_load_without_data_then_new_data(fitted, saved, new_screen):
    loaded = sgv.GraphVCI.load(saved, adata=False)
    assert_same(results(loaded, new_screen()), results(fitted))


def test_load_with_data_without_varp(fitted, saved, new_screen):
    loaded = sgv.GraphVCI.load(saved, without_network(new_screen()))
    assert_same(results(loaded), results(fitted))
    assert loaded.get_graph().equals(fitted.get_graph())
    later = sgv.GraphVCI.load(saved, adata=False)
    assert_same(results(later, without_network(new_screen())), results(fitted))


def test_load_with_the_data_saved_beside(fitted, tmp_path):
    fitted.save(tmp_path / "m", save_anndata=True)
    assert_same(results(sgv.GraphVCI.load(tmp_path / "m")), results(fitted))


def test_loaded_model_trains_on(saved, new_screen, quiet):
    loaded = sgv.GraphVCI.load(saved, new_screen())
    before = loaded.get_latent_representation()
    loaded.train(max_epochs=1, **quiet)
    assert not np.allclose(loaded.get_latent_representation(), before)


def test_saving_a_loaded_model_changes_nothing(fitted, saved, new_screen, tmp_path):
    sgv.GraphVCI.load(saved, adata=False).save(tmp_path / "again")
    assert_same(results(sgv.GraphVCI.load(tmp_path / "again", new_screen())), results(fitted))


def test_legacy_round_trip(fitted, new_screen, tmp_path):
    fitted.save(tmp_path / "m", legacy=True)
    assert_same(results(sgv.GraphVCI.load(tmp_path / "m", new_screen(), legacy=True)), results(fitted))


@pytest.mark.parametrize(
    ("setup", "kwargs", "screen"),
    [
        ({"grn_key": None}, {}, {}),
        ({"categorical_covariate_keys": None}, {}, {}),
        ({"layer": "counts"}, {"likelihood": "zinb"}, {}),
        ({"dose_key": "dose", "combination_sep": "+"}, {}, {"doses": (0.5, 1.0), "n_combinations": 2}),
        ({"continuous_covariate_keys": ["cell_state"], "size_factor_key": "library"}, {"decoder": "attention"}, {}),
        ({"split_key": None}, {"distribution_loss": "adversarial"}, {}),
        ({"gene_features_key": "features"}, {"graph_pooling": "max"}, {}),
    ],
    ids=["vci", "no covariates", "zinb", "doses", "continuous", "adversarial", "features"],
)
def test_every_kind_of_model_comes_back(new_screen, fit, tmp_path, setup, kwargs, screen):
    def draw():
        adata = new_screen(**screen)
        adata.varm["features"] = np.random.default_rng(0).normal(size=(adata.n_vars, 3))
        return adata

    model = fit(draw(), max_epochs=1, setup=setup, **kwargs)
    model.save(tmp_path / "m")
    expected = results(model)
    assert_same(results(sgv.GraphVCI.load(tmp_path / "m", draw())), expected)
    assert_same(results(sgv.GraphVCI.load(tmp_path / "m", adata=False), draw()), expected)


def test_saved_files_may_be_read_by_whoever_may_read_new_files(fitted, tmp_path):
    (tmp_path / "new").touch()
    fitted.save(tmp_path / "m", save_anndata=True)
    modes = {path.stat().st_mode for path in [tmp_path / "new", *(tmp_path / "m").iterdir()]}
    assert len(modes) == 1


def unseen_treatment(adata):
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(str)
    adata.obs.iloc[0, adata.obs.columns.get_loc("perturbation")] = "NOPE"
    return adata


def missing_treatment(adata):
    adata.obs.iloc[0, adata.obs.columns.get_loc("perturbation")] = np.nan
    return adata


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda adata: adata[:, ::-1].copy(),
            r"^The data hold other genes, or in another order, than the model\. "
            r"Pass `adata\[:, model\.get_var_names\(\)\]\.copy\(\)`\.$",
        ),
        (unseen_treatment, r"^Unknown treatment 'NOPE' \(no \['NOPE'\]\)\. Known: control, G\d+, "),
        (
            missing_treatment,
            r"^`perturbation_key`: obs\['perturbation'\] has 1 missing values\. Remove those cells or fill them in\.$",
        ),
        (
            lambda adata: adata[adata.obs["perturbation"] != "control"].copy(),
            r"^Control 'control' has no cells in obs\['perturbation'\]\. Levels: \['G\d+'.*\]\. "
            r"Name one of them with `control=`\.$",
        ),
    ],
    ids=["permuted genes", "unseen treatment", "NaN treatment", "missing control"],
)
@pytest.mark.filterwarnings("ignore:var_names for adata")
def test_load_refuses_data_that_do_not_fit(saved, new_screen, change, match):
    adata = change(new_screen())
    columns = list(adata.obs)
    with pytest.raises(ValueError, match=match):
        sgv.GraphVCI.load(saved, adata)
    assert list(adata.obs) == columns


def test_categories_in_another_order_give_the_same_codes_and_predictions(fitted, saved, new_screen):
    query = new_screen()
    for key in ("perturbation", "cell_type", "donor"):
        query.obs[key] = query.obs[key].cat.reorder_categories(query.obs[key].cat.categories[::-1])
        query.obs[key] = query.obs[key].cat.add_categories(["unused"])
    expected = results(fitted)
    assert_same(results(fitted, query), expected)
    for key in ("_scgraphvci_treatment", "_scgraphvci_stratum"):
        np.testing.assert_array_equal(query.obs[key], fitted.adata.obs[key])
    text = new_screen()
    text.obs = text.obs.astype({"perturbation": str, "cell_type": object, "donor": str})
    assert_same(results(sgv.GraphVCI.load(saved, text)), expected)


def test_a_query_of_few_levels_keeps_the_codes(fitted, new_screen):
    query = new_screen()
    member = ((query.obs["cell_type"] == "type1") & (query.obs["split"] == "train")).to_numpy()
    expected = fitted.get_latent_representation()[member]
    query = query[member].copy()
    query.obs["cell_type"] = query.obs["cell_type"].cat.remove_unused_categories()
    np.testing.assert_allclose(fitted.get_latent_representation(query), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_of_mudata_comes_back(new_screen, quiet, tmp_path):
    def draw():
        return MuData({"rna": new_screen()})

    mdata = draw()
    sgv.GraphVCI.setup_mudata(
        mdata, modality="rna", categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn"
    )
    model = sgv.GraphVCI(mdata, n_hidden=8, n_latent=3)
    model.train(max_epochs=1, **quiet)
    model.save(tmp_path / "m", save_anndata=True)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["mdata.h5mu", "model.safetensors"]
    expected = results(model)
    assert_same(results(sgv.GraphVCI.load(tmp_path / "m")), expected)
    assert_same(results(sgv.GraphVCI.load(tmp_path / "m", draw())), expected)
    assert_same(results(sgv.GraphVCI.load(tmp_path / "m", adata=False), draw()), expected)


def test_a_model_of_a_refined_network_comes_back(new_screen, fit, quiet, tmp_path):
    adata = new_screen()
    sgv.tl.refine_grn(adata, split_key="split", max_epochs=2, **quiet)
    assert adata.varp["grn_refined"].nnz > 0
    model = fit(adata, max_epochs=1, setup={"grn_key": "grn_refined"})
    model.save(tmp_path / "m", save_anndata=True)
    for loaded in (sgv.GraphVCI.load(tmp_path / "m"), sgv.GraphVCI.load(tmp_path / "m", new_screen())):
        assert_same(results(loaded), results(model))
        assert loaded.get_graph().equals(model.get_graph())
    assert len(model.get_graph()) != len(fit(new_screen(), max_epochs=1).get_graph())
