"""Faults of a screen give every effect of a model a status or a warning, never a wrong interval."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi

import scgraphvci as sgv

INTERVAL = ["std_error", "ci_low", "ci_high", "p_value", "p_value_adj"]
N_GENES = 24


def draw():
    """160 cells: two types, eight donors, half of each treated; the treatment raises all genes by one."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "perturbation": np.resize(["control", "A"], 160).astype(object),
            "cell_type": np.repeat(["B", "T"], 80).astype(object),
            "donor": np.resize(np.repeat([f"d{i}" for i in range(8)], 2), 160),
            "cell": [f"cell {i}" for i in range(160)],
        },
        index=[f"cell {i}" for i in range(160)],
    )
    x = rng.gamma(2.0, size=(160, N_GENES)) + (obs["perturbation"] == "A").to_numpy()[:, None]
    return ad.AnnData(x.astype(np.float32), obs=obs)


def in_type(adata, name):
    return (adata.obs["cell_type"] == name).to_numpy()


def all_of_b(treatment):
    def change(adata):
        adata.obs.loc[in_type(adata, "B"), "perturbation"] = treatment
        return adata

    return change


def keep_treated(n_cells):
    def change(adata):
        treated = in_type(adata, "B") & (adata.obs["perturbation"] == "A").to_numpy()
        return adata[~treated | (np.cumsum(treated) <= n_cells)].copy()

    return change


def keep_control(n_cells):
    def change(adata):
        control = in_type(adata, "B") & (adata.obs["perturbation"] == "control").to_numpy()
        return adata[~control | (np.cumsum(control) <= n_cells)].copy()

    return change


def without_b(adata):
    return adata[~in_type(adata, "B")].copy()


def one_donor(adata):
    adata.obs["donor"] = "d0"
    return adata


def one_donor_treated(adata):
    """In B cells treatment and donor are one."""
    b = in_type(adata, "B")
    adata.obs.loc[b, "perturbation"] = np.where(adata.obs["donor"][b] == "d0", "A", "control")
    return adata


def all_cells_the_same(adata):
    adata.X[in_type(adata, "B")] = np.linspace(0.5, 2, N_GENES)
    return adata


DONORS = {"cluster_key": "donor"}
TABLE = [
    # what, change of the screen, arguments, status by cell type, warning
    ("as it should be", lambda adata: adata, {}, {"B": "ok", "T": "ok"}, None),
    ("as it should be, clustered", lambda adata: adata, DONORS, {"B": "ok", "T": "ok"}, None),
    ("no treated cell", all_of_b("control"), {}, {"B": "extrapolated", "T": "ok"}, None),
    ("no control", all_of_b("A"), {}, {"B": "no_reference", "T": "ok"}, None),
    ("no cell", without_b, {}, {"T": "ok"}, None),
    ("one treated cell", keep_treated(1), {}, {"B": "too_few_cells", "T": "ok"}, None),
    ("one treated cell, clustered", keep_treated(1), DONORS, {"B": "too_few_cells", "T": "ok"}, None),
    ("one control cell", keep_control(1), {}, {"B": "too_few_cells", "T": "ok"}, None),
    ("nine treated cells", keep_treated(9), {}, {"B": "too_few_cells", "T": "ok"}, None),
    ("one donor", one_donor, DONORS, dict.fromkeys("BT", "too_few_clusters"), "No stratum has two clusters"),
    ("one donor treated", one_donor_treated, DONORS, {"B": "too_few_clusters", "T": "ok"}, None),
    ("all cells the same", all_cells_the_same, {}, {"B": "too_few_cells", "T": "ok"}, "exactly the expression"),
]


def build(adata):
    """A model of random weights: what is valid with it is valid with any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"])
    scvi.settings.seed = 0
    model = sgv.GraphVCI(adata, n_hidden=8, n_latent=2)
    model.is_trained_ = True
    return model


def effects_of(adata, warned=None, **arguments):
    """Effects without a guard against what random weights leak; every warning is looked at."""
    model = build(adata)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        frame = model.marginal_effect(**{"estimator": "observed", **arguments}).to_frame()
    model.deregister_manager(adata)
    messages = [str(one.message) for one in caught if one.category is UserWarning]
    messages = [message for message in messages if "can be too short with" not in message]  # the screen is a panel
    assert [warned in message for message in messages] == ([True] if warned else []), messages
    return frame


@pytest.mark.parametrize("estimator", ["robust", "observed", "plugin"])
@pytest.mark.parametrize(
    ("change", "arguments", "status", "warned"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_faults(change, arguments, status, warned, estimator):
    warned = None if estimator == "plugin" and warned == "No stratum has two clusters" else warned
    frame = effects_of(change(draw()), warned, estimator=estimator, **arguments)
    assert set(frame["cell_type"]) == set(status)
    if estimator == "plugin":  # the mean prediction, which has no error at all
        assert frame[INTERVAL].isna().all(axis=None)
        return
    for name, expected in status.items():
        rows = frame[frame["cell_type"] == name]
        assert set(rows["status"]) <= ({expected, "leak_detected"} if expected == "ok" else {expected}), name
        if expected == "ok":
            assert np.isfinite(rows[["estimate", *INTERVAL]]).all(axis=None)
            assert (rows["std_error"] > 0).all()
        else:
            assert rows[INTERVAL].isna().all(axis=None)


def test_a_constant_gene_has_no_interval_and_others_keep_theirs():
    adata = draw()
    adata.X[:, 0], adata.X[:, 1] = 0.0, 0.3
    treated = (adata.obs["perturbation"] == "A").to_numpy()
    adata.X[:, 2] = np.where(treated, 0.9, 0.1)  # all the difference, and nothing to measure an error by
    frame = effects_of(adata).set_index("gene")
    without = frame.loc[["0", "1", "2"]]
    assert without[INTERVAL].isna().all(axis=None)
    assert set(without["status"]) == {"too_few_cells"}
    rest = frame.drop(index=["0", "1", "2"])
    assert set(rest["status"]) == {"ok"}
    assert np.isfinite(rest[INTERVAL]).all(axis=None)


def test_ties_in_one_arm_leave_the_error_of_the_other():
    adata = draw()
    adata.X[(adata.obs["perturbation"] == "A").to_numpy(), 0] = 0.0
    frame = effects_of(adata)
    control = (adata.obs["perturbation"] == "control").to_numpy() & in_type(adata, "B")
    found = frame[(frame["gene"] == "0") & (frame["cell_type"] == "B")]
    np.testing.assert_allclose(found["std_error"], adata.X[control, 0].std(ddof=1) / np.sqrt(40), rtol=1e-5)
    assert found["status"].tolist() == ["ok"]


def test_copied_cells_are_told_and_their_origin_as_cluster_mends_the_error():
    once = effects_of(draw(), cluster_key="cell")
    adata, rows = draw(), np.repeat(np.arange(160), 5)
    obs = adata.obs.iloc[rows].set_index(pd.Index([f"number {i}" for i in range(800)]))
    copied = ad.AnnData(adata.X[rows], obs=obs.assign(number=obs.index))
    naive = effects_of(copied.copy(), "640 of 800 cells have exactly the expression of another cell")
    mended = effects_of(copied.copy(), cluster_key="cell")
    effects_of(copied.copy(), "640 of 800 cells have exactly the expression of a cell of another", cluster_key="number")
    np.testing.assert_allclose(mended["std_error"], once["std_error"], rtol=1e-4)
    assert (naive["std_error"] < 0.5 * mended["std_error"]).all()
