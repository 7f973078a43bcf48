"""Artists of each plot against the numbers they stand for."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from scipy import sparse

import scgraphvci as sgv
from scgraphvci import pl
from scgraphvci.estimate import MarginalEffects
from scgraphvci.pl._base import BLUE, GREY, ORANGE


def model(**curves: list[float]) -> SimpleNamespace:
    return SimpleNamespace(history={key: pd.DataFrame({key: values}) for key, values in curves.items()})


def test_history_draws_training_and_validation():
    trained = model(train_loss=[3.0, 2.0, 1.0], validation_loss=[3.5, np.nan, 1.5], divergence_train=[1.0, 2.0, 3.0])
    loss, divergence = pl.history(trained, metrics=["loss", "divergence"], show=False)
    lines = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert lines == {"train": [[0, 3], [1, 2], [2, 1]], "validation": [[0, 3.5], [2, 1.5]]}
    assert [line.get_label() for line in divergence.lines] == ["train"]
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss")


def test_history_by_default():
    assert [ax.get_ylabel() for ax in pl.history(model(train_loss=[1.0]), show=False)] == ["loss"]
    validated = model(train_loss=[1.0], pearson_shift_validation=[0.5])
    assert [ax.get_ylabel() for ax in pl.history(validated, show=False)] == ["loss", "pearson shift"]


def test_history_of_what_was_not_logged():
    with pytest.raises(KeyError, match="'elbo' was not logged.*train_loss"):
        pl.history(model(train_loss=[1.0]), metrics="elbo")
    with pytest.raises(ValueError, match=r"Call `model.train\(\)`"):
        pl.history(SimpleNamespace(history=None))


def test_shift_scatter_panels():
    rng = np.random.default_rng(0)
    true = rng.normal(size=50)
    parts = {"exact": true, "opposite": -true, "constant": np.zeros(50)}
    frame = pd.concat([pd.DataFrame({"predictor": k, "true": true, "predicted": v}) for k, v in parts.items()])
    axes = pl.shift_scatter(frame, show=False)
    assert [ax.get_title().splitlines() for ax in axes] == [
        ["exact", "r = 1.00"],
        ["opposite", "r = -1.00"],
        ["constant", "r = 0.00"],
    ]
    points = np.asarray(axes[1].collections[0].get_offsets())
    np.testing.assert_allclose(points, np.stack([true, -true], axis=1))
    assert axes[0].get_xlim() == axes[2].get_ylim()
    assert axes[0].get_xlim()[1] > np.abs(true).max()
    with pytest.raises(KeyError, match="'nobody'"):
        pl.shift_scatter(frame, predictors="nobody")
    with pytest.raises(KeyError, match="Evaluation.shifts"):
        pl.shift_scatter(frame.drop(columns="true"))


def test_shift_scatter_takes_an_evaluation():
    adata = sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=3, n_donors=1, seed=0)
    mine = sgv.baselines.ContextShift(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    evaluation = sgv.Evaluation({"mine": mine}, baselines=None, duplicates=False, n_bootstrap=5, n_de=5)
    drawn, expected = (pl.shift_scatter(data, show=False)[0] for data in (evaluation, evaluation.shifts()))
    assert drawn.get_title() == expected.get_title()
    points = [np.asarray(axis.collections[0].get_offsets()) for axis in (drawn, expected)]
    np.testing.assert_allclose(*points)


@pytest.fixture
def networks() -> ad.AnnData:
    adata = ad.AnnData(np.ones((2, 5)), var=pd.DataFrame(index=list("abcde")))
    prior, refined = np.zeros((5, 5)), np.zeros((5, 5))
    prior[1, [0, 2, 3]] = [1, -2, 3]
    prior[4, [2]] = 1
    prior[2, 2] = 9  # a self-loop
    refined[1, 3] = 0.9
    refined[0, 4] = 0.5
    adata.varp["grn"], adata.varp["grn_refined"] = sparse.csr_matrix(prior), sparse.csr_matrix(refined)
    return adata


def test_grn_adjacency_places_edges_alike_in_all_panels(networks):
    before, after = pl.grn_adjacency(networks, show=False)
    # b has most targets, then e, then a, which has none in the prior; targets a, c, d belong to b, e to a.
    assert [label.get_text() for label in before.get_yticklabels()] == ["b", "e", "a"]
    drawn = {}
    for axis in (before, after):
        points = axis.collections[0]
        drawn[axis] = {tuple(row) for row in np.column_stack([points.get_offsets(), points.get_array()]).tolist()}
    assert drawn[before] == {(0, 0, 1), (1, 0, 2), (2, 0, 3), (1, 1, 1)}
    assert drawn[after] == {(2, 0, 0.9), (3, 2, 0.5)}
    assert before.get_title() == "grn: 4 edges"
    assert (before.get_xlim(), before.get_ylim()) == ((-0.5, 3.5), (2.5, -0.5))


def test_grn_adjacency_tells_what_became_of_edges(networks):
    networks.uns["grn_refined"] = {"params": {"grn_key": "grn"}}
    before, after = pl.grn_adjacency(networks, show=False)
    assert before.get_legend() is None and len(before.collections[0].get_array()) == 4
    drawn = {part.get_label(): np.asarray(part.get_offsets()).tolist() for part in after.collections}
    assert {name: sorted(map(tuple, places)) for name, places in drawn.items()} == {
        "dropped": [(0, 0), (1, 0), (1, 1)],
        "kept": [(2, 0)],
        "added": [(3, 2)],
    }
    kept, added = (part for part in after.collections if part.get_label() != "dropped")
    np.testing.assert_allclose([kept.get_alpha(), added.get_alpha()], [[1.0], [0.35 + 0.65 * 0.5 / 0.9]])
    labels = [text.get_text() for text in after.get_legend().get_texts()]
    assert labels == ["dropped (3)", "kept (1)", "added (1)"]
    # Drawn without its prior, its colours are weights again.
    (alone,) = pl.grn_adjacency(networks, keys="grn_refined", show=False)
    np.testing.assert_allclose(alone.collections[0].get_array(), [0.5, 0.9])


def test_grn_adjacency_without_networks(networks):
    with pytest.raises(KeyError, match=r"\['other'\] not found in varp.*refine_grn"):
        pl.grn_adjacency(networks, keys=["grn", "other"])
    networks.varp["grn"] = sparse.eye(5, format="csr")
    with pytest.raises(ValueError, match="no edge between two different genes"):
        pl.grn_adjacency(networks, keys="grn")


@pytest.fixture(scope="module")
def effects() -> MarginalEffects:
    rng = np.random.default_rng(0)
    shape = (2, 2, 30)
    estimate = rng.normal(scale=0.1, size=shape)
    estimate[..., 0], estimate[..., 1] = 3.0, -2.0
    whole = np.full(shape[:2], 50)
    return MarginalEffects(
        treatments=pd.Index(["A", "B"]),
        strata=pd.DataFrame({"cell_type": ["x", "y"]}),
        genes=pd.Index([f"g{i}" for i in range(30)]),
        estimate=estimate,
        std_error=np.full(shape, 0.2),
        df=np.full(shape, 100.0),
        robust=estimate,
        observed=estimate + 0.05,
        plugin=estimate,
        n_treated=whole,
        n_reference=whole,
        n_stratum=2 * whole,
        n_clusters=0 * whole,
        share=np.ones(shape[:2]),
        status=np.full(shape[:2], "ok", dtype=object),
        params={"estimator": "robust", "reference": "control", "alpha": 0.05, "p_adjust": "fdr_bh"},
    )


def test_volcano(effects):
    ax = pl.effects_volcano(effects, treatment="A", stratum={"cell_type": "y"}, show=False)
    frame = effects.to_frame("A", {"cell_type": "y"})
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    groups = dict(zip(labels, ax.collections, strict=True))
    assert list(groups) == ["not significant (28)", "up (1)", "down (1)"]
    up = groups["up (1)"]
    np.testing.assert_allclose(up.get_offsets()[0], [3.0, -np.log10(frame["p_value_adj"][0])])
    np.testing.assert_allclose(up.get_facecolor()[0][:3], to_rgba(ORANGE)[:3])
    np.testing.assert_allclose(groups["down (1)"].get_facecolor()[0][:3], to_rgba(BLUE)[:3])
    np.testing.assert_allclose(groups["not significant (28)"].get_facecolor()[0][:3], to_rgba(GREY)[:3])
    assert {text.get_text() for text in ax.texts} == {"g0", "g1"}
    assert ax.get_title() == "A against control\ny"


def test_forest(effects):
    ax = pl.effects_forest(effects, treatment="B", stratum={"cell_type": "x"}, genes=3, show=False)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert (names[0], names[-1]) == ("g0", "g1")
    frame = effects.to_frame("B", {"cell_type": "x"}).set_index("gene").loc[names]
    intervals = np.array([segment[:, 0] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(intervals, frame[["ci_low", "ci_high"]])
    drawn = {line.get_label(): line.get_xdata() for line in ax.lines}
    np.testing.assert_allclose(drawn["robust, 95 % interval"], frame["estimate"])
    np.testing.assert_allclose(drawn["observed"], frame["observed"])
    ordered = pl.effects_forest(effects, treatment="B", stratum={"cell_type": "x"}, genes=["g5", "g2"], show=False)
    assert [label.get_text() for label in ordered.get_yticklabels()] == ["g5", "g2"]


@pytest.mark.parametrize("plot", [pl.effects_volcano, pl.effects_forest])
def test_one_treatment_in_one_stratum(effects, plot):
    with pytest.raises(ValueError, match="Name one `treatment`"):
        plot(effects)
    with pytest.raises(ValueError, match="fits 2 strata"):
        plot(effects, treatment="A")
    with pytest.raises(KeyError, match="nothing"):
        plot(effects, treatment="nothing")


def test_forest_of_unknown_genes(effects):
    with pytest.raises(KeyError, match="'none'"):
        pl.effects_forest(effects, treatment="A", stratum={"cell_type": "x"}, genes=["none"])
