"""Who predicts, from what, on which scale."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy
import scvi
from scipy import sparse

import scgraphvci as sgv
from scgraphvci._evaluation._predictors import resolve
from scgraphvci._evaluation._screen import log_normalised, principal_components

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": None, "enable_model_summary": False}
QUICK = {"duplicates": False, "n_bootstrap": 10}


def make_screen():
    return sgv.datasets.simulate(n_cells=500, n_genes=40, n_perturbations=4, n_cell_types=2, n_donors=2, seed=1)


def fit(adata, epochs=3, layer=None, likelihood="normal"):
    sgv.GraphVCI.setup_anndata(adata, layer=layer, **SETUP)
    scvi.settings.seed = 0
    model = sgv.GraphVCI(adata, likelihood=likelihood, n_hidden=16, n_latent=4)
    model.train(max_epochs=epochs, **QUIET)
    return model


@pytest.fixture(scope="module")
def normal():
    return fit(make_screen())


@pytest.fixture(scope="module")
def counts():
    return fit(make_screen(), layer="counts", likelihood="nb")


class Steps:
    """Predicts zeros and draws ones, remembering what it was asked for."""

    def __init__(self, adata):
        self.adata, self.asked = adata, []

    def predict(self, treatment, indices, adata=None):
        self.asked.append(("predict", len(indices)))
        return ad.AnnData(np.zeros((len(indices), self.adata.n_vars)), var=self.adata.var)

    def sample(self, treatment, n_samples, indices, seed, adata=None):
        self.asked.append(("sample", len(indices)))
        return ad.AnnData(np.ones((len(indices), self.adata.n_vars)), var=self.adata.var)


def test_each_predictor_predicts_once_and_draws_cells_for_distributions(normal):
    adata = normal.adata
    steps = Steps(adata)
    evaluation = sgv.Evaluation({"steps": steps, "model": normal}, adata, baselines=None, **QUICK)
    n = len(evaluation.pairs()) // 2
    assert [what for what, _ in steps.asked] == ["predict", "sample"] * n
    assert all(size <= 200 for what, size in steps.asked if what == "sample")
    rows = evaluation.pairs().set_index("predictor").loc[["steps"]]
    held_out = evaluation._contest.conditions[0]
    assert rows.iloc[0]["mse"] == pytest.approx((held_out.true**2).mean()), "the mean is the prediction's"
    assert rows.iloc[0]["variance_ratio"] == 0, "cells are draws"


class Collapsed(Steps):
    """Gives every cell the same mean, and draws that vary as cells do."""

    def sample(self, treatment, n_samples, indices, seed, adata=None):
        values = np.random.default_rng(seed).normal(2, 3, (len(indices), self.adata.n_vars))
        return ad.AnnData(values, var=self.adata.var)


def test_a_collapse_shows_in_means_though_draws_vary(normal, counts):
    models = {"collapsed": Collapsed(normal.adata), "model": normal}
    rows = sgv.Evaluation(models, **QUICK).pairs().set_index("predictor")
    assert (rows.loc["collapsed", "variance_ratio"] > 1).all()
    assert (rows.loc["collapsed", "mean_variance_ratio"] == 0).all()
    assert rows.loc["no change", "mean_variance_ratio"].equals(rows.loc["no change", "variance_ratio"])
    of_counts = sgv.Evaluation({"model": counts}, baselines=None, **QUICK).pairs()
    assert (of_counts["mean_variance_ratio"] < of_counts["variance_ratio"]).all()


def test_a_trained_model_is_scored_on_its_own_predictions(normal):
    adata = normal.adata
    row = sgv.Evaluation({"model": normal}, baselines=None, **QUICK).pairs().iloc[0]
    obs = adata.obs
    here = (obs["cell_type"] == row["cell_type"]).to_numpy()
    sources = np.flatnonzero(here & (obs["perturbation"] == "control").to_numpy())
    predicted = normal.predict(row["treatment"], indices=sources).X.astype(np.float64).mean(axis=0)
    held_out = here & ((obs["perturbation"] == row["treatment"]) & (obs["split"] == "ood")).to_numpy()
    true = adata.X.toarray()[held_out].mean(axis=0)
    assert row["mse"] == pytest.approx(((true - predicted) ** 2).mean(), rel=1e-3)


@pytest.mark.parametrize("protocol", ["matched", "paper"])
def test_counts_are_drawn_at_the_source_libraries_and_log_normalised(counts, protocol):
    adata = counts.adata
    size = float(counts.module.library_size)
    evaluation = sgv.Evaluation({"model": counts}, protocol=protocol, **QUICK)
    raw = adata.layers["counts"].toarray().astype(np.float64)
    library = raw.sum(axis=1)
    values = np.log1p(raw / library[:, None] * size)
    np.testing.assert_allclose(evaluation._contest.screen.rows(np.arange(adata.n_obs)), values, rtol=1e-5)
    pairs, obs = evaluation.pairs(), adata.obs
    row = pairs[pairs["predictor"] == "model"].iloc[0]
    here = (obs["cell_type"] == row["cell_type"]).to_numpy()
    control = (obs["perturbation"] == "control").to_numpy() & (obs["split"] != "ood").to_numpy()
    sources = np.flatnonzero(control & here if protocol == "matched" else control)
    moved = adata[sources].copy()
    moved.obs["cell_type"] = row["cell_type"]
    draws = counts.sample(row["treatment"], 200, source="all", adata=moved, library="observed", seed=7).X
    expected = np.log1p(draws / np.tile(library[sources], 200)[:, None] * size).mean(axis=0)
    shifts = evaluation.shifts().query("predictor == 'model'")
    first = shifts.iloc[: adata.n_vars]
    true = values[here & (obs["perturbation"] == row["treatment"]).to_numpy() & (obs["split"] == "ood").to_numpy()]
    predicted = first["predicted"] - first["true"] + true.mean(axis=0)
    np.testing.assert_allclose(predicted, expected, atol=0.1)  # two sets of draws
    assert np.corrcoef(predicted, expected)[0, 1] > 0.999
    baseline = pairs[pairs["predictor"] == "no change"].iloc[0]
    level = values[sources].mean(axis=0)
    assert baseline["mse"] == pytest.approx(((level - true.mean(axis=0)) ** 2).mean(), rel=1e-3)


def test_models_of_counts_share_the_scale_of_the_truth(counts):
    truth = sgv.datasets.truth(counts.adata)
    evaluation = sgv.Evaluation({"model": counts}, truth=truth, baselines=None, **QUICK)
    raw = counts.adata.layers["counts"].toarray()
    expected = np.log1p(raw / raw.sum(axis=1, keepdims=True) * truth.library)
    np.testing.assert_allclose(evaluation._contest.screen.rows(np.arange(len(raw))), expected, rtol=1e-5)


def test_predictors_on_another_scale_are_refused(counts, normal):
    shift = sgv.baselines.ContextShift(counts.adata, **SETUP)
    with pytest.raises(ValueError, match=r"'shift' does not read log1p\(counts / library"):
        sgv.Evaluation({"model": counts, "shift": shift}, **QUICK)
    size = float(counts.module.library_size)
    raw = counts.adata.layers["counts"]
    counts.adata.layers["log"] = log_normalised(raw, np.asarray(raw.sum(axis=1)).ravel(), size)
    shift = sgv.baselines.ContextShift(counts.adata, layer="log", **SETUP)
    pairs = sgv.Evaluation({"model": counts, "shift": shift}, **QUICK).pairs()
    same = [pairs.loc[pairs["predictor"] == name, "mse"].to_numpy() for name in ("shift", "context shift")]
    np.testing.assert_allclose(*same, rtol=1e-5)
    mixed = {"scaled": shift, "shift": sgv.baselines.ContextShift(counts.adata, **SETUP)}
    with pytest.raises(ValueError, match="'shift' does not read the values that the first predictor reads"):
        sgv.Evaluation(mixed, **QUICK)
    named = sgv.Evaluation({"model": counts, "shift": shift}, layer="log", **QUICK).pairs()
    np.testing.assert_allclose(named["mse"], pairs["mse"], rtol=1e-5)


def test_a_named_layer_is_the_scale_of_all(counts, normal):
    adata = counts.adata.copy()
    models = {"normal": normal}
    with pytest.raises(ValueError, match="'normal' does not read layer 'counts', .* with `layer='counts'`"):
        sgv.Evaluation(models, adata, layer="counts", **QUICK)
    with pytest.raises(ValueError, match="'model' does not predict layer 'counts', on which it would be scored"):
        sgv.Evaluation({"model": counts}, layer="counts", **QUICK)


def test_the_recipe_for_one_scale_works(counts):
    shift = sgv.baselines.ContextShift(counts.adata, **SETUP)
    with pytest.raises(ValueError, match="Put all on one scale") as error:
        sgv.Evaluation({"model": counts, "shift": shift}, **QUICK)
    adata = counts.adata.copy()
    exec(str(error.value).split("`")[1], {"adata": adata, "numpy": np, "scipy": scipy})
    shift = sgv.baselines.ContextShift(adata, layer="log", **SETUP)
    for layer in (None, "log"):
        evaluation = sgv.Evaluation({"model": counts, "shift": shift}, adata, layer=layer, **QUICK)
        assert {"model", "shift"} <= set(evaluation.pairs()["predictor"])


def test_size_factors_are_the_library():
    adata = make_screen()
    sgv.GraphVCI.setup_anndata(adata, layer="counts", size_factor_key="library", **SETUP)
    model = sgv.GraphVCI(adata, likelihood="nb", n_hidden=8, n_latent=2)
    model.train(max_epochs=1, **QUIET)
    _, (entrant,) = resolve({"model": model}, None, None, None, None, sgv.datasets.truth(adata), 0)
    np.testing.assert_array_equal(entrant.library, adata.obs["library"])


def test_given_baselines_stand_for_the_added_ones(normal):
    adata = normal.adata
    mine = sgv.baselines.NoChange(adata, **SETUP)
    _, entrants = resolve({"model": normal, "no change": mine, "other": mine}, None, "simple", None, None, None, 0)
    kinds = {entrant.name: entrant.kind for entrant in entrants}
    assert (kinds["no change"], kinds["other"], kinds["ridge pca"]) == ("baseline", "model", "baseline")
    assert next(entrant for entrant in entrants if entrant.name == "no change").model is mine


def test_a_weaker_baseline_cannot_stand_for_another(normal):
    adata, baselines = normal.adata, sgv.baselines

    class Weak(baselines.RidgePCA):
        pass

    weak = {
        "'ridge pca' is the name of a simple baseline, and this NoChange is not a RidgePCA": baselines.NoChange(
            adata, **SETUP
        ),
        "this Weak is not a RidgePCA": Weak(adata, **SETUP),
        "RidgePCA named 'ridge pca' was not fitted on the data": baselines.RidgePCA(adata.copy(), **SETUP),
        r"fitted with \['categorical_covariate_keys'\] other": baselines.RidgePCA(adata, split_key="split"),
        r"fitted with \['split_key'\] other": baselines.RidgePCA(adata, categorical_covariate_keys=["cell_type"]),
    }
    for message, model in weak.items():
        with pytest.raises(ValueError, match=message):
            sgv.Evaluation({"model": normal, "ridge pca": model})
    same = baselines.RidgePCA(adata, categorical_covariate_keys=("cell_type",), split_key="split")
    assert resolve({"model": normal, "ridge pca": same}, None, "simple", None, None, None, 0)


class Onlooker:
    """Remembers the data it is handed, and holds others."""

    def __init__(self):
        self.adata, self.seen = None, []

    def predict(self, treatment, indices, adata):
        self.seen.append((adata, list(indices)))
        return adata[indices].copy()


@pytest.mark.parametrize("protocol", ["matched", "paper"])
def test_predictors_are_handed_source_cells_alone(normal, protocol):
    adata, onlooker = normal.adata, Onlooker()
    evaluation = sgv.Evaluation({"model": normal, "onlooker": onlooker}, adata, protocol=protocol, **QUICK)
    for seen, indices in onlooker.seen:
        assert indices == list(range(seen.n_obs))
        assert not seen.is_view
        assert (adata.obs.loc[seen.obs_names, "perturbation"] == "control").all()
        assert (seen.obs["split"] != "ood").all()
    conditions = evaluation._contest.conditions
    assert len(onlooker.seen) == len(conditions)
    assert len({id(seen) for seen, _ in onlooker.seen}) == len({one.stratum for one in conditions}), "one per stratum"
    scores = evaluation.pairs().set_index("predictor")["mse"]
    np.testing.assert_allclose(scores["onlooker"], scores["no change"], rtol=1e-5)


def test_a_model_of_other_data_reads_source_cells_quietly(normal, caplog):
    other = normal.adata[::2].copy()
    before = len(normal._per_instance_manager_store[normal.id])
    with caplog.at_level("INFO", logger="scvi"):
        row = sgv.Evaluation({"model": normal}, other, baselines=None, **QUICK).pairs().iloc[0]
    assert not caplog.records
    assert len(normal._per_instance_manager_store[normal.id]) <= before + 1, "cells of past strata are let go"
    obs = other.obs
    here = (obs["cell_type"] == row["cell_type"]).to_numpy()
    sources = np.flatnonzero(here & (obs["perturbation"] == "control").to_numpy())
    predicted = normal.predict(row["treatment"], adata=other, indices=sources).X.astype(np.float64).mean(axis=0)
    true = other.X.toarray()[here & ((obs["perturbation"] == row["treatment"]) & (obs["split"] == "ood")).to_numpy()]
    assert row["mse"] == pytest.approx(((true.mean(axis=0) - predicted) ** 2).mean(), rel=1e-3)


def test_data_with_genes_in_another_order(normal):
    """A model returns its own order of genes."""
    adata = normal.adata
    permuted = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    expected = sgv.Evaluation({"model": normal}, n_de=8, **QUICK).pairs().query("predictor == 'model'")
    found = sgv.Evaluation({"model": normal}, permuted, n_de=8, **QUICK).pairs().query("predictor == 'model'")
    for metric in ("r2", "r2_de", "weighted_mse", "pearson_perturbed"):
        np.testing.assert_allclose(found[metric], expected[metric], rtol=1e-3)


def test_backed_data_are_read_in_parts(tmp_path):
    adata = make_screen()
    adata.write_h5ad(tmp_path / "screen.h5ad")
    backed = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")
    for protocol in ("matched", "paper"):
        expected = sgv.Evaluation(sgv.baselines.ContextShift(adata, **SETUP), protocol=protocol, **QUICK).pairs()
        found = sgv.Evaluation(sgv.baselines.ContextShift(backed, **SETUP), protocol=protocol, **QUICK).pairs()
        np.testing.assert_allclose(found["mse"], expected["mse"], rtol=1e-4)


def test_names_of_controls_are_taken(normal):
    with pytest.raises(ValueError, match="'additive' is the name of a simple baseline, and this GraphVCI is not"):
        sgv.Evaluation({"additive": normal})
    with pytest.raises(ValueError, match=r"cannot be named \['technical duplicate'\]"):
        sgv.Evaluation({"technical duplicate": normal})


def test_mudata_is_refused_with_a_hint(normal):
    import mudata

    mdata = mudata.MuData({"rna": make_screen()})
    sgv.GraphVCI.setup_mudata(mdata, modality="rna", **SETUP)
    model = sgv.GraphVCI(mdata, n_hidden=8, n_latent=2)
    for data in (None, mdata, mdata["rna"]):
        with pytest.raises(TypeError, match=r"'mine' was set up with `setup_mudata`.*`setup_anndata` .*mdata\['rna'\]"):
            sgv.Evaluation({"mine": model}, data)
    with pytest.raises(TypeError, match="not MuData"):
        sgv.Evaluation(normal, mudata.MuData({"rna": normal.adata.copy()}))


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (5, 4)])
def test_principal_components_equal_a_singular_value_decomposition(shape):
    cells = np.random.default_rng(0).normal(size=shape) + 3
    basis = principal_components(cells, n_components=6)
    centred = cells - cells.mean(axis=0)
    expected = np.linalg.svd(centred, full_matrices=False)[2]
    n = min(6, *shape) if shape[0] > shape[1] else min(6, shape[0] - 1)
    overlap = np.abs(expected[:n] @ basis.components[:, :n])
    np.testing.assert_allclose(overlap, np.eye(n), atol=1e-6)


def test_log_normalisation_keeps_sparsity():
    counts = sparse.random_array((20, 7), density=0.3, rng=np.random.default_rng(0), format="csr") * 10
    library = np.linspace(1, 3, 20)
    result = log_normalised(counts, library, 5.0)
    assert sparse.issparse(result)
    expected = np.log1p(counts.toarray() / library[:, None] * 5)
    np.testing.assert_allclose(result.toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(log_normalised(counts.toarray(), library, 5.0), expected, rtol=1e-6)
