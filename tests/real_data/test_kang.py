"""The whole chain on Kang 2018 (PBMC, interferon beta), with the response held out in one cell type."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import sparse

import scgraphvci as sgv
from scgraphvci.baselines import ContextShift, NoChange
from scgraphvci.evaluate import evaluate

pytestmark = pytest.mark.real_data

HELD_OUT = "CD14+Mono"
INDUCED = ["ISG15", "IFI6", "IFIT1", "IFIT3", "ISG20"]  # by interferon, in every cell type
SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}


@pytest.fixture(scope="module")
def adata(folder: Path) -> ad.AnnData:
    """500 highly variable genes and a few that interferon induces, with counts, the motif network and a split."""
    adata = ad.read_h5ad(folder / "kang18_merged_counts.h5ad")
    adata.layers["counts"] = adata.X.copy()
    threads = torch.get_num_threads()
    sc.pp.normalize_total(adata, target_sum=1e3)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=500)
    torch.set_num_threads(threads)  # numba, which scanpy calls, changes torch's number too
    adata = adata[:, adata.var["highly_variable"] | adata.var_names.isin(INDUCED)].copy()
    split = np.where(np.random.default_rng(0).random(adata.n_obs) < 0.8, "train", "test").astype(object)
    split[((adata.obs["cell_type"] == HELD_OUT) & (adata.obs["perturbation"] == "IFNb")).to_numpy()] = "ood"
    adata.obs["split"] = pd.Categorical(split)
    net = pd.read_csv(folder / "promoter_motif_human.tsv.gz", sep="\t").rename(columns={"n_resources": "weight"})
    report = sgv.grn.add_grn(adata, net)
    assert report.edges_kept > 100
    sgv.tl.refine_grn(adata, max_epochs=5, accelerator="cpu", enable_progress_bar=False, seed=0, **SETUP)
    return adata


def train(adata: ad.AnnData, likelihood: str, **setup) -> sgv.GraphVCI:
    sgv.settings.seed = 0
    sgv.GraphVCI.setup_anndata(adata, grn_key="grn_refined", **SETUP, **setup)
    model = sgv.GraphVCI(adata, likelihood=likelihood)
    model.train(max_epochs=20, accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.fixture(scope="module")
def normal(adata: ad.AnnData) -> sgv.GraphVCI:
    return train(adata, "normal")


@pytest.mark.filterwarnings("ignore:The latent has collapsed")
def test_held_out_response_is_predicted(adata, normal):
    summary = evaluate({"model": normal}, adata)
    assert summary.loc["model", ("r2", "n")] == 1
    scores = summary.xs("mean", axis=1, level=1)
    assert scores.loc["model", "r2"] > scores.loc["no change", "r2"] + 0.1
    assert scores.loc["model", "pearson_shift"] > 0.7
    assert scores.loc["model", "pearson_shift"] > scores.loc["context shift", "pearson_shift"] - 0.1


def test_effects_find_the_interferon_response(adata, normal):
    effects = normal.marginal_effect(groupby=["cell_type"])
    frame = effects.to_frame().set_index(["cell_type", "gene"])
    assert frame.loc[HELD_OUT, "status"].eq("extrapolated").all()
    b_cells = frame.loc["B"]
    here = adata[(adata.obs["cell_type"] == "B") & (adata.obs["split"] != "ood")]
    seen = pd.Series(np.asarray((here.X > 0).sum(axis=0)).ravel() > 0, index=adata.var_names)
    # So strong a treatment leaves traces in the latent; a gene that no cell expresses has no interval.
    assert b_cells.loc[seen, "status"].isin(["ok", "leak_detected"]).all()
    assert b_cells.loc[~seen, "status"].eq("too_few_cells").all()
    assert (b_cells.loc[INDUCED, "ci_low"] > 0).all()
    assert (b_cells.loc[INDUCED, "p_value_adj"] < 1e-4).all()
    np.testing.assert_allclose(b_cells["robust"], b_cells["observed"], atol=0.2)
    sgv.tl.rank_effects(adata, effects, stratum={"cell_type": "B"})
    top = sc.get.rank_genes_groups_df(adata, "IFNb", key="rank_effects")["names"].head(10)
    assert len(set(INDUCED) & set(top)) >= 3


def test_counts(adata):
    """Negative binomial on counts: predictions are counts at the median library, far closer than control cells."""
    model = train(adata, "nb", layer="counts")
    library = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    scale = float(model.module.library_size)
    assert scale == np.median(library[adata.obs["split"] == "train"])
    scaled = sparse.diags_array(scale / np.maximum(library, 1)) @ adata.layers["counts"]
    adata.layers["log"] = sparse.csr_matrix(scaled).log1p()
    predictors = {
        "model": model,
        "no change": NoChange(adata, layer="log", **SETUP),
        "context shift": ContextShift(adata, layer="log", **SETUP),
    }
    scores = evaluate(predictors, adata, layer="log", baselines=None).xs("mean", axis=1, level=1)
    assert scores.loc["model", "r2"] > scores.loc["no change", "r2"]
    assert scores.loc["model", "pearson_shift"] > scores.loc["context shift", "pearson_shift"] - 0.15
    predicted = model.predict("IFNb", library="observed")
    assert (predicted.X >= 0).all()
    assert np.corrcoef(predicted.X.sum(axis=1), library[adata.obs["perturbation"] == "control"])[0, 1] > 0.9
