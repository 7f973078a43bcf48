"""Estimates of memory: against the sizes of what is really allocated, and against a measured peak."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest

import scgraphvci as sgv
from scgraphvci.estimate import EffectSums
from scgraphvci.model._effect_cells import effect_cells
from scgraphvci.model._memory import _effects, _screen, _training

KEYS = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}


@pytest.fixture
def registered(screen):
    sgv.GraphVCI.setup_anndata(screen, combination_sep="+", grn_key="grn", **KEYS)
    return screen


def parts_of(adata, **model_kwargs):
    """A model, what is known of its data, and the parts of its training."""
    model = sgv.GraphVCI(adata, **model_kwargs)
    screen = _screen(model.adata_manager)
    return model, screen, _training(screen, model.module, 64)


def test_a_row_for_each_stage_the_data_are_registered_for(registered):
    table = sgv.estimate_memory(registered)
    assert table.index.tolist() == ["expression", "training", "effects", "refinement"]
    assert table.loc["expression", "bytes"] == registered.X.nbytes
    assert (table["bytes"] > 0).all()
    np.testing.assert_allclose(table["GiB"], table["bytes"] / 2**30, atol=1e-3)


def test_data_of_the_refiner_alone_have_its_row_alone(screen):
    sgv.GRNRefiner.setup_anndata(screen, grn_key="grn", **KEYS)
    assert sgv.estimate_memory(screen).index.tolist() == ["expression", "refinement"]


def test_without_a_network_nothing_is_refined(screen):
    sgv.GraphVCI.setup_anndata(screen, combination_sep="+", **KEYS)
    assert sgv.estimate_memory(screen).index.tolist() == ["expression", "training", "effects"]


def test_expression_in_a_file_takes_no_memory(registered, tmp_path):
    registered.write_h5ad(tmp_path / "screen.h5ad")
    backed = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")
    sgv.GraphVCI.setup_anndata(backed, combination_sep="+", grn_key="grn", **KEYS)
    assert sgv.estimate_memory(backed).loc["expression", "bytes"] == 0
    backed.file.close()


@pytest.mark.parametrize("kwargs", [{}, {"preset": "paper"}, {"n_hidden": 32, "decoder": "attention"}])
def test_weights_are_those_of_the_module(registered, kwargs):
    model, _, parts = parts_of(registered, **kwargs)
    tensors = [*model.module.parameters(), *model.module.buffers()]
    assert parts["weights"] == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_tables_are_those_of_the_moments(registered):
    model, screen, parts = parts_of(registered)
    moments = model._moments(model._registered_cells(), np.flatnonzero(registered.obs["split"] == "train"))
    assert screen.n_pairs == len(moments.n_cells)
    assert parts["tables"] == moments.mean.nbytes + moments.variance.nbytes


@pytest.mark.parametrize("cluster_key", [None, "donor"])
def test_sums_of_effects_are_those_gathered(registered, cluster_key):
    model, screen, _ = parts_of(registered)
    groups = effect_cells(model, registered, None, cluster_key).groups
    sums = EffectSums(groups, registered.n_vars)
    parts = _effects(screen, model, model.adata_manager, 2, cluster_key)
    if cluster_key is None:  # random blocks: a few of many may hold no cell of a stratum
        assert parts["sums over cells"] == pytest.approx(2 * (sums.first.nbytes + sums.second.nbytes), rel=0.1)
    else:
        assert parts["sums over cells"] == 2 * (sums.first.nbytes + sums.second.nbytes)


def test_more_takes_more(registered):
    few = sgv.estimate_memory(registered, batch_size=32, n_treatments=1)["bytes"]
    many = sgv.estimate_memory(registered, batch_size=100_000, n_treatments=3, refiner_kwargs={"candidates": "all"})
    assert (many["bytes"][["training", "effects"]] > few[["training", "effects"]]).all()
    assert many.loc["refinement", "bytes"] >= few["refinement"]
    assert many.loc["training", "most_of_it"] == "training steps"


def test_data_must_be_registered(screen):
    with pytest.raises(ValueError, match="not registered"):
        sgv.estimate_memory(screen)


def test_cluster_key_must_exist(registered):
    with pytest.raises(KeyError, match="no_such"):
        sgv.estimate_memory(registered, cluster_key="no_such")


MEASURE = """
import gc, json, sys
from pathlib import Path
import torch
import scgraphvci as sgv

def size(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))

def train(n_cells, n_genes):
    adata = sgv.datasets.simulate(n_cells=n_cells, n_genes=n_genes, n_perturbations=10, seed=0)
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, estimate = size("VmRSS"), sgv.estimate_memory(adata)
    model = sgv.GraphVCI(adata)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, limit_train_batches=2)
    return {"measured": size("VmHWM") - before, "estimated": int(estimate.loc["training", "bytes"])}

torch.set_num_threads(1)
train(200, 50)  # what is loaded with the first model
print(json.dumps(train(4000, 1500)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks can be reset on Linux")
def test_training_takes_what_was_estimated():
    run = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.strip().splitlines()[-1])
    assert found["estimated"] == pytest.approx(found["measured"], rel=0.3)
