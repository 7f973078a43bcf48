"""Splits of the recipes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scgraphvci._reproduce._recipes import (
    RECIPES,
    Recipe,
    as_given,
    hold_out_category,
    hold_out_cells,
    hold_out_each_level,
)


@pytest.fixture
def make_recipe():
    return lambda splits: Recipe("perturbation", "control", ("cell_type",), splits)


def held_out(adata) -> set[tuple[str, str]]:
    return set(
        adata.obs.loc[adata.obs["split"] == "ood", ["perturbation", "cell_type"]].itertuples(index=False, name=None)
    )


def test_one_split_per_level(screen, make_recipe):
    recipe = make_recipe(hold_out_each_level("cell_type", n_hardest=2))
    seen = {}
    for name in recipe.splits(screen, recipe, 0):
        seen[name] = held_out(screen)
    assert list(seen) == ["B cell", "NK", "T cell"]
    for name, pairs in seen.items():
        assert {cell_type for _, cell_type in pairs} == {name}
        assert len(pairs) == 2
    assert len({frozenset(t for t, _ in pairs) for pairs in seen.values()}) == 1  # hardest by the data as a whole


def test_category_of_several_columns(screen, make_recipe):
    recipe = make_recipe(hold_out_category({"cell_type": "NK", "donor": "d1"}, n_hardest=1))
    assert list(recipe.splits(screen, recipe, 3)) == ["NK d1"]
    ood = screen.obs[screen.obs["split"] == "ood"]
    assert set(ood["donor"]) == {"d1"}
    assert screen.uns["split"]["params"]["seed"] == 3


def test_cells_that_match_any_group(screen, make_recipe):
    recipe = make_recipe(hold_out_cells("mine", [{"perturbation": "A+B"}, {"perturbation": "B", "cell_type": "NK"}]))
    assert list(recipe.splits(screen, recipe, 0)) == ["mine"]
    assert held_out(screen) == {("A+B", "B cell"), ("A+B", "T cell"), ("A+B", "NK"), ("B", "NK")}
    rest = screen.obs["split"][screen.obs["split"] != "ood"]
    assert 0.1 < (rest == "test").mean() < 0.3
    first = screen.obs["split"].copy()
    list(recipe.splits(screen, recipe, 1))
    assert not (first == screen.obs["split"]).all()


def test_split_that_comes_with_the_data(screen, make_recipe):
    recipe = make_recipe(as_given)
    before = screen.obs["split"].copy()
    assert list(recipe.splits(screen, recipe, 0)) == ["as given"]
    pd.testing.assert_series_equal(screen.obs["split"], before)
    del screen.obs["split"]
    with pytest.raises(KeyError, match="'split' not found"):
        list(recipe.splits(screen, recipe, 0))


def test_kang_is_normalised_and_cut_to_variable_genes(make_screen):
    adata = make_screen(n_cells=100, n_genes=1600)
    adata.X = adata.layers["counts"].copy()
    prepared = RECIPES["kang"].prepare(adata)
    assert prepared.n_vars == 1500
    full = np.expm1(RECIPES["schraivogel"].prepare(_counts(make_screen)).X.toarray())
    np.testing.assert_allclose(full.sum(axis=1), 1000, rtol=1e-4)


def _counts(make_screen):
    adata = make_screen(n_cells=50)
    adata.X = adata.layers["counts"].copy()
    return adata


def test_every_recipe_says_what_its_data_are():
    for name, recipe in RECIPES.items():
        assert recipe.note, name
        assert recipe.covariates, name
        assert recipe.setup["split_key"] == "split"


PREPARED = {  # columns of the files the authors prepared, and of ours
    "sciplex": ["perturbation", "cell_type", "replicate", "dose"],
    "marson": ["target", "celltype", "donor", "stim"],
    "l008": ["target_gene", "crispr", "cell_type", "donor"],
}


@pytest.mark.parametrize("name", PREPARED)
def test_files_that_the_authors_prepared_fit(name):
    recipe = RECIPES[name]
    levels = recipe.splits.category
    renamed = {"cell_type": "celltype"} if name == "marson" else {}
    rng = np.random.default_rng(0)
    treatments = [recipe.control, *(f"T{number}" for number in range(20))]
    obs = pd.DataFrame({column: rng.choice(treatments, 2000) for column in PREPARED[name][:1]})
    for column in PREPARED[name][1:]:
        obs[column] = rng.choice(["Cas9+", "other"], 2000)
    for column, level in levels.items():
        obs[renamed.get(column, column)] = rng.choice([level, "other"], 2000)
    adata = AnnData(obs=recipe.name_columns(obs.set_axis(obs.index.astype(str))))
    assert set(recipe.setup["categorical_covariate_keys"]) <= set(adata.obs)
    recipe.splits.check(adata, recipe)
    assert (adata.obs["perturbation"] == obs[PREPARED[name][0]].to_numpy()).all()


@pytest.mark.parametrize("name", PREPARED)
def test_other_columns_are_left_alone(name):
    obs = pd.DataFrame({"drug": ["a", "b"], "line": ["x", "y"]})
    pd.testing.assert_frame_equal(RECIPES[name].name_columns(obs), obs)
