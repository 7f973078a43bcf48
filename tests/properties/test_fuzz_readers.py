"""Whatever readers of networks are given, they read it or say clearly why not; nothing is written then."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import scgraphvci as sgv
from scgraphvci import grn

pytestmark = pytest.mark.filterwarnings("ignore")
DOCUMENTED = (ValueError, KeyError, TypeError)
SOURCE = str(Path(sgv.__file__).parent)


def attempt(call, *arguments, **named):
    """Call; return the result, or None if it was refused with an error of ours that says something."""
    try:
        return call(*arguments, **named)
    except DOCUMENTED as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        assert raised_in.startswith(SOURCE), f"{type(error).__name__} of {raised_in}: {error}"
        assert len(str(error)) > 20
        return None


# --- tables ---

NAMES = st.one_of(
    st.sampled_from(["STAT1", "IRF1", "GBP1", "chr1:100-200", "", " ", "nan", "é", "a/b"]), st.text(max_size=4)
)
VALUES = st.one_of(
    NAMES, st.none(), st.integers(-3, 3), st.floats(), st.booleans(), st.just(pd.NA), st.tuples(st.integers()),
    st.sampled_from([np.float32(0.5), 10**400, b"bytes", "+", "-", "1", "TF_direct_+/+", "1e400", complex(1, 2)]),
)  # fmt: skip
COLUMNS = [
    "source", "target", "weight", "sign", "coef_mean", "coef_abs", "p", "gene_short_name", "peak_id", "TF", "Gene",
    "eRegulon_name", "importance_TF2G", "STAT1", "gene", "chrom", "tss", "start", "end", "strand",
]  # fmt: skip
PLAIN = {
    "names": st.sampled_from(["STAT1", "IRF1", "GBP1"]),
    "numbers": st.floats(-5, 5),
    "flags": st.sampled_from([0, 1]),
    "eRegulons": st.sampled_from(["STAT1_direct_+/+", "IRF1_direct_-/+"]),
}


@st.composite
def tables(draw, needed):
    """A frame that has most of the columns needed, each plain or of anything, of any dtype, sometimes repeated."""
    n_rows = draw(st.integers(0, 5))
    columns = [name for name in needed if draw(st.integers(0, 9)) > 0]
    columns += draw(st.lists(st.sampled_from(COLUMNS), max_size=2))
    data = []
    for _ in columns:
        values = draw(st.sampled_from([VALUES, *PLAIN.values()]))
        column = pd.Series(draw(st.lists(values, min_size=n_rows, max_size=n_rows)), dtype=object)
        form = draw(st.sampled_from(["object", "category", "guessed", "text"]))
        try:
            column = {"object": column, "category": column.astype("category"), "text": column.astype("string")}.get(
                form, column.infer_objects()
            )
        except (TypeError, ValueError, OverflowError):  # pandas cannot hold such values in that form
            pass
        data.append(column)
    frame = pd.concat(data, axis=1) if data else pd.DataFrame(index=range(n_rows))
    frame.columns = columns
    if draw(st.booleans()) and n_rows:
        frame.index = draw(st.lists(st.sampled_from(["a", "b", 1, None]), min_size=n_rows, max_size=n_rows))
    return frame


def assert_network(net):
    """What a reader returned is a network."""
    if net is None:
        return
    assert len(net)
    assert {"source", "target", "weight"} <= set(net)
    assert np.isfinite(net["weight"].to_numpy(dtype=float)).all()
    assert all(isinstance(name, str) for name in [*net["source"], *net["target"]])


@given(tables(["source", "target", "weight"]), st.sampled_from([None, "sign", "weight"]), st.integers(-1, 3))
def test_read_net(table, sign, top):
    assert_network(attempt(grn.read_net, table, sign=sign, top=top or None))


@given(tables(["gene_short_name", "peak_id", "STAT1", "IRF1"]))
def test_read_celloracle_base(table):
    assert_network(attempt(grn.read_celloracle, table))


@given(
    tables(["source", "target", "coef_mean", "coef_abs", "p"]),
    st.sampled_from([None, 0.05, 1, -1]),
    st.sampled_from([None, 1, 0, 100]),
    st.sampled_from([None, "a", 3]),
    st.booleans(),
)
def test_read_celloracle_links(table, p, top, cluster, clusters):
    net = {"a": table, "b": table} if clusters else table
    assert_network(attempt(grn.read_celloracle, net, cluster=cluster, p=p, top=top))


@given(tables(["TF", "Gene", "eRegulon_name", "importance_TF2G"]), st.sampled_from(["direct", "extended", "other"]))
def test_read_scenicplus(table, kind):
    assert_network(attempt(grn.read_scenicplus, table, kind=kind))


@given(
    st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=2, max_size=2),
    st.lists(VALUES, min_size=1, max_size=3),
    st.lists(VALUES, min_size=1, max_size=3),
    st.sampled_from(["source_rows", "target_rows", "rows"]),
    st.sampled_from(["frame", "array", "numbers", "csr", "one", "list"]),
)
def test_read_matrix(values, rows, columns, orientation, form):
    names = {"row_names": rows, "column_names": columns}
    if form == "frame":
        matrix, names = pd.DataFrame(values, dtype=object), {}
        if len(rows) == len(columns) == 2:
            matrix.index, matrix.columns = rows, columns
    elif form == "list":
        matrix = values
    elif form == "array":
        matrix = np.empty((2, 2), dtype=object)
        matrix[:] = values
    else:
        matrix = np.random.default_rng(0).normal(size=(len(rows), len(columns)))
        matrix = {"numbers": matrix, "csr": sparse.csr_matrix(matrix), "one": matrix[0]}[form]
    assert_network(attempt(grn.read_matrix, matrix, orientation, **names))


@given(
    st.lists(st.tuples(VALUES, VALUES, st.dictionaries(st.sampled_from(["weight", "sign", "x"]), VALUES)), max_size=5),
    st.sampled_from([nx.Graph, nx.DiGraph, nx.MultiDiGraph, list]),
    st.one_of(st.none(), st.lists(NAMES, max_size=3)),
    st.sampled_from(["drop", "project", "keep"]),
)
def test_read_networkx(edges, kind, genes, others):
    graph = kind()
    if kind is not list:
        graph.add_edges_from((u, v, data) for u, v, data in edges if u is not None and v is not None)
    assert_network(attempt(grn.read_networkx, graph, genes=genes, others=others))


# --- files ---


@given(
    st.one_of(st.text(max_size=60), st.binary(max_size=60), st.just("source,target,weight\nA,B,1\n")),
    st.sampled_from([".csv", ".tsv", ".txt", ".csv.gz", ".parquet", ".xlsx", ""]),
    st.sampled_from([grn.read_net, grn.read_celloracle, grn.read_scenicplus]),
)
def test_files_of_anything(content, suffix, reader):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"net{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        assert_network(attempt(reader, path))


GTF_LINE = st.lists(
    st.sampled_from(["chr1", "gene", "10", "+", "-", ".", "x", 'gene_name "A";', "gene_id B", "²", "-5", ""]),
    min_size=8,
    max_size=9,
)


@given(st.one_of(st.binary(max_size=60), st.lists(GTF_LINE, max_size=3)), st.sampled_from([".gtf", ".gtf.gz"]))
def test_gtf_of_anything(content, suffix):
    if not isinstance(content, bytes):
        lines = [["chr1", "havana", "gene", "11", "20", ".", "+", ".", 'gene_name "A"'], *content]
        content = "\n".join("\t".join(line) for line in lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"genes{suffix}"
        path.write_bytes(content)
        found = attempt(grn.read_gtf, path)
    assert found is None or (found["tss"] >= 0).all()


@given(st.binary(max_size=100), st.lists(NAMES, max_size=3))
def test_graph_files_of_anything(content, names):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grn.pth"
        path.write_bytes(content)
        assert attempt(grn.read_graphvci, path, names) is None


# --- into an AnnData ---


@given(tables(["source", "target", "weight"]), st.lists(NAMES, min_size=1, max_size=4))
def test_add_grn(net, genes):
    adata = ad.AnnData(np.ones((2, len(genes)), np.float32))
    adata.var_names = genes
    report = attempt(grn.add_grn, adata, net)
    assert (report is None) == ("grn" not in adata.varp)
    assert (report is None) == ("grn" not in adata.uns)
    if report is not None:
        assert np.isfinite(adata.varp["grn"].data).all()
        assert len(grn.get_grn(adata)) == report.edges_kept
        assert attempt(grn.to_networkx, adata) is not None
        assert attempt(grn.to_celloracle, adata) is not None
