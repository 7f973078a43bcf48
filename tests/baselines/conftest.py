"""Small screens and a factory of trained comparison models, shared by the tests of this folder."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scvi

import scgraphvci as sgv

SETUP = {"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split"}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": None, "enable_model_summary": False}


def fit_model(cls, adata, max_epochs=2, setup=None, train=None, seed=0, **kwargs):
    """Set up and train a small model."""
    cls.setup_anndata(adata, **{**SETUP, **(setup or {})})
    before = scvi.settings.seed
    scvi.settings.seed = seed
    model = cls(adata, **{"n_hidden": 64, "n_latent": 8, **kwargs})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of training batches")
        model.train(max_epochs, **{**QUIET, **(train or {})})
    scvi.settings.seed = before
    return model


@pytest.fixture(scope="session")
def fit():
    """Factory of trained models."""
    return fit_model


@pytest.fixture(scope="session")
def learnable():
    """A screen with effects that 40 epochs suffice to learn. Not to be changed."""
    return sgv.datasets.simulate(n_cells=1500, n_genes=60, n_perturbations=5, n_cell_types=3, n_donors=2, seed=0)


@pytest.fixture(scope="session")
def scores(learnable):
    """Scores of a model on that screen: `shift` (Pearson, held-out pairs) and `individuality`."""
    truth = sgv.datasets.truth(learnable)
    obs = learnable.obs
    strata = obs["cell_type"].astype(str) + "|" + obs["donor"].astype(str)

    def score(model):
        shift, own = [], []
        for treatment in obs["perturbation"].cat.categories.drop("control"):
            held_out = obs[(obs["perturbation"] == treatment) & (obs["split"] == "ood")]
            control = ((obs["perturbation"] == "control") & (obs["split"] == "train")).to_numpy()
            predicted = np.asarray(model.predict(treatment, indices=np.flatnonzero(control)).X)
            true = truth.counterfactual_mean(treatment, indices=np.flatnonzero(control))
            base = truth.counterfactual_mean("control", indices=np.flatnonzero(control))
            for cell_type in held_out["cell_type"].unique():
                rows = (obs["cell_type"] == cell_type).to_numpy()[control]
                means = [values[rows].mean(axis=0) for values in (true, predicted, base)]
                shift.append(sgv.metrics.pearson_shift(*means))
            group = strata.to_numpy()[control]
            deviations = [
                np.concatenate([v[group == s] - v[group == s].mean(axis=0) for s in np.unique(group)])
                for v in (predicted, np.asarray(true))
            ]
            own.append(np.corrcoef(*[d.ravel() for d in deviations])[0, 1])
        return {"shift": float(np.mean(shift)), "individuality": float(np.mean(own))}

    return score
