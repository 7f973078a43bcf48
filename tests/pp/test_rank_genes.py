"""Differential expression by stratum, against scanpy."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from scgraphvci.pp import rank_genes_by_stratum, ranked_genes


@pytest.mark.parametrize("covariates", [None, "cell_type", ["cell_type", "donor"]])
def test_agrees_with_scanpy_in_every_stratum(make_screen, covariates):
    adata = make_screen(n_cells=400)
    rank_genes_by_stratum(adata, "perturbation", "control", covariates)
    keys = [covariates] if isinstance(covariates, str) else covariates or []
    strata = adata.obs[keys].drop_duplicates().to_dict("records") if keys else [{}]
    n_rows = 0
    for stratum in strata:
        inside = np.logical_and.reduce([adata.obs[key] == level for key, level in stratum.items()] or [True])
        part = adata[np.broadcast_to(inside, adata.n_obs)].copy()
        part.uns["log1p"] = {"base": None}
        sc.tl.rank_genes_groups(
            part, "perturbation", reference="control", method="t-test", corr_method="benjamini-hochberg"
        )
        for treatment in ("A", "B", "A+B"):
            expected = sc.get.rank_genes_groups_df(part, treatment).set_index("names")
            found = ranked_genes(adata, treatment, stratum)
            assert found["score"].abs().is_monotonic_decreasing
            n_rows += len(found)
            found = found.set_index("gene").loc[expected.index]
            np.testing.assert_allclose(found["score"], expected["scores"], rtol=2e-4, atol=1e-5)
            np.testing.assert_allclose(found["p_value"], expected["pvals"], rtol=2e-3)
            np.testing.assert_allclose(found["p_value_adj"], expected["pvals_adj"], rtol=2e-3)
            arms = [part[part.obs["perturbation"] == name] for name in (treatment, "control")]
            shift = pd.Series(arms[0].X.mean(axis=0) - arms[1].X.mean(axis=0), index=adata.var_names)
            np.testing.assert_allclose(found["shift"], shift.loc[found.index], rtol=1e-4, atol=1e-6)
            assert (found[["n_treated", "n_control"]].to_numpy() == [arm.n_obs for arm in arms]).all()
    assert n_rows == len(ranked_genes(adata))


def test_only_train_cells_count(screen):
    rank_genes_by_stratum(screen, "perturbation", "control", "donor", split_key="split")
    train = screen[screen.obs["split"] == "train"].copy()
    rank_genes_by_stratum(train, "perturbation", "control", "donor")
    pd.testing.assert_frame_equal(ranked_genes(screen), ranked_genes(train))


def test_formats_and_files(screen, tmp_path):
    rank_genes_by_stratum(screen, "perturbation", "control", ["cell_type", "donor"], n_genes=4)
    expected = ranked_genes(screen)
    assert (expected.groupby(["treatment", "cell_type", "donor"], observed=True).size() == 4).all()
    for matrix in (sparse.csr_matrix(screen.X), sparse.csc_array(screen.X)):
        other = screen.copy()
        other.X = matrix
        rank_genes_by_stratum(other, "perturbation", "control", ["cell_type", "donor"], n_genes=4)
        pd.testing.assert_frame_equal(ranked_genes(other), expected)
    screen.write_h5ad(tmp_path / "screen.h5ad")
    back = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")
    pd.testing.assert_frame_equal(ranked_genes(back), expected, check_categorical=False, check_dtype=False)
    assert back.uns["rank_genes_by_stratum"]["params"]["n_genes"] == 4
    rank_genes_by_stratum(back, "perturbation", "control", ["cell_type", "donor"], n_genes=4, key_added="again")
    pd.testing.assert_frame_equal(ranked_genes(back, key="again"), expected)


def test_genes_that_do_not_vary(screen):
    screen.X[:, 2] = 1.5
    rank_genes_by_stratum(screen, "perturbation", "control")
    constant = ranked_genes(screen).query("gene == 'gene2'")
    assert (constant["score"] == 0).all()
    assert (constant["p_value"] == 1).all()


def test_pairs_without_a_test_are_named(screen, caplog):
    drop = (screen.obs["cell_type"] == "NK") & (screen.obs["perturbation"] == "A")
    screen = screen[~drop | (drop.cumsum() == 1)].copy()
    rank_genes_by_stratum(screen, "perturbation", "control", "cell_type")
    assert "A / NK" in caplog.text
    assert set(ranked_genes(screen, "A")["cell_type"]) == {"B cell", "T cell"}
    with pytest.raises(KeyError, match="No ranked genes for .*'A'.*'NK'"):
        ranked_genes(screen, "A", {"cell_type": "NK"})


def test_copy(screen):
    result = rank_genes_by_stratum(screen, "perturbation", "control", copy=True)
    assert "rank_genes_by_stratum" in result.uns
    assert not screen.uns


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_genes": 0}, ValueError, "n_genes=0"),
        ({"control": "DMSO"}, ValueError, "Control 'DMSO'"),
        ({"layer": "logs"}, KeyError, "Layer 'logs'"),
        ({"split_key": "fold"}, KeyError, "column 'fold'"),
        ({"covariate_keys": ["score"]}, ValueError, r"Covariates \['score'\] have names of result columns"),
    ],
)
def test_bad_input_writes_nothing(screen, change, error, message):
    screen.obs["score"] = "x"
    with pytest.raises(error, match=message):
        rank_genes_by_stratum(screen, **{"perturbation_key": "perturbation", "control": "control", **change})
    assert not screen.uns


def test_no_pair_can_be_tested(screen):
    screen.obs["cell"] = screen.obs_names
    with pytest.raises(ValueError, match="No pair of treatment and stratum"):
        rank_genes_by_stratum(screen, "perturbation", "control", "cell")


def test_reading_what_is_not_there(screen):
    with pytest.raises(KeyError, match="holds no ranked genes"):
        ranked_genes(screen)
    rank_genes_by_stratum(screen, "perturbation", "control")
    with pytest.raises(KeyError, match="'tissue' is not among the columns"):
        ranked_genes(screen, stratum={"tissue": "lung"})
