"""Names and kinds of weights are a file format."""

from __future__ import annotations

import pytest
import torch

import scgraphvci as sgv

BASELINE = {
    *("baseline.intercept", "baseline.shift", "baseline.interaction", "baseline.heterogeneity"),
    *("baseline.deviation", "baseline.deviation_covariate", "baseline.dose_response"),
    *("baseline.offset_0", "baseline.offset_1", "baseline.features_0", "baseline.features_1", "gain.weight"),
}
COMMON = {
    *("library_size", "input_mean", "within_scale", "gene_dispersion", "treatment_embedding.weight"),
    *("covariates.embeddings.0.weight", "covariates.embeddings.1.weight"),
    *("encoder.outcome.weight", "encoder.outcome.bias"),
    *("encoder.mlp.fc_layers.Layer 0.0.weight", "encoder.mlp.fc_layers.Layer 0.0.bias"),
    *("encoder.mlp.fc_layers.Layer 1.0.weight", "encoder.mlp.fc_layers.Layer 1.0.bias"),
    *("encoder.mean.weight", "encoder.mean.bias", "encoder.scale.weight", "encoder.scale.bias"),
    *BASELINE,
    *("decoder.mlp.fc_layers.Layer 0.0.weight", "decoder.mlp.fc_layers.Layer 0.0.bias"),
    *("decoder.mlp.fc_layers.Layer 1.0.weight", "decoder.mlp.fc_layers.Layer 1.0.bias"),
}
GRAPH = {
    *("graph.embedding", "graph.gates", "graph.convolutions.0.bias", "graph.convolutions.0.lin.weight"),
}
DOT = {"decoder.heads.0.gene_score.weight"}
ATTENTION = {*DOT, "decoder.heads.0.cell_score.weight", "decoder.heads.0.cell_score.bias"}
LINEAR = {"decoder.heads.0.map.weight"}


def build(new_screen, setup=None, **kwargs):
    adata = new_screen(n_cells=100)
    arguments = {"categorical_covariate_keys": ["cell_type", "donor"], "grn_key": "grn", **(setup or {})}
    sgv.GraphVCI.setup_anndata(adata, **arguments)
    return sgv.GraphVCI(adata, **kwargs)


@pytest.mark.parametrize(
    ("setup", "kwargs", "expected"),
    [
        ({}, {}, COMMON | GRAPH | DOT),
        ({}, {"decoder": "attention"}, COMMON | GRAPH | ATTENTION),
        ({"grn_key": None}, {}, COMMON | LINEAR),
        ({}, {"response_gain": False}, (COMMON | GRAPH | DOT) - {"gain.weight"}),
        ({}, {"propagation": "graph"}, COMMON | GRAPH | DOT),
        ({}, {"propagation": "none"}, COMMON | GRAPH | DOT),
        ({}, {"baseline": False}, (COMMON | GRAPH | DOT) - BASELINE),
        (
            {},
            {"dispersion": "gene-cell"},
            (COMMON | GRAPH | DOT | {"decoder.heads.1.gene_score.weight"}) - {"gene_dispersion"},
        ),
        ({"layer": "counts"}, {"likelihood": "zinb"}, COMMON | GRAPH | DOT | {"decoder.heads.1.gene_score.weight"}),
        ({"layer": "counts"}, {"distribution_loss": "adversarial", "likelihood": "nb"}, COMMON | GRAPH | DOT),
    ],
    ids=["default", "attention", "vci", "no gain", "graph", "none", "no baseline", "gene-cell", "zinb", "adversarial"],
)
def test_names_of_weights(new_screen, setup, kwargs, expected):
    """A change here breaks saved models: give it a migration in `on_load`, and freeze a checkpoint of the old kind."""
    model = build(new_screen, setup, **kwargs)
    assert set(model.module.state_dict()) == expected


def test_training_adds_no_weights(fitted):
    assert set(fitted.module.state_dict()) == COMMON | GRAPH | DOT


def test_every_buffer_and_weight_is_dense(new_screen):
    model = build(new_screen, decoder="attention")
    tensors = {**dict(model.module.named_buffers()), **dict(model.module.named_parameters())}
    assert {"graph.edge_index", "graph.edge_weight", "design", "strata"} <= set(tensors)
    for name, tensor in tensors.items():
        assert tensor.layout is torch.strided, name


def test_what_the_registry_holds_is_not_saved_twice(new_screen):
    """Tables that follow from the registry may grow with new data, so they stay out of the state."""
    saved = set(build(new_screen).module.state_dict())
    assert not saved & {"design", "strata", "graph.edge_index", "graph.edge_weight", "graph.features"}
