from __future__ import annotations

import logging

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from scgraphvci.grn import read_networkx


def test_directed_round_trip(known_net: pd.DataFrame, ordered, tmp_path) -> None:
    graph = nx.from_pandas_edgelist(known_net, edge_attr="weight", create_using=nx.DiGraph)
    pd.testing.assert_frame_equal(ordered(read_networkx(graph)), known_net)
    nx.write_graphml(graph, tmp_path / "net.graphml")
    pd.testing.assert_frame_equal(ordered(read_networkx(nx.read_graphml(tmp_path / "net.graphml"))), known_net)


def test_multigraph_keeps_parallel_edges(known_net: pd.DataFrame) -> None:
    twice = pd.concat([known_net, known_net.assign(weight=0.5)])
    graph = nx.from_pandas_edgelist(twice, edge_attr="weight", create_using=nx.MultiDiGraph)
    expected = twice.sort_values(["source", "target", "weight"], ignore_index=True)
    found = read_networkx(graph).sort_values(["source", "target", "weight"], ignore_index=True)
    pd.testing.assert_frame_equal(found, expected)


def test_undirected_edges_become_two() -> None:
    graph = nx.Graph()
    graph.add_edge("A", "B", weight=0.5)
    graph.add_edge("C", "C", weight=2.0)
    assert sorted(map(tuple, read_networkx(graph).to_numpy())) == [("A", "B", 0.5), ("B", "A", 0.5), ("C", "C", 2.0)]


def test_other_attributes_and_none(known_net: pd.DataFrame, ordered) -> None:
    renamed = known_net.assign(mode=np.sign(known_net["weight"]).astype(int), size=known_net["weight"].abs())
    graph = nx.from_pandas_edgelist(renamed, edge_attr=["mode", "size"], create_using=nx.DiGraph)
    found = ordered(read_networkx(graph, weight="size", sign="mode"))
    pd.testing.assert_series_equal(found["weight"] * found["sign"], known_net["weight"], check_names=False)
    plain = read_networkx(graph)
    assert list(plain) == ["source", "target", "weight"] and plain["weight"].eq(1).all()


@pytest.fixture
def guidance() -> nx.MultiDiGraph:
    """A guidance graph as scglue makes one: genes and peaks both ways, self-loops, weight and sign on every edge."""
    graph = nx.MultiDiGraph()
    peaks = ["chr1:100-600", "chr1:900-1400", "chr2:50-550"]
    for gene, peak, weight, sign in [
        ("A", peaks[0], 1.0, 1),
        ("B", peaks[0], 0.5, -1),
        ("A", peaks[1], 0.3, 1),
        ("B", peaks[1], 0.9, 1),
        ("C", peaks[2], 1.0, 1),
    ]:
        graph.add_edge(gene, peak, weight=weight, sign=sign, type="fwd")
        graph.add_edge(peak, gene, weight=weight, sign=sign, type="rev")
    for node in list(graph):
        graph.add_edge(node, node, weight=1.0, sign=1, type="loop")
    graph.add_edge("A", "C", weight=0.4, sign=-1)
    return graph


def test_guidance_graph_without_peaks(guidance: nx.MultiDiGraph, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="scgraphvci"):
        found = read_networkx(guidance, genes=["A", "B", "C"])
    loops = {("A", "A", 1.0, 1), ("B", "B", 1.0, 1), ("C", "C", 1.0, 1)}
    assert set(map(tuple, found.to_numpy())) == loops | {("A", "C", 0.4, -1)}
    assert "13 of 17 edges left out" in caplog.text


def test_guidance_graph_projected(guidance: nx.MultiDiGraph) -> None:
    found = read_networkx(guidance, genes=["A", "B", "C"], others="project")
    added = {edge for edge in map(tuple, found.to_numpy()) if edge[0] != edge[1]} - {("A", "C", 0.4, -1)}
    # Over the first peak 1.0 * 0.5 with signs + and -, over the second 0.3 * 0.9: the first is heavier.
    assert added == {("A", "B", 0.5, -1), ("B", "A", 0.5, -1)}
    assert not found.duplicated().any()


def weighted(graph: nx.DiGraph, **attributes) -> nx.DiGraph:
    graph.add_edge("A", "B", **attributes)
    return graph


@pytest.mark.parametrize(
    ("graph", "options", "error", "match"),
    [
        (pd.DataFrame(), {}, TypeError, "must be a graph of networkx, got DataFrame"),
        (nx.DiGraph(), {}, ValueError, "no edges"),
        (
            weighted(nx.DiGraph([("B", "C")]), weight=2.0),
            {},
            ValueError,
            "1 of 2 edges of `graph` have no 'weight', first B -> C",
        ),
        (weighted(nx.DiGraph([("B", "C")]), sign=1), {}, ValueError, "have no 'sign'"),
        (weighted(nx.DiGraph(), sign=0), {}, ValueError, "signs of `graph` are unknown, first '0'"),
        (weighted(nx.DiGraph(), weight=float("inf")), {}, ValueError, "NaN or infinite"),
        (weighted(nx.DiGraph(), weight="high"), {}, TypeError, "not numeric"),
        (nx.DiGraph([("A", "chr1:100-600")]), {}, ValueError, "targets of `graph` look like genomic regions"),
        (nx.DiGraph([("A", "B")]), {"genes": ["X"]}, ValueError, "no edges"),
        (nx.DiGraph([("A", "B")]), {"others": "keep"}, ValueError, "others='keep'"),
    ],
)
def test_malformed(graph, options, error, match) -> None:
    with pytest.raises(error, match=match):
        read_networkx(graph, **options)
