from __future__ import annotations

import sys

import anndata as ad
import decoupler
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgraphvci as sgv
from scgraphvci.grn import (
    add_grn,
    get_grn,
    read_celloracle,
    read_net,
    read_networkx,
    to_celloracle,
    to_decoupler,
    to_frame,
    to_networkx,
)

GENES = [f"G{i:02d}" for i in range(12)]


@pytest.fixture
def adata(known_net: pd.DataFrame) -> ad.AnnData:
    adata = ad.AnnData(np.ones((3, 13), dtype=np.float32), var=pd.DataFrame(index=[*GENES, "alone"]))
    add_grn(adata, known_net)
    return adata


@pytest.fixture
def refined(adata: ad.AnnData, known_net: pd.DataFrame) -> ad.AnnData:
    """A refined network beside its prior: the first ten edges kept, one added, the others dropped."""
    genes = pd.Index(adata.var_names)
    kept = known_net[known_net["source"] != known_net["target"]].head(10)
    rows = [*genes.get_indexer(kept["source"]), 11]
    columns = [*genes.get_indexer(kept["target"]), 3]
    weight = np.linspace(0.3, 0.9, 11)
    adata.varp["new"] = sparse.csr_matrix((weight, (rows, columns)), shape=(13, 13))
    adata.varp["new_support"] = sparse.csr_matrix((np.r_[np.ones(10), 0.6], (rows, columns)), shape=(13, 13))
    adata.uns["new"] = {"params": {"grn_key": "grn"}}
    return adata


def close(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-6)


def test_networkx_round_trip(adata: ad.AnnData, known_net: pd.DataFrame, ordered) -> None:
    graph = to_networkx(adata)
    assert list(graph) == list(adata.var_names)
    assert nx.get_node_attributes(graph, "is_regulator")["G00"] and not graph.nodes["alone"]["is_regulator"]
    np.testing.assert_array_equal(nx.to_numpy_array(graph), adata.varp["grn"].toarray())
    close(ordered(read_networkx(graph)), known_net)
    close(ordered(read_networkx(to_networkx(known_net))), known_net)


def test_networkx_keeps_columns(refined: ad.AnnData) -> None:
    graph = to_networkx(to_frame(refined, "new"))
    assert graph.edges["G11", "G03"]["status"] == "added"
    assert graph.edges["G11", "G03"]["support"] == np.float32(0.6)
    assert set(to_networkx(pd.DataFrame({"source": ["A"], "target": ["B"]})).edges["A", "B"]) == {"weight"}


def test_decoupler_round_trip(adata: ad.AnnData, refined: ad.AnnData, known_net: pd.DataFrame) -> None:
    close(read_net(to_decoupler(adata)), known_net)
    signed = known_net.assign(weight=known_net["weight"].abs(), sign=np.sign(known_net["weight"]).astype(int))
    close(to_decoupler(signed), known_net)
    assert len(to_decoupler(to_frame(refined, "new"))) == 11  # not the dropped ones
    confident = get_grn(refined, "new").assign(status="dropped", weight=0.1)
    assert to_decoupler(confident).empty


def test_decoupler_accepts_it(adata: ad.AnnData, known_net: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    values = pd.DataFrame(rng.normal(size=(4, 12)), columns=GENES, index=[f"c{i}" for i in range(4)])
    found = decoupler.mt.ulm(values, to_decoupler(adata), tmin=2)[0]
    expected = decoupler.mt.ulm(values, known_net, tmin=2)[0]
    np.testing.assert_allclose(found, expected[found.columns], rtol=1e-5)
    assert len(found.columns) >= 4


def test_celloracle_round_trip(adata: ad.AnnData, known_net: pd.DataFrame, ordered) -> None:
    base = to_celloracle(adata, form="base")
    assert list(base.columns[:2]) == ["peak_id", "gene_short_name"]
    close(ordered(read_celloracle(base)), known_net.assign(weight=1.0))
    # What CellOracle makes of the base network is the dict.
    summed = base.drop(columns="peak_id").groupby("gene_short_name").sum()
    made = {target: sorted(row.index[row > 0]) for target, row in summed.iterrows()}
    assert to_celloracle(adata) == made == to_celloracle(known_net)


def test_status_and_support(refined: ad.AnnData, known_net: pd.DataFrame) -> None:
    plain = get_grn(refined, "new")
    assert plain["status"].value_counts().to_dict() == {"kept": 10, "added": 1}
    assert plain["in_prior"].tolist() == (plain["status"] == "kept").tolist()
    whole = get_grn(refined, "new", dropped=True)
    n_loops = int((known_net["source"] == known_net["target"]).sum())
    assert n_loops >= 1
    assert whole["status"].value_counts().to_dict() == {
        "kept": 10,
        "added": 1,
        "dropped": len(known_net) - n_loops - 10,
    }
    named = set(zip(known_net["source"], known_net["target"], strict=True))
    left = whole[whole["status"] == "dropped"]
    assert left["weight"].eq(0).all() and left["in_prior"].all() and left["support"].eq(0).all()
    assert set(zip(left["source"], left["target"], strict=True)) < named
    pd.testing.assert_frame_equal(whole[whole["weight"] != 0].reset_index(drop=True), plain)
    assert whole[["source", "target"]].equals(whole[["source", "target"]].sort_values(["source", "target"]))
    assert plain.set_index("source").loc["G11", "support"] == np.float32(0.6)
    assert "support" not in get_grn(refined, "grn") and "status" not in get_grn(refined, "grn")


def test_status_counts_what_refinement_counts() -> None:
    adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    adata.varp["grn"] = adata.varp["grn"] + sparse.diags_array(np.ones(60))  # loops, which refinement leaves out
    sgv.tl.refine_grn(
        adata, split_key="split", max_epochs=2, threshold=0.5, accelerator="cpu", enable_progress_bar=False
    )
    counts = to_frame(adata, "grn_refined")["status"].value_counts()
    for status, n in adata.uns["grn_refined"]["n_edges"].items():
        assert counts.get(status, 0) == n, status
    assert counts["kept"] > 0


def test_to_frame_ranks(refined: ad.AnnData) -> None:
    frame = to_frame(refined, "new")
    assert frame["rank"].tolist() == list(range(1, len(frame) + 1))
    assert frame["weight"].is_monotonic_decreasing and frame["status"].iloc[-1] == "dropped"
    assert list(frame) == ["source", "target", "weight", "in_prior", "status", "support", "rank"]
    report = add_grn(refined, frame, "again")
    assert (refined.varp["again"] != refined.varp["new"].astype(np.float32)).nnz == 0
    assert report.zero_weights == (frame["status"] == "dropped").sum()
    prior = to_frame(refined, "grn")
    assert prior["weight"].abs().is_monotonic_decreasing and (prior["weight"] < 0).any()


def test_repeated_edges_and_other_errors(adata: ad.AnnData, known_net: pd.DataFrame) -> None:
    twice = pd.concat([known_net, known_net.head(2)])
    for export in (to_networkx, to_decoupler, to_celloracle):
        with pytest.raises(ValueError, match="2 edges of `net` occur more than once, first G0"):
            export(twice)
        with pytest.raises(KeyError, match="not found in varp"):
            export(adata, "other")
        with pytest.raises(KeyError, match="source"):
            export(known_net.drop(columns="source"))
    with pytest.raises(ValueError, match="form='csv' must be"):
        to_celloracle(adata, form="csv")
    with pytest.raises(ValueError, match="not a refined network"):
        get_grn(adata, "grn", dropped=True)


def test_without_networkx(known_net: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match="pip install networkx"):
        to_networkx(known_net)
