"""A frozen checkpoint of each released minor version still loads, and says the same."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scgraphvci as sgv

ROOT = Path(__file__).parents[1] / "data" / "checkpoints"
CHECKPOINTS = sorted(path.parent for path in ROOT.glob("v*/*/model.safetensors"))


def results(model):
    """What the script that froze the checkpoint wrote down."""
    spec = importlib.util.spec_from_file_location("make_checkpoints", ROOT / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make.expected(model)


def assert_as_frozen(model, directory):
    with np.load(directory / "expected.npz") as expected:
        found = results(model)
        assert set(found) == set(expected.files)
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_this_minor_version_is_frozen():
    major, minor = version("scgraphvci").split(".")[:2]
    assert any(path.parent.name.startswith(f"v{major}.{minor}.") for path in CHECKPOINTS)


@pytest.mark.parametrize("directory", CHECKPOINTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_frozen_checkpoint_loads(directory):
    assert_as_frozen(sgv.GraphVCI.load(directory), directory)
    new = ad.read_h5ad(directory / "adata.h5ad")
    for key in list(new.varp):
        del new.varp[key]
    loaded = sgv.GraphVCI.load(directory, adata=False)
    loaded.get_latent_representation(new)
    assert_as_frozen(loaded, directory)


@pytest.mark.parametrize("directory", CHECKPOINTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_frozen_checkpoint_trains_on(directory, quiet):
    model = sgv.GraphVCI.load(directory)
    epochs = len(model.history["train_loss"])
    model.train(max_epochs=1, **quiet)
    assert len(model.history["train_loss"]) == epochs + 1


def test_frozen_checkpoints_are_small():
    for version_directory in ROOT.glob("v*"):
        assert sum(path.stat().st_size for path in version_directory.rglob("*")) < 300_000
