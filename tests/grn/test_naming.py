from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgraphvci.grn import add_grn
from scgraphvci.grn._naming import naming_hint

HUMAN, MOUSE = ["STAT1", "IRF1", "GBP2", "C9ORF72"], ["Stat1", "Irf1", "Gbp2", "C9orf72"]
ENSEMBL = ["ENSG00000115415", "ENSG00000125347", "ENSMUSG00000028270"]
VERSIONED = [f"{name}.{i}" for i, name in enumerate(ENSEMBL, start=7)]


@pytest.mark.parametrize(
    ("named", "genes", "expected"),
    [
        (
            HUMAN,
            MOUSE,
            "4 more names agree when case .* such as STAT1 for Stat1, IRF1 for Irf1, GBP2 for Gbp2. .*mouse",
        ),
        (HUMAN[:3] + ["MYC"], MOUSE[:3] + ["MYC"], "3 more names agree"),
        (HUMAN[:1] + ["MYC"], MOUSE[:1] + ["MYC"], "1 more names agree"),  # as many as agree now
        ([f"G{i}" for i in range(99)] + HUMAN[:3], MOUSE[:3], "3 more names agree"),  # most are in no data anyway
        (VERSIONED, ENSEMBL, "3 more names agree .* such as ENSG00000115415.7 for ENSG00000115415"),
        (ENSEMBL, HUMAN, r"of the network are Ensembl identifiers \(ENSG00000115415\), most of the data .*\(STAT1\)"),
        (HUMAN, VERSIONED + ["MYC"], r"of the data are Ensembl identifiers \(ENSG00000115415.7\), most of the network"),
    ],
)
def test_hints(named, genes, expected) -> None:
    hint = naming_hint(pd.Index(named), pd.Index(genes))
    assert hint.startswith(" ") and pd.Series([hint]).str.contains(expected, regex=True).all(), hint


@pytest.mark.parametrize(
    ("named", "genes"),
    [
        (HUMAN, HUMAN),
        (HUMAN, ["A", "B"]),
        (HUMAN, [*HUMAN[:3], "C9orf72"]),  # one that differs beside three that agree
        (["RP11-34P13.7", "AL590764.1"], ["RP11-34P13.8", "AL590764.2"]),  # dots that are no versions
        (VERSIONED, ENSEMBL[:1] + VERSIONED),
    ],
)
def test_no_hint_where_names_are_simply_missing(named, genes) -> None:
    assert naming_hint(pd.Index(named), pd.Index(genes)) == ""


def test_hint_in_warning_and_error(caplog: pytest.LogCaptureFixture) -> None:
    net = pd.DataFrame({"source": ["STAT1", "IRF1", "MYC"], "target": ["IRF1", "GBP2", "TP53"]})
    adata = ad.AnnData(np.ones((2, 5)), var=pd.DataFrame(index=[*MOUSE[:3], "MYC", "TP53"]))
    assert add_grn(adata, net).edges_kept == 1
    assert "2 of 3 edges not written: 3 genes" in caplog.text and "such as STAT1 for Stat1" in caplog.text
    with pytest.raises(ValueError, match="joins two genes .* 3 more names agree"):
        add_grn(adata[:, :3].copy(), net)
    ensembl = ad.AnnData(np.ones((2, 3)), var=pd.DataFrame(index=ENSEMBL))
    with pytest.raises(ValueError, match="Ensembl identifiers .ENSG00000115415., most of the network are symbols"):
        add_grn(ensembl, net)
