"""Extreme but legal data train without a number that is not finite."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from scipy import sparse

import scgraphvci as sgv


def screen(counts, treatments, strata=("s",), doses=None):
    """Counts and their log1p, with treatments and strata in turn, and a network along the genes."""
    n_cells, n_genes = counts.shape
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
    obs["perturbation"] = np.resize(np.asarray(treatments, dtype=object), n_cells)
    obs["stratum"] = np.resize(np.repeat(np.asarray(strata, dtype=object), len(treatments)), n_cells)
    adata = ad.AnnData(np.log1p(counts).astype(np.float32), obs=obs, layers={"counts": counts.astype(np.float32)})
    if n_genes > 1:
        adata.varp["grn"] = sparse.diags_array([np.ones(n_genes - 1)], offsets=[1]).tocsr()
    return adata


def poisson(n_cells, n_genes, mean=2.0):
    return np.random.default_rng(0).poisson(mean, (n_cells, n_genes)).astype(float)


def zero_genes():
    counts = poisson(60, 6)
    counts[:, [0, 3]] = 0
    return screen(counts, ["control", "A", "B"])


def constant_genes():
    counts = poisson(60, 6)
    counts[:, 0], counts[:, 1] = 7, 1
    return screen(counts, ["control", "A", "B"])


def all_zero():
    return screen(np.zeros((60, 4)), ["control", "A"])


def empty_cells():
    counts = poisson(60, 6)
    counts[::3] = 0
    return screen(counts, ["control", "A"])


def one_huge_count():
    counts = poisson(60, 6)
    counts[5, 2] = 1e7
    return screen(counts, ["control", "A", "B"])


def large_libraries():
    counts = poisson(60, 6, 2e5)
    counts[::2] /= 1e5
    return screen(np.round(counts), ["control", "A", "B"])


def tiny_strata():
    return screen(poisson(60, 5), ["control", "A"], strata=[f"s{i}" for i in range(20)])


def one_gene():
    return screen(poisson(40, 1), ["control", "A"])


def two_cells_per_arm():
    return screen(poisson(4, 6), ["control", "A"])


def many_treatments():
    return screen(poisson(1_002, 5), ["control", *[f"T{i}" for i in range(500)]])


def a_gene_only_under_treatment():
    counts = poisson(60, 4)
    counts[np.arange(60) % 2 == 0, 1] = 0
    return screen(counts, ["control", "A"])


SCREENS = [
    *(zero_genes, constant_genes, all_zero, empty_cells, one_huge_count, large_libraries, tiny_strata, one_gene),
    *(two_cells_per_arm, many_treatments, a_gene_only_under_treatment),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("likelihood", ["normal", "nb", "zinb"])
@pytest.mark.parametrize("make", SCREENS, ids=lambda make: make.__name__.replace("_", " "))
def test_trains_to_finite_numbers(make, likelihood, quiet):
    adata = make()
    sgv.GraphVCI.setup_anndata(
        adata,
        layer=None if likelihood == "normal" else "counts",
        categorical_covariate_keys=["stratum"],
        grn_key="grn" if "grn" in adata.varp else None,
    )
    scvi.settings.seed = 0
    model = sgv.GraphVCI(adata, likelihood=likelihood, decoder="attention", n_hidden=8, n_latent=2, n_graph_hidden=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(max_epochs=1, batch_size=256 if adata.n_obs > 100 else 32, **quiet)
    for name, weight in model.module.state_dict().items():
        assert weight.isfinite().all(), name
    for name in {*model.history} - {"r2_validation", "pearson_shift_validation"}:  # no values where nothing varies
        assert np.isfinite(model.history[name].to_numpy(dtype=float)).all(), name
    treatment = model.treatments.perturbations[0]
    assert np.isfinite(model.predict(treatment, source="all").X).all()
    assert np.isfinite(model.sample(treatment, indices=[0, 1]).X).all()
    assert np.isfinite(model.get_latent_representation()).all()
    frame = model.marginal_effect(treatments=treatment, min_cells=2, min_counts=0).to_frame()
    with_error = frame["std_error"].notna()
    assert np.isfinite(frame.loc[with_error, ["estimate", "ci_low", "ci_high", "p_value"]]).all(axis=None)
    assert (frame.loc[with_error, "std_error"] >= 0).all()
