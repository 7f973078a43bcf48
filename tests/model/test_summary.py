"""Summaries of models."""

from __future__ import annotations

import numpy as np
import pytest

import scgraphvci as sgv


@pytest.fixture(scope="module")
def adata():
    return sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=3, seed=0)


@pytest.mark.parametrize("cls", [sgv.GraphVCI, sgv.GRNRefiner])
def test_summary_before_and_after_training(adata, cls, tmp_path):
    cls.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn")
    model = cls(adata)
    before = model.summary()
    assert before["class"] == cls.__name__
    assert (before["cells"], before["vars"]) == adata.shape
    assert before["parameters"] == sum(np.prod(w.shape) for w in model.module.parameters() if w.requires_grad)
    assert "epochs" not in before
    model.train(max_epochs=3, accelerator="cpu", enable_progress_bar=False)
    after = model.summary()
    split = adata.obs["split"].value_counts()
    assert (after["training_cells"], after["validation_cells"]) == (split["train"], split["test"])
    assert after["epochs"] == 3
    if "validation_loss" in model.history:
        assert after["validation_loss"] == pytest.approx(model.history["validation_loss"].astype(float).min().iloc[0])
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", adata=adata, accelerator="cpu").summary()
    assert loaded.to_dict() == after.to_dict()


def test_a_model_says_what_it_is(adata, capsys):
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn")
    repr(sgv.GraphVCI(adata))  # scvi-tools prints it
    text = " ".join(capsys.readouterr().out.split())
    for words in ("GraphVCI with likelihood: normal", "genes: 40", "perturbations: 3", "Training status: Not Trained"):
        assert words in text
