"""Every constructor argument survives saving, for the model and for a subclass."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import scgraphvci as sgv
from scgraphvci.module import GraphVCIModule

# One value other than the default for every argument that a user may give.
OTHER = {
    "likelihood": "nb",
    "dispersion": "gene-cell",
    "decoder": "attention",
    "distribution_loss": "gaussian",
    "distribution_target": "cell",
    "kernel_bandwidth": 0.7,
    "n_latent": 5,
    "n_outcome_embedding": 11,
    "n_hidden": 12,
    "n_layers": 1,
    "n_treatment_embedding": 6,
    "n_covariate_embedding": 3,
    "n_graph_hidden": 7,
    "n_graph_layers": 2,
    "graph_pooling": "sum",
    "dropout_rate": 0.2,
    "baseline": False,
    "propagation": "graph",
    "response_gain": False,
    "residual_input": False,
    "individual_weight": 0.5,
    "covariate_weight": 3.0,
    "divergence_weight": 0.4,
    "n_samples": 2,
}
FROM_REGISTRY = {
    *("self", "n_genes", "design", "strata", "n_levels", "n_continuous", "edge_index", "edge_weight", "gene_features")
}


class Subclass(sgv.GraphVCI):
    """What scvi-tools asks of a subclass with a constructor of its own."""

    def __init__(self, adata=None, registry=None, bonus=1, **kwargs):
        super().__init__(adata, registry, **kwargs)
        self.bonus = bonus
        self.init_params_ = self._get_init_params(locals())


def flat(init_params):
    """All recorded arguments, whichever way they were given."""
    found = dict(init_params["non_kwargs"])
    for group in init_params["kwargs"].values():
        found.update(group)
    return found


def test_the_table_names_every_argument():
    arguments = set(inspect.signature(GraphVCIModule.__init__).parameters) - FROM_REGISTRY
    assert set(OTHER) == arguments


@pytest.mark.parametrize("name", [*OTHER, "preset"])
def test_every_argument_comes_back(new_screen, tmp_path, name):
    value = {**OTHER, "preset": "paper"}[name]
    adata = new_screen(n_cells=120)
    sgv.GraphVCI.setup_anndata(adata, layer="counts" if name == "likelihood" else None, grn_key="grn")
    model = sgv.GraphVCI(adata, **{name: value})
    model.is_trained_ = True
    model.save(tmp_path / "m")
    loaded = sgv.GraphVCI.load(tmp_path / "m", adata=False)
    assert flat(loaded.init_params_)[name] == value
    assert loaded.init_params_ == model.init_params_
    shapes = [{key: weight.shape for key, weight in m.module.state_dict().items()} for m in (model, loaded)]
    assert shapes[0] == shapes[1]
    loaded.module.eval()
    model.module.eval()
    np.testing.assert_allclose(loaded.predict("control", adata=adata.copy()).X, model.predict("control").X, atol=1e-6)


def test_subclass_keeps_its_own_and_its_parents_arguments(new_screen, tmp_path):
    adata = new_screen(n_cells=120)
    Subclass.setup_anndata(adata, grn_key="grn")
    model = Subclass(adata, bonus=7, n_latent=3, likelihood="normal", decoder="attention")
    model.is_trained_ = True
    model.save(tmp_path / "m")
    loaded = Subclass.load(tmp_path / "m", adata.copy())
    assert loaded.bonus == 7
    assert loaded.get_latent_representation().shape == (120, 3)
    assert flat(loaded.init_params_) == {**flat(model.init_params_), "bonus": 7}


def test_defaults_are_recorded_as_given_not_as_resolved(fitted):
    """A later default may differ: a file must say what was asked for."""
    recorded = flat(fitted.init_params_)
    assert recorded["decoder"] is None
    assert recorded["n_latent"] == 4
    assert recorded["preset"] == "default"
