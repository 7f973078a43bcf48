"""Odd but allowed: small data, names that hold the separator, and every form in which data come."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgraphvci as sgv


def obs_of(n, treatments):
    return pd.DataFrame({"perturbation": np.resize(treatments, n)}, index=[f"c{i}" for i in range(n)])


@pytest.mark.filterwarnings("ignore:The latent has collapsed")
@pytest.mark.parametrize(
    ("what", "n_cells", "n_genes"),
    [("one treatment", 60, 8), ("one gene", 60, 1), ("two cells", 2, 8), ("one hundred and one cells", 101, 8)],
)
def test_small_data_train_and_predict(quiet, what, n_cells, n_genes):
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.normal(size=(n_cells, n_genes)).astype(np.float32), obs=obs_of(n_cells, ["control", "A"]))
    sgv.GraphVCI.setup_anndata(adata)
    model = sgv.GraphVCI(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=2, batch_size=10, **quiet)
    predicted = model.predict("A", source="all")
    assert predicted.shape == (n_cells, n_genes)
    assert np.isfinite(predicted.X).all()
    assert model.marginal_effect().estimate.shape == (1, 1, n_genes)


def test_one_cell_is_refused():
    adata = ad.AnnData(np.ones((1, 5), np.float32), obs=obs_of(1, ["control"]))
    with pytest.raises(ValueError, match="only the control"):
        sgv.GraphVCI.setup_anndata(adata)


def test_names_that_hold_the_separator_are_whole_without_it(new_screen, fit):
    adata = new_screen(n_combinations=1)
    model = fit(adata, max_epochs=1)
    combination = next(name for name in adata.obs["perturbation"].cat.categories if "+" in name)
    assert combination in model.treatments.perturbations
    assert np.isfinite(model.predict(combination).X).all()


def backed(adata, path):
    adata.write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


def text_levels(adata, path):
    adata.obs = adata.obs.astype({"perturbation": str, "cell_type": object, "donor": str})
    return adata


def other_levels(adata, path):
    for key in ("perturbation", "cell_type", "donor"):
        categories = [*adata.obs[key].cat.categories[::-1], "unused"]
        adata.obs[key] = adata.obs[key].cat.set_categories(categories)
    return adata


def number_levels(adata, path):
    adata.obs["cell_type"] = adata.obs["cell_type"] == "type1"
    adata.obs["donor"] = adata.obs["donor"].cat.codes.astype(int)
    return adata


def tuple_levels(adata, path):
    adata.obs["donor"] = pd.Categorical([(name, 1) for name in adata.obs["donor"]])
    return adata


def in_form(form):
    def change(adata, path):
        adata.X = form(adata.X)
        return adata

    return change


FORMS = {
    "backed": backed,
    "copy of a view": lambda adata, path: adata[::-1].copy(),
    "CSR array": in_form(sparse.csr_array),
    "CSC array": in_form(sparse.csc_array),
    "CSR matrix": in_form(sparse.csr_matrix),
    "CSC matrix": in_form(sparse.csc_matrix),
    "dense": in_form(lambda x: x.toarray()),
    "float64": in_form(lambda x: x.astype(np.float64)),
    "int counts": in_form(lambda x: sparse.csr_matrix(np.rint(x.toarray()).astype(np.int64))),
    "boolean and integer categories": number_levels,
    "text": text_levels,
    "categories that are tuples": tuple_levels,
    "unused and reordered categories": other_levels,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_trains(new_screen, fit, tmp_path, form):
    adata = form(new_screen(n_cells=80), tmp_path / "a.h5ad")
    predicted = fit(adata, max_epochs=1).predict("control", source="all")
    assert predicted.shape == adata.shape
    assert np.isfinite(predicted.X).all()
    if adata.isbacked:
        adata.file.close()
