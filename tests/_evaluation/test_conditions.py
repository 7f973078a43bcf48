"""The truth of held-out conditions."""

from __future__ import annotations

import numpy as np
import pytest

import scgraphvci as sgv
from scgraphvci._evaluation._conditions import held_out_conditions, starting_cells
from scgraphvci._evaluation._predictors import resolve

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}


@pytest.fixture(scope="module")
def adata():
    return sgv.datasets.simulate(n_cells=1500, n_genes=60, n_perturbations=6, n_donors=2, seed=2)


def conditions_of(adata, truth=None, split="ood"):
    screen, _ = resolve(sgv.baselines.NoChange(adata, **SETUP), None, None, None, None, truth, 0)
    return held_out_conditions(screen, split, "control", truth, 20, 5)[0]


def test_a_known_truth_is_noise_free(adata):
    truth = sgv.datasets.truth(adata)
    means = {name: truth.stratum_mean(name) for name in adata.obs["perturbation"].cat.categories}
    obs = adata.obs
    for one in conditions_of(adata, truth):
        cell_type = one.levels["cell_type"]
        np.testing.assert_allclose(one.true, means[one.treatment].loc[cell_type])
        np.testing.assert_allclose(one.reference, means["control"].loc[cell_type])
        train = obs[(obs["cell_type"] == cell_type) & (obs["split"] == "train") & (obs["perturbation"] != "control")]
        expected = np.mean([means[name].loc[cell_type] for name in train["perturbation"].unique()], axis=0)
        np.testing.assert_allclose(one.perturbed, expected)
        effect = np.abs(one.true - one.reference)
        assert set(one.de_genes) == set(np.argsort(-effect)[:20])
        np.testing.assert_allclose(one.centroids[one.own], one.true)
        assert len(one.others) == len(one.centroids) - 1
        assert not (one.others == one.true).all(axis=1).any()


def test_genes_without_signal_get_no_weight_from_the_truth(adata):
    """A gene that no cell shows must not own the weights, however small its spread."""
    truth = sgv.datasets.truth(adata)
    silent = adata.copy()
    values = silent.X.toarray()
    values[:, 0] = 0
    silent.X = values
    for one in conditions_of(silent, truth):
        assert one.weights.sum() == pytest.approx(1)
        assert 1 / (one.weights**2).sum() > 3, "effective number of genes"


def test_permuting_held_out_cells_leaves_references_alone(adata):
    """Neither references nor the means of other treatments look at held-out cells of the condition."""
    changed = adata.copy()
    values = changed.X.toarray()
    values[(adata.obs["split"] == "ood").to_numpy()] += 1.0
    changed.X = values
    for before, after in zip(conditions_of(adata), conditions_of(changed), strict=True):
        np.testing.assert_array_equal(before.reference, after.reference)
        np.testing.assert_array_equal(before.perturbed, after.perturbed)
        np.testing.assert_allclose(after.true, before.true + 1, atol=1e-5)


def test_validation_cells_can_be_the_truth(adata):
    obs = adata.obs
    conditions = conditions_of(adata, split="test")
    treated = (obs["perturbation"] != "control") & (obs["split"] == "test")
    assert sum(one.held_out.size for one in conditions) == treated.sum()
    one = conditions[0]
    assert (obs["split"].iloc[one.held_out] == "test").all()
    np.testing.assert_allclose(one.true, adata.X.toarray()[one.held_out].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("split", ["ood", "test"])
@pytest.mark.parametrize("source", ["control", "all", "treatment"])
def test_no_prediction_starts_from_the_truth(adata, split, source):
    obs = adata.obs
    source = (
        obs.loc[obs["split"] == "test", "perturbation"].value_counts().index[0] if source == "treatment" else source
    )
    screen, _ = resolve(sgv.baselines.NoChange(adata, **SETUP), None, None, None, None, None, 0)
    wanted = (obs["perturbation"] == source) if source != "all" else obs["perturbation"].notna()
    expected = wanted & (obs["split"] != "ood") & ~((obs["split"] == split) & (obs["perturbation"] != "control"))
    np.testing.assert_array_equal(starting_cells(screen, split, source), expected)
    for one in held_out_conditions(screen, split, source, None, 20, 5)[0]:
        assert (
            np.intersect1d(
                one.sources, np.flatnonzero((obs["split"] == split) & (obs["perturbation"] != "control"))
            ).size
            == 0
        )
        here = (obs["cell_type"] == one.levels["cell_type"]).to_numpy()
        np.testing.assert_array_equal(one.sources, np.flatnonzero(expected.to_numpy() & here))


def test_labels_say_how_many_treatments_are_behind_the_reference(adata):
    obs = adata.obs
    for one in conditions_of(adata):
        train = (obs["cell_type"] == one.levels["cell_type"]) & (obs["split"] == "train")
        treatments = set(obs.loc[train, "perturbation"]) - {"control"}
        assert one.labels["n_reference"] == len(treatments)
