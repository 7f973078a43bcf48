"""The ridge regression against its normal equations, written out, and against what it should recover."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgraphvci.baselines import Additive, ContextShift, RidgePCA

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split", "combination_sep": "+"}
STRATA, TREATMENTS, N_GENES, N_CELLS = list("uvwxyz"), ["control", "A", "B", "C", "D", "E", "F"], 15, 4


def make_screen(response, noise=0.3, held_out=("z", "A"), treatments=TREATMENTS, seed=0):
    """Screen whose shift in stratum s under treatment t is response(s, t), as positions."""
    rng = np.random.default_rng(seed)
    level = rng.normal(3, 1, (len(STRATA), N_GENES))
    cells, values = [], []
    for s, stratum in enumerate(STRATA):
        for t, treatment in enumerate(treatments):
            split = "ood" if (stratum, treatment) == held_out else "train"
            cells += [(stratum, treatment, split)] * N_CELLS
            values.append(level[s] + response(s, t) + noise * rng.normal(size=(N_CELLS, N_GENES)))
    obs = pd.DataFrame(cells, columns=["cell_type", "perturbation", "split"]).rename(index=str)
    return ad.AnnData(np.concatenate(values), obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(N_GENES)]))


@pytest.fixture(scope="module")
def shifts():
    return np.vstack([np.zeros(N_GENES), np.random.default_rng(1).normal(size=(len(TREATMENTS) - 1, N_GENES))])


def predicted_mean(baseline, stratum, treatment):
    wanted = (baseline.adata.obs == [stratum, "control", "train"]).all(axis=1)
    return baseline.predict(treatment, indices=np.flatnonzero(wanted)).X.mean(axis=0)


def test_against_the_normal_equations(shifts):
    """Means cell by cell, G and P by hand, W from its formula with both Gram matrices."""
    adata = make_screen(lambda s, t: shifts[t] * (1 + 0.2 * s))
    train = adata[adata.obs["split"] == "train"]
    names = train.obs["cell_type"] + "," + train.obs["perturbation"]
    mean = pd.DataFrame(train.X).groupby(names.to_numpy()).mean()
    shift = {
        (s, t): (mean.loc[f"{s},{t}"] - mean.loc[f"{s},control"]).to_numpy()
        for s in STRATA
        for t in TREATMENTS[1:]
        if (s, t) != ("z", "A")
    }
    controls = np.stack([mean.loc[f"{s},control"].to_numpy() for s in STRATA])

    def axes(rows):
        values, vectors = np.linalg.eigh(np.cov(rows.T))
        return vectors[:, np.argsort(-values)[:10]]

    y = np.stack(list(shift.values())).T  # genes x pairs
    b = y.mean(axis=1, keepdims=True)
    g, control_axes = axes(y.T), axes(controls)[:, : len(STRATA)]

    def embed(stratum, treatment):
        others = np.mean([shift[s, treatment] for s in STRATA if s != stratum and (s, treatment) in shift], axis=0)
        control = controls[STRATA.index(stratum)] - controls.mean(axis=0)
        return np.concatenate([others @ g, control @ control_axes])

    p = np.stack([embed(*pair) for pair in shift])
    centre = p.mean(axis=0)
    p = p - centre
    left = np.linalg.inv(g.T @ g + 0.1 * np.eye(g.shape[1]))
    w = left @ g.T @ (y - b) @ p @ np.linalg.inv(p.T @ p + 0.1 * np.eye(p.shape[1]))
    expected = controls[5] + b.ravel() + g @ w @ (embed("z", "A") - centre)
    np.testing.assert_allclose(predicted_mean(RidgePCA(adata, **SETUP), "z", "A"), expected, rtol=1e-4, atol=1e-4)


def test_recovers_additive_shifts(shifts):
    adata = make_screen(lambda s, t: shifts[t], noise=0.01)
    found = predicted_mean(RidgePCA(adata, **SETUP), "z", "A")
    reference = predicted_mean(ContextShift(adata, **SETUP), "z", "control")
    np.testing.assert_allclose(found - reference, shifts[1], atol=0.2)
    assert np.corrcoef(found - reference, shifts[1])[0, 1] > 0.99


def test_learns_that_a_stratum_responds_otherwise():
    """Strata differ from each other by a shift common to all treatments, which no average of other strata can tell."""
    rng = np.random.default_rng(2)
    own, treatment_shift = rng.normal(size=(len(STRATA), N_GENES)), rng.normal(size=(len(TREATMENTS), N_GENES))
    adata = make_screen(lambda s, t: (own[s] + treatment_shift[t]) * (t > 0), noise=0.05)
    true = own[5] + treatment_shift[1]
    errors = {}
    for cls in (RidgePCA, ContextShift):
        baseline = cls(adata, **SETUP)
        shift = predicted_mean(baseline, "z", "A") - predicted_mean(baseline, "z", "control")
        errors[cls] = ((shift - true) ** 2).mean()
    assert errors[RidgePCA] < 0.5 * errors[ContextShift]


def test_combination_never_seen_is_embedded_by_its_members(shifts):
    adata = make_screen(lambda s, t: shifts[t], noise=0.01)
    ridge, additive = RidgePCA(adata, **SETUP), Additive(adata, **SETUP)
    shift = predicted_mean(ridge, "v", "B+C") - predicted_mean(ridge, "v", "control")
    expected = predicted_mean(additive, "v", "B+C") - predicted_mean(additive, "v", "control")
    assert np.corrcoef(shift, expected)[0, 1] > 0.97


def test_screen_without_controls_changes_nothing():
    adata = make_screen(lambda s, t: 0.0)
    adata.obs.loc[adata.obs["perturbation"] == "control", "split"] = "ood"
    np.testing.assert_allclose(RidgePCA(adata, **SETUP).predict("B").X, ContextShift(adata, **SETUP).predict("B").X)


def test_held_out_cells_change_nothing(shifts):
    adata = make_screen(lambda s, t: shifts[t])
    other = adata.copy()
    other.X[(other.obs["split"] == "ood").to_numpy()] = 1e6
    index = np.flatnonzero(adata.obs["split"] != "ood")
    before, after = (RidgePCA(data, **SETUP).predict("A", indices=index).X for data in (adata, other))
    np.testing.assert_array_equal(before, after)
