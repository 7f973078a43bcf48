from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgraphvci.data._edge_evidence import CONTROL, OTHER
from scgraphvci.data._intervention_field import InterventionField


@pytest.fixture
def adata() -> ad.AnnData:
    obs = pd.DataFrame({"treatment": ["none", "B", "A+B", "drug", "A"]}, index=list("vwxyz"))
    return ad.AnnData(np.ones((5, 3)), obs=obs, var=pd.DataFrame(index=list("ABC")))


def test_codes(adata: ad.AnnData) -> None:
    state = InterventionField("treatment", "none").register_field(adata)
    assert adata.obs["_scgraphvci_intervention"].tolist() == [CONTROL, 1, OTHER, OTHER, 0]
    assert state == {"perturbation_key": "treatment", "control": "none"}


def test_control_named_as_a_gene_is_control(adata: ad.AnnData) -> None:
    InterventionField("treatment", "A").register_field(adata)
    assert adata.obs["_scgraphvci_intervention"].tolist() == [OTHER, 1, OTHER, OTHER, CONTROL]


def test_no_key_registers_nothing() -> None:
    assert InterventionField(None).is_empty


@pytest.mark.parametrize(
    ("key", "control", "error", "match"),
    [
        ("nothing", "none", KeyError, "`perturbation_key`: column 'nothing' not found"),
        ("treatment", "control", ValueError, "Control 'control' has no cells in obs\\['treatment'\\]. Set `control`"),
    ],
)
def test_bad_columns(adata: ad.AnnData, key: str, control: str, error, match: str) -> None:
    with pytest.raises(error, match=match):
        InterventionField(key, control).register_field(adata)
    assert list(adata.obs) == ["treatment"]


def test_treatments_that_name_no_gene_are_told(caplog):
    adata = ad.AnnData(np.ones((3, 2)), var=pd.DataFrame(index=["IRF1", "STAT1"]))
    adata.obs["guide"] = ["control", "sgIRF1", "sgSTAT1"]
    field = InterventionField("guide")
    with caplog.at_level("WARNING"):
        field.register_field(adata)
    assert "No treatment in obs['guide'] is the name of a gene of the data" in caplog.text
    assert "'sgIRF1', 'sgSTAT1'" in caplog.text
