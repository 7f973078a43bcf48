"""A saved folder is what `scvi.hub.HubModel` wraps."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
import scvi

import scgraphvci as sgv

huggingface_hub = pytest.importorskip("huggingface_hub")


def test_hub_model_of_a_saved_folder(trained, tmp_path):
    from scvi.hub import HubMetadata, HubModel

    folder = str(tmp_path / "model")
    trained.save(folder, save_anndata=True)
    metadata = HubMetadata(scvi.__version__, version("anndata"), "GraphVCI", model_parent_module="scgraphvci")
    HubModel(folder, metadata=metadata, model_card=huggingface_hub.ModelCard("# A screen")).save()

    again = HubModel(folder)
    assert isinstance(again.model, sgv.GraphVCI)
    assert again.model_card.text.strip() == "# A screen"
    treatment = trained.treatments.perturbations[0]
    np.testing.assert_array_equal(again.model.predict(treatment).X, trained.predict(treatment).X)
