from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgraphvci.grn import GRNReport, add_grn, get_grn


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.AnnData(np.ones((3, 4), dtype=np.float32), var=pd.DataFrame(index=["A", "B", "C", "D"]))


@pytest.fixture
def net() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": ["A", "A", "B", "B", "X", "C", "C"],
            "target": ["B", "B", "C", "B", "A", "Y", "B"],
            "weight": [0.5, -2.0, 1.0, 3.0, 1.0, 1.0, 0.0],
        }
    )


def test_matrix_and_report(adata: ad.AnnData, net: pd.DataFrame) -> None:
    report = add_grn(adata, net)
    expected = np.zeros((4, 4))
    expected[0, 1], expected[1, 2], expected[1, 1] = -2.0, 1.0, 3.0
    np.testing.assert_array_equal(adata.varp["grn"].toarray(), expected)
    assert adata.varp["grn"].dtype == np.float32 and adata.varp["grn"].format == "csr"
    assert report == GRNReport(
        edges_in=7,
        edges_kept=3,
        duplicates_merged=1,
        sign_conflicts=1,
        zero_weights=1,
        self_loops=1,
        genes_missing=("X", "Y"),
        edges_missing=2,
        isolated_genes=1,
    )
    assert "3 of 7 edges kept" in repr(report) and "X, Y" in repr(report)


def test_missing_genes_are_told(adata: ad.AnnData, net: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    add_grn(adata, net)
    assert "2 of 7 edges not written: 2 genes of the network are not in the data, such as X, Y." in caplog.text
    assert list(adata.var_names) == ["A", "B", "C", "D"]


def test_signs_are_written_into_weights(adata: ad.AnnData) -> None:
    net = pd.DataFrame({"source": ["A", "B", "C"], "target": ["B", "C", "D"], "weight": [2.0, 3.0, -0.5]})
    report = add_grn(adata, net.assign(sign=[1, -1, -1]))
    assert get_grn(adata)["weight"].tolist() == [2.0, -3.0, -0.5]
    assert report.sign_conflicts == 0
    with pytest.raises(ValueError, match="unknown, first '0'"):
        add_grn(adata, net.assign(sign=0))
    with pytest.raises(ValueError, match="negative where the sign is"):
        add_grn(adata, net.assign(sign=1))
    both = pd.concat([net.assign(sign=[1, -1, -1]), net.head(2).assign(sign=[-1, -1], weight=1.0)])
    assert add_grn(adata, both).sign_conflicts == 1


def test_round_trip_and_default_weight(adata: ad.AnnData) -> None:
    add_grn(adata, pd.DataFrame({"source": ["B", "A"], "target": ["C", "D"]}), key_added="other")
    frame = get_grn(adata, "other")
    assert frame.to_dict("list") == {"source": ["A", "B"], "target": ["D", "C"], "weight": [1.0, 1.0]}
    add_grn(adata, frame)
    assert (adata.varp["grn"] != adata.varp["other"]).nnz == 0


def test_survives_file_and_gene_subset(adata: ad.AnnData, net: pd.DataFrame, tmp_path) -> None:
    add_grn(adata, net)
    add_grn(adata, net.iloc[:2], key_added="nothing_missing")
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert back.uns["grn"]["report"]["edges_kept"] == 3
    assert list(back.uns["grn"]["report"]["genes_missing"]) == ["X", "Y"]
    pd.testing.assert_frame_equal(get_grn(back), get_grn(adata))
    assert get_grn(back[:, ["B", "A"]])[["source", "target"]].to_numpy().tolist() == [["B", "B"], ["A", "B"]]


def test_copy_leaves_the_original(adata: ad.AnnData, net: pd.DataFrame) -> None:
    written = add_grn(adata, net, copy=True)
    assert "grn" in written.varp and "grn" not in adata.varp and "grn" not in adata.uns


def test_get_grn_marks_prior_edges(adata: ad.AnnData, net: pd.DataFrame) -> None:
    add_grn(adata, net)
    adata.varp["new"] = sparse.csr_matrix(([0.9, 0.8], ([0, 3], [1, 0])), shape=(4, 4))
    adata.uns["new"] = {"params": {"grn_key": "grn"}}
    assert get_grn(adata, "new")["in_prior"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda n: n.drop(columns="target"), KeyError, "no column \\['target'\\]"),
        (lambda n: n.assign(weight=np.nan), ValueError, "7 weights of `net` are NaN or infinite, first that of A -> B"),
        (lambda n: n.assign(weight=np.inf), ValueError, "NaN or infinite"),
        (lambda n: n.assign(weight="high"), TypeError, "not numeric"),
        (lambda n: n.assign(source=None), ValueError, "7 rows of `net` have no source or target"),
        (lambda n: n.iloc[:0], ValueError, "no edges"),
        (lambda n: n[n["source"] == n["target"]], ValueError, "only self-loops"),
        (lambda n: n.assign(source=n["source"] + "1"), ValueError, "No edge of `net` joins two genes"),
        (
            lambda n: n.assign(source=n["source"].str.lower()),
            ValueError,
            "case and versions .* are ignored, such as a for A",
        ),
        (lambda n: n.to_dict(), TypeError, "must be a data frame"),
    ],
)
def test_bad_networks(adata: ad.AnnData, net: pd.DataFrame, change, error, match) -> None:
    with pytest.raises(error, match=match):
        add_grn(adata, change(net))
    assert not adata.varp and not adata.uns


def test_bad_data(adata: ad.AnnData, net: pd.DataFrame) -> None:
    with pytest.raises(TypeError, match="Expected an AnnData, got DataFrame"):
        add_grn(net, net)
    with pytest.raises(KeyError, match="add_grn"):
        get_grn(adata, "grn")
    adata.var_names = ["A", "A", "B", "C"]
    with pytest.raises(ValueError, match="not unique, such as \\['A'\\]"):
        add_grn(adata, net)
