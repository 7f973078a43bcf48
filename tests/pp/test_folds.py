"""Folds over pairs of treatment and stratum."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgraphvci.pp import split_folds

COVARIATES = ["cell_type", "donor"]


def pairs(obs: pd.DataFrame) -> set[tuple[str, ...]]:
    return set(obs[["perturbation", *COVARIATES]].astype(str).itertuples(index=False, name=None))


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_every_pair_is_held_out_once(screen, n_folds):
    split_folds(screen, "perturbation", "control", COVARIATES, n_folds=n_folds)
    columns = [f"fold_{k}" for k in range(n_folds)]
    treated = screen.obs["perturbation"] != "control"
    held_out = [pairs(screen.obs[screen.obs[column] == "ood"]) for column in columns]
    assert set.union(*held_out) == pairs(screen.obs[treated])
    assert sum(map(len, held_out)) == len(pairs(screen.obs[treated]))
    assert ((screen.obs[columns] == "ood").sum(axis=1) == treated).all()  # pairs stay whole
    table = screen.uns["fold"]["held_out"]
    for k, column in enumerate(columns):
        of_fold = table[table["fold"] == k]
        assert pairs(of_fold) == held_out[k]
        assert of_fold["n_cells"].sum() == (screen.obs[column] == "ood").sum()


def test_treatments_and_strata_are_spread(screen):
    split_folds(screen, "perturbation", "control", COVARIATES, n_folds=3)
    table = screen.uns["fold"]["held_out"]
    of_treatment = pd.crosstab(table["perturbation"], table["fold"])
    of_stratum = pd.crosstab([table["cell_type"], table["donor"]], table["fold"])
    assert of_treatment.to_numpy().max() - of_treatment.to_numpy().min() <= 1  # 6 strata over 3 folds: 2 each
    assert of_stratum.to_numpy().max() <= 2  # 3 treatments over 3 folds
    assert np.ptp(table["fold"].value_counts()) <= 1


def test_held_out_treatments_remain_in_other_strata():
    rng = np.random.default_rng(1)
    obs = pd.DataFrame(
        {"perturbation": rng.choice(["control", *"ABCDEFG"], 400), "cell_type": rng.choice(list("xyz"), 400)},
        index=[f"cell{i}" for i in range(400)],
    )
    adata = ad.AnnData(np.zeros((400, 1), dtype=np.float32), obs=obs)
    for seed in range(5):
        split_folds(adata, "perturbation", "control", "cell_type", n_folds=2, seed=seed)
        for k in range(2):
            rest = obs[adata.obs[f"fold_{k}"] != "ood"]
            assert set(rest["perturbation"]) == set(obs["perturbation"])


def test_folds_are_seeded_and_share_the_test_cells(screen, make_screen):
    again, other = make_screen(), make_screen()
    split_folds(screen, "perturbation", "control", COVARIATES)
    split_folds(again, "perturbation", "control", COVARIATES)
    split_folds(other, "perturbation", "control", COVARIATES, seed=1)
    columns = [f"fold_{k}" for k in range(5)]
    assert (screen.obs[columns] == again.obs[columns]).all(axis=None)
    assert screen.uns["fold"]["sha256"] == again.uns["fold"]["sha256"]
    assert not (screen.obs[columns] == other.obs[columns]).all(axis=None)
    controls = screen.obs.loc[screen.obs["perturbation"] == "control", columns]
    assert (controls.nunique(axis=1) == 1).all()


def test_thin_pairs_are_kept_and_file_round_trips(screen, tmp_path):
    thin = (screen.obs["perturbation"] == "A") & (screen.obs["cell_type"] == "NK") & (screen.obs["donor"] == "d1")
    screen = screen[~thin | (thin.cumsum() == 1)].copy()
    split_folds(screen, "perturbation", "control", COVARIATES, key_added="cv")
    assert 1 in screen.uns["cv"]["held_out"]["n_cells"].tolist()
    screen.write_h5ad(tmp_path / "screen.h5ad")
    back = ad.read_h5ad(tmp_path / "screen.h5ad")
    pd.testing.assert_frame_equal(
        back.uns["cv"]["held_out"], screen.uns["cv"]["held_out"], check_dtype=False, check_index_type=False
    )
    assert back.obs["cv_4"].cat.categories.tolist() == ["train", "test", "ood"]


def test_copy(screen):
    result = split_folds(screen, "perturbation", "control", "cell_type", n_folds=2, copy=True)
    assert "fold_0" in result.obs
    assert "fold_0" not in screen.obs
    assert "fold" not in screen.uns


def test_treatment_of_one_stratum_is_named(screen, caplog):
    screen = screen[~((screen.obs["perturbation"] == "A") & (screen.obs["cell_type"] != "NK"))].copy()
    split_folds(screen, "perturbation", "control", "cell_type", n_folds=2)
    assert "unseen in the fold that holds them out: A" in caplog.text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_folds": 1}, ValueError, "n_folds=1, but there are 9 pairs"),
        ({"n_folds": 10}, ValueError, "Choose 2 to 9"),
        ({"covariate_keys": ["tissue"]}, KeyError, "column 'tissue' not found"),
        ({"covariate_keys": "perturbation"}, ValueError, "cannot also be a covariate"),
        ({"control": "DMSO"}, ValueError, "Control 'DMSO' has no cells"),
        ({"test_share": -0.1}, ValueError, "test_share=-0.1"),
    ],
)
def test_bad_input_writes_nothing(screen, change, error, message):
    columns = set(screen.obs)
    options = {"perturbation_key": "perturbation", "control": "control", "covariate_keys": "cell_type", **change}
    with pytest.raises(error, match=message):
        split_folds(screen, **options)
    assert set(screen.obs) == columns
    assert not screen.uns
