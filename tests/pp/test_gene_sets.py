from __future__ import annotations

import gzip
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgraphvci.pp import gene_set_features

SETS = {
    "interferon": ["A", "B", "C", "X", "A"],
    "cycle": ["C", "D", "E", "F"],
    "stress": ["A", "F"],
    "elsewhere": ["X", "Y"],
    "hypoxia": ["B", "D", "E", "G"],
}
GENES = list("ABCDEFGH")


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.AnnData(np.ones((2, 8), dtype=np.float32), var=pd.DataFrame(index=GENES))


def expected(n: int) -> np.ndarray:
    """Left singular vectors times singular values of the membership matrix, columns scaled to unit length."""
    member = np.array([[gene in SETS[name] for name in SETS if name != "elsewhere"] for gene in GENES], dtype=float)
    left, singular, _ = np.linalg.svd(member / np.linalg.norm(member, axis=0), full_matrices=False)
    features = left[:, :n] * singular[:n]
    return features * np.sign(features[np.abs(features).argmax(axis=0), np.arange(n)])


def as_frame(_: Path) -> pd.DataFrame:
    pairs = [(name, gene) for name, genes in SETS.items() for gene in genes]
    return pd.DataFrame(pairs, columns=["source", "target"]).assign(weight=1.0)


def as_gmt(folder: Path, *, compressed: bool = False) -> Path:
    text = "".join(f"{name}\ta set, with spaces\t" + "\t".join(genes) + "\r\n" for name, genes in SETS.items()) + "\n"
    path = folder / ("sets.gmt.gz" if compressed else "sets.gmt")
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    return path


FORMS = {
    "dict": lambda _: SETS,
    "frame": as_frame,
    "gmt": as_gmt,
    "gmt.gz as text": lambda folder: str(as_gmt(folder, compressed=True)),
}


@pytest.mark.parametrize("form", FORMS)
def test_decomposition_of_memberships(adata: ad.AnnData, form: str, tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert gene_set_features(adata, FORMS[form](tmp_path), 3) is None
    np.testing.assert_allclose(adata.varm["gene_features"], expected(3), atol=1e-5)
    assert adata.varm["gene_features"].dtype == np.float32
    assert "1 of 8 genes have no features and got zeros: H." in caplog.text
    adata.write_h5ad(tmp_path / "a.h5ad")
    written = ad.read_h5ad(tmp_path / "a.h5ad").uns["gene_features"]
    assert written["params"] == {"source": "gene sets", "n_sets": 5, "n_sets_used": 4, "seed": 0}
    assert list(written["report"]["genes_missing"]) == ["H"]
    assert np.all(adata.varm["gene_features"][7] == 0)


def test_seed_and_copy() -> None:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(np.ones((2, 60), dtype=np.float32), var=pd.DataFrame(index=[f"g{i}" for i in range(60)]))
    sets = {f"s{k}": rng.choice(adata.var_names, 8, replace=False) for k in range(40)}
    one, again, other = (gene_set_features(adata, sets, 4, seed=s, copy=True).varm["gene_features"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_allclose(np.linalg.norm(one, axis=0), np.linalg.norm(other, axis=0), rtol=0.02)
    assert not adata.varm and not adata.uns


@pytest.mark.parametrize(
    ("sets", "n", "error", "match"),
    [
        (SETS, 5, ValueError, "n_features=5 must lie between 1 and 4, given 8 genes and 4 sets with genes of the data"),
        (SETS, 0, ValueError, "n_features=0"),
        ({"one": "STAT1"}, 1, TypeError, "Set 'one' is the string 'STAT1'"),
        ([["A", "B"]], 1, TypeError, "mapping from set to genes"),
        ({"one": ["X"]}, 1, ValueError, r"No gene of `adata`, such as \['A', 'B', 'C'\], is in a set, .*\['X'\]"),
        ({"one": ["a"]}, 1, ValueError, "case is ignored"),
        ({}, 1, ValueError, "No gene of `adata`"),
        (pd.DataFrame({"set": ["x"], "target": ["A"]}), 1, KeyError, r"no column \['source'\]"),
        (pd.DataFrame({"source": ["x"], "target": [None]}), 1, ValueError, "1 rows of `sets`"),
        ("none.gmt", 1, FileNotFoundError, "none.gmt"),
    ],
)
def test_bad_sets(adata: ad.AnnData, sets, n, error, match) -> None:
    with pytest.raises(error, match=match):
        gene_set_features(adata, sets, n)
    assert not adata.varm and not adata.uns


def test_a_file_that_is_not_gmt(adata: ad.AnnData, tmp_path: Path) -> None:
    path = tmp_path / "bad.gmt"
    path.write_text("one\tdescription\tA\ntwo A B\n")
    with pytest.raises(ValueError, match="Line 2 of .*bad.gmt is not GMT"):
        gene_set_features(adata, path, 1)
