from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgraphvci.grn import read_matrix


@pytest.fixture
def matrix(known_net: pd.DataFrame) -> pd.DataFrame:
    """Regulators x genes, as Dictys exports it."""
    return known_net.pivot(index="source", columns="target", values="weight").fillna(0.0)


def test_dictys_round_trip(matrix: pd.DataFrame, known_net: pd.DataFrame, tmp_path) -> None:
    matrix.to_csv(tmp_path / "Subset1.tsv.gz", header=True, index=True, sep="\t")
    pd.testing.assert_frame_equal(read_matrix(tmp_path / "Subset1.tsv.gz", "source_rows"), known_net)


def test_both_orientations(matrix: pd.DataFrame, known_net: pd.DataFrame, ordered) -> None:
    pd.testing.assert_frame_equal(read_matrix(matrix, "source_rows"), known_net)
    pd.testing.assert_frame_equal(ordered(read_matrix(matrix.T, "target_rows")), known_net)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.coo_array, lambda m: m.astype(np.float32)])
def test_arrays_with_names(matrix: pd.DataFrame, known_net: pd.DataFrame, kind) -> None:
    names = {"row_names": list(matrix.index), "column_names": matrix.columns}
    found = read_matrix(kind(matrix.to_numpy()), "source_rows", **names)
    pd.testing.assert_frame_equal(found, known_net, rtol=1e-6)


def test_square_matrix_is_read_as_told(known_net: pd.DataFrame, ordered) -> None:
    genes = sorted(set(known_net["source"]) | set(known_net["target"]))
    square = known_net.pivot(index="source", columns="target", values="weight").reindex(index=genes, columns=genes)
    square = square.fillna(0.0)
    pd.testing.assert_frame_equal(ordered(read_matrix(square, "source_rows")), known_net)
    turned = ordered(read_matrix(square, "target_rows"))
    swapped = known_net.rename(columns={"source": "target", "target": "source"})[["source", "target", "weight"]]
    pd.testing.assert_frame_equal(turned, ordered(swapped))


@pytest.mark.parametrize(
    ("change", "arguments", "error", "match"),
    [
        (lambda m: m, ("target_rows",), ValueError, r"12 regulators of 5 targets.*orientation='source_rows'"),
        (lambda m: m.T, ("source_rows",), ValueError, "orientation='target_rows'"),
        (lambda m: m, ("rows",), ValueError, "orientation='rows' must be 'source_rows'"),
        (lambda m: m.where(m != 0), ("source_rows",), ValueError, "NaN or infinite, first that of G00"),
        (lambda m: m * 0, ("source_rows",), ValueError, "no edges"),
        (lambda m: m.reset_index(), ("source_rows",), TypeError, "not numbers .*index and columns"),
        (
            lambda m: m.set_axis(["G00"] * len(m)),
            ("source_rows",),
            ValueError,
            "Row names of `matrix` repeat, such as 'G00'",
        ),
        (
            lambda m: m.set_axis(["G00"] * m.shape[1], axis=1),
            ("source_rows",),
            ValueError,
            "Column names of `matrix` repeat",
        ),
        (lambda m: m.to_numpy(), ("source_rows",), TypeError, "An array has no names"),
        (lambda m: m.rename(index={"G00": "chr1:10-20"}), ("source_rows",), ValueError, "genomic regions"),
        (lambda m: [[1]], ("source_rows",), TypeError, "got list"),
    ],
)
def test_malformed(matrix: pd.DataFrame, change, arguments, error, match) -> None:
    with pytest.raises(error, match=match):
        read_matrix(change(matrix), *arguments)


def test_names_must_fit(matrix: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"shape \(5, \d+\), its names \(2, 1\)"):
        read_matrix(matrix.to_numpy(), "source_rows", row_names=["A", "B"], column_names=["C"])
    with pytest.raises(TypeError, match="names of a table are its index"):
        read_matrix(matrix, "source_rows", row_names=list(matrix.index))
