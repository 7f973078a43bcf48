from __future__ import annotations

import pytest

from scgraphvci.grn._motifs import regulators_of


@pytest.mark.parametrize(
    ("motif", "regulators"),
    [
        ("STAT1", ["STAT1"]),
        ("MA0137.3.STAT1", ["STAT1"]),
        ("MA0137.3_STAT1", ["STAT1"]),
        ("MA0099.3.FOS::JUN", ["FOS", "JUN"]),
        ("MA0050.1 RXRA(var.2)", ["RXRA"]),
        ("NKX2-5", ["NKX2-5"]),
        ("ZNF1.2", ["ZNF1.2"]),
    ],
)
def test_regulators_of_a_name(motif: str, regulators: list[str]) -> None:
    assert regulators_of(motif) == regulators
