"""What simple predictors share: sources, doses, new data, bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.baselines import Additive, ContextShift, NoChange
from scgraphvci.datasets import simulate, truth

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}


@pytest.fixture(scope="module")
def adata():
    return simulate(n_cells=500, n_genes=40, n_perturbations=4, n_donors=2, seed=0)


@pytest.fixture(scope="module")
def dosed():
    return simulate(
        n_cells=1500, n_genes=40, n_perturbations=4, n_donors=2, n_combinations=1, doses=(0.25, 1.0), seed=1
    )


def test_sources(adata):
    baseline = NoChange(adata, **SETUP)
    first = adata.obs["perturbation"].cat.categories[1]
    received = adata.obs["perturbation"]
    assert baseline.predict(first).obs_names.tolist() == adata.obs_names[received == "control"].tolist()
    assert baseline.predict(first, source="all").n_obs == adata.n_obs
    assert baseline.predict("control", source=first).obs_names.tolist() == adata.obs_names[received == first].tolist()
    chosen = baseline.predict(first, indices=[30, 2, 2])
    assert chosen.obs["source_cell"].tolist() == adata.obs_names[[30, 2, 2]].tolist()
    assert set(chosen.obs["counterfactual_treatment"]) == {first}
    with pytest.raises(ValueError, match="either `source`"):
        baseline.predict(first, source="all", indices=[0])
    with pytest.raises(ValueError, match="at least one cell"):
        baseline.predict(first, indices=[])
    with pytest.raises(ValueError, match="500 cells"):
        baseline.predict(first, indices=[500])


def test_nothing_is_written(adata):
    other = adata.copy()
    ContextShift(other, **SETUP).predict(other.obs["perturbation"].cat.categories[1])
    pd.testing.assert_frame_equal(other.obs, adata.obs)
    assert other.uns.keys() == adata.uns.keys()


def test_new_data_keep_their_own_expression(adata):
    baseline = ContextShift(adata, **SETUP)
    first = adata.obs["perturbation"].cat.categories[1]
    index = np.flatnonzero(adata.obs["perturbation"] == "control")[:7]
    new = adata[index].copy()
    expected = baseline.predict(first, indices=index).X
    np.testing.assert_allclose(baseline.predict(first, adata=new).X, expected, rtol=1e-6)
    del new.obs["split"]
    np.testing.assert_allclose(baseline.predict(first, adata=new).X, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="genes"):
        baseline.predict(first, adata=adata[:, ::-1].copy())
    new.obs["cell_type"] = "other"
    with pytest.raises(ValueError, match="other"):
        baseline.predict(first, adata=new)


def test_doses_are_looked_up_at_the_nearest(dosed):
    baseline = ContextShift(dosed, dose_key="dose", combination_sep="+", **SETUP)
    single = next(t for t in dosed.obs["perturbation"].cat.categories[1:] if "+" not in t)
    low, high, between = (baseline.predict(single, dose=dose).X for dose in (0.25, 1.0, 0.9))
    np.testing.assert_array_equal(high, between)
    assert np.abs(high - low).max() > 0.1
    assert set(baseline.predict(single, dose=1.0).obs["counterfactual_dose"]) == {"1.0"}
    start = baseline.predict("control").X
    np.testing.assert_array_equal(baseline.predict(single, dose=0).X, start)


def test_additive_is_right_where_effects_add_up():
    """Without interaction of strata, a combination not trained on is predicted far better than no change."""
    screen = simulate(
        n_cells=6000, n_genes=60, n_perturbations=4, n_cell_types=2, n_donors=2, n_combinations=2, interaction=0.0,
        effect_strength=1.5, n_ood_pairs=0, seed=0,
    )  # fmt: skip
    combination = next(t for t in screen.obs["perturbation"].cat.categories if "+" in t)
    screen.obs["split"] = np.where(screen.obs["perturbation"] == combination, "ood", "train")
    known = truth(screen)
    expected = known.stratum_mean(combination).loc["type0"].to_numpy()
    sources = np.flatnonzero((screen.obs["perturbation"] == "control") & (screen.obs["cell_type"] == "type0"))
    errors = []
    for cls in (Additive, NoChange):
        predicted = cls(screen, combination_sep="+", **SETUP).predict(combination, indices=sources)
        errors.append(np.abs(predicted.X.mean(axis=0) - expected).mean())
    assert errors[0] < 0.3 * errors[1]


def test_unknown_treatment_and_bad_columns(adata):
    with pytest.raises(ValueError, match="Unknown treatment 'nothing'"):
        NoChange(adata, **SETUP).predict("nothing")
    with pytest.raises(KeyError, match="no_such"):
        NoChange(adata, categorical_covariate_keys=["no_such"])
    with pytest.raises(KeyError, match="no_such"):
        NoChange(adata, split_key="no_such")
    with pytest.raises(ValueError, match="vehicle"):
        NoChange(adata, control="vehicle")
    with pytest.raises(KeyError, match="no_such"):
        NoChange(adata, layer="no_such")
