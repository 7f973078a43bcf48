from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scgraphvci.grn._frame import check_genes, read_edges, read_table, tidy


@pytest.mark.parametrize(
    ("signs", "expected"),
    [([1, -1, 1], [1, -1, 1]), ([1.0, -1.0, -1.0], [1, -1, -1]), (["+", "-", "+1"], [1, -1, 1])],
)
def test_signs_in_all_spellings(signs, expected) -> None:
    net = pd.DataFrame({"source": ["A", "B", "C"], "target": ["B", "C", "D"], "weight": [2, 3, 4], "sign": signs})
    found = tidy(net, signs=True)
    assert found["sign"].tolist() == expected and found["sign"].dtype == np.int64
    assert found["weight"].dtype == np.float64
    assert list(tidy(net)) == ["source", "target", "weight"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sign": [1, 0, 1]}, r"1 signs of `net` are unknown, first '0' of B -> C. Allowed"),
        ({"sign": [np.nan, 1, 1]}, "first 'nan' of A -> B"),
        ({"sign": ["activates", "represses", "+"]}, "2 signs of `net` are unknown, first 'activates'"),
        ({"sign": [1, 1, 1], "weight": [1, 1, -2]}, "1 weights of `net` are negative where the sign is .*C -> D"),
    ],
)
def test_bad_signs(change, match) -> None:
    net = pd.DataFrame({"source": ["A", "B", "C"], "target": ["B", "C", "D"], "weight": 1.0}).assign(**change)
    with pytest.raises(ValueError, match=match):
        tidy(net, signs=True)


@pytest.mark.parametrize(
    "peak", ["chr1:100-600", "chr1_100_600", "chrX-1002-2003", "chrUn_KI270742v1:100-600", "1:999-1200"]
)
def test_peaks_are_no_genes(peak) -> None:
    with pytest.raises(ValueError, match="1 sources of `net` look like genomic regions"):
        read_edges(pd.DataFrame({"source": ["A", peak], "target": ["B", "B"]}), "net")


def test_more_regulators_than_targets_are_told(known_net: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    read_edges(known_net, "net")
    assert not caplog.text
    read_edges(known_net.rename(columns={"source": "target", "target": "source"}), "net")
    n_targets = known_net["target"].nunique()
    assert f"{n_targets} regulators of {known_net['source'].nunique()} targets" in caplog.text


def test_gene_names_with_digits_and_dashes_are_genes() -> None:
    names = [
        "HLA-DRB1",
        "RP11-34P13.7",
        "NKX2-1",
        "KRTAP10-5",
        "MT-ND1",
        "AC010.1",
        "CHR1",
        "Y_RNA",
        "7SK",
        "H2-Q10",
        "1-Dec",
    ]
    check_genes(names, "sources", "net")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", lambda t, p: t.to_csv(p, index=False)),
        ("a.tsv.gz", lambda t, p: t.to_csv(p, index=False, sep="\t")),
        ("a.txt", lambda t, p: t.to_csv(p, index=False, sep="\t")),
    ],
)
def test_files_by_ending(tmp_path: Path, known_net: pd.DataFrame, name, write) -> None:
    write(known_net, tmp_path / name)
    pd.testing.assert_frame_equal(read_table(tmp_path / name, "net"), known_net, check_dtype=False)
    pd.testing.assert_frame_equal(read_table(str(tmp_path / name), "net"), known_net, check_dtype=False)


def test_bad_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\.xlsx' must end in \.csv"):
        read_table(tmp_path / "a.xlsx", "net")
    with pytest.raises(TypeError, match="got list"):
        read_table([1, 2], "net")
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "a.csv", "net")
