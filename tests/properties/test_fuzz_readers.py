"""Whatever readers of networks are given, they read it or say clearly why not; nothing is written then."""

from __future__ import annotations

import tempfile
from pathlib import Path

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scgraphvci import grn

pytestmark = pytest.mark.filterwarnings("ignore")


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
SYMBOLS, NUMBERS, FLAGS = st.sampled_from(["STAT1", "IRF1", "GBP1"]), st.floats(0.01, 5), st.sampled_from([0, 1])
EREGULONS = st.sampled_from(["STAT1_direct_+/+", "IRF1_direct_-/+"])
PLAIN = {
    "source": SYMBOLS, "target": SYMBOLS, "weight": NUMBERS, "coef_mean": NUMBERS, "coef_abs": NUMBERS,
    "p": st.floats(0, 1), "gene_short_name": SYMBOLS, "peak_id": st.sampled_from(["chr1_100_200", "chr2_5_9"]),
    "STAT1": FLAGS, "IRF1": FLAGS, "TF": SYMBOLS, "Gene": SYMBOLS, "eRegulon_name": EREGULONS,
    "importance_TF2G": NUMBERS,
}  # fmt: skip


@st.composite
def tables(draw, needed):
    """A frame of any dtypes: half of the time as it should be but for one column at most, else of anything."""
    n_rows = draw(st.integers(0, 5))
    as_it_should = draw(st.booleans())
    columns = [name for name in needed if as_it_should or draw(st.integers(0, 9)) > 0]
    if not as_it_should:
        columns += draw(st.lists(st.sampled_from(COLUMNS), max_size=2))
    spoiled = draw(st.sampled_from([None, *columns]))
    data = []
    for name in columns:
        values = draw(st.sampled_from([VALUES, *PLAIN.values()]))
        form = draw(st.sampled_from(["object", "category", "guessed", "text"]))
        if as_it_should and name != spoiled:
            values, form = PLAIN[name], "guessed"
        column = pd.Series(draw(st.lists(values, min_size=n_rows, max_size=n_rows)), dtype=object)
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


def reads_or_refuses(attempt, reader, *arguments, **named):
    """What a reader returned, unless it refused, is a network."""
    net = attempt(reader, *arguments, **named)
    if net is attempt.refused:
        return
    assert len(net)
    assert {"source", "target", "weight"} <= set(net)
    assert np.isfinite(net["weight"].to_numpy(dtype=float)).all()
    assert all(isinstance(name, str) for name in [*net["source"], *net["target"]])


@given(tables(["source", "target", "weight"]), st.sampled_from([None, "sign", "weight"]), st.integers(-1, 3))
def test_read_net(attempt, table, sign, top):
    reads_or_refuses(attempt, grn.read_net, table, sign=sign, top=top or None)


@given(tables(["gene_short_name", "peak_id", "STAT1", "IRF1"]))
def test_read_celloracle_base(attempt, table):
    reads_or_refuses(attempt, grn.read_celloracle, table)


@given(
    tables(["source", "target", "coef_mean", "coef_abs", "p"]),
    st.sampled_from([None, 0.05, 1, -1]),
    st.sampled_from([None, 1, 0, 100]),
    st.sampled_from([None, "a", 3]),
    st.booleans(),
)
def test_read_celloracle_links(attempt, table, p, top, cluster, clusters):
    net = {"a": table, "b": table} if clusters else table
    reads_or_refuses(attempt, grn.read_celloracle, net, cluster=cluster, p=p, top=top)


@given(tables(["TF", "Gene", "eRegulon_name", "importance_TF2G"]), st.sampled_from(["direct", "extended", "other"]))
def test_read_scenicplus(attempt, table, kind):
    reads_or_refuses(attempt, grn.read_scenicplus, table, kind=kind)


@given(
    st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=2, max_size=2),
    st.lists(VALUES, min_size=1, max_size=3),
    st.lists(VALUES, min_size=1, max_size=3),
    st.sampled_from(["source_rows", "target_rows", "rows"]),
    st.sampled_from(["frame", "array", "numbers", "csr", "one", "list"]),
)
def test_read_matrix(attempt, values, rows, columns, orientation, form):
    names = {"row_names": rows, "column_names": columns}
    if form == "frame":
        matrix, names = pd.DataFrame(values, dtype=object), {}
        if len(rows) == len(columns) == 2:
            matrix.index, matrix.columns = pd.Index(rows, dtype=object), pd.Index(columns, dtype=object)
    elif form == "list":
        matrix = values
    elif form == "array":
        matrix = np.empty((2, 2), dtype=object)
        matrix[:] = values
    else:
        matrix = np.random.default_rng(0).normal(size=(len(rows), len(columns)))
        matrix = {"numbers": matrix, "csr": sparse.csr_matrix(matrix), "one": matrix[0]}[form]
    reads_or_refuses(attempt, grn.read_matrix, matrix, orientation, **names)


@given(
    st.lists(st.tuples(VALUES, VALUES, st.dictionaries(st.sampled_from(["weight", "sign", "x"]), VALUES)), max_size=5),
    st.sampled_from([nx.Graph, nx.DiGraph, nx.MultiDiGraph, list]),
    st.one_of(st.none(), st.lists(NAMES, max_size=3)),
    st.sampled_from(["drop", "project", "keep"]),
)
def test_read_networkx(attempt, edges, kind, genes, others):
    graph = kind()
    if kind is not list:
        graph.add_edges_from((u, v, data) for u, v, data in edges if u is not None and v is not None)
    reads_or_refuses(attempt, grn.read_networkx, graph, genes=genes, others=others)


# --- files ---


@given(
    st.one_of(st.text(max_size=60), st.binary(max_size=60), st.just("source,target,weight\nA,B,1\n")),
    st.sampled_from([".csv", ".tsv", ".txt", ".csv.gz", ".parquet", ".xlsx", ""]),
    st.sampled_from([grn.read_net, grn.read_celloracle, grn.read_scenicplus]),
)
def test_files_of_anything(attempt, content, suffix, reader):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"net{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        reads_or_refuses(attempt, reader, path)


GTF_LINE = st.lists(
    st.sampled_from(["chr1", "gene", "10", "+", "-", ".", "x", 'gene_name "A";', "gene_id B", "²", "-5", ""]),
    min_size=8,
    max_size=9,
)


@given(st.one_of(st.binary(max_size=60), st.lists(GTF_LINE, max_size=3)), st.sampled_from([".gtf", ".gtf.gz"]))
def test_gtf_of_anything(attempt, content, suffix):
    if not isinstance(content, bytes):
        lines = [["chr1", "havana", "gene", "11", "20", ".", "+", ".", 'gene_name "A"'], *content]
        content = "\n".join("\t".join(line) for line in lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"genes{suffix}"
        path.write_bytes(content)
        found = attempt(grn.read_gtf, path)
    assert found is attempt.refused or (found["tss"] >= 0).all()


@given(st.binary(max_size=100), st.lists(NAMES, max_size=3))
def test_graph_files_of_anything(attempt, content, names):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grn.pth"
        path.write_bytes(content)
        assert attempt(grn.read_graphvci, path, names) is attempt.refused


# --- into an AnnData ---


@given(tables(["source", "target", "weight"]), st.lists(NAMES, min_size=1, max_size=4))
def test_add_grn(attempt, net, genes):
    adata = ad.AnnData(np.ones((2, len(genes)), np.float32))
    adata.var_names = genes
    report = attempt(grn.add_grn, adata, net)
    assert (report is attempt.refused) == ("grn" not in adata.varp)
    assert (report is attempt.refused) == ("grn" not in adata.uns)
    if report is not attempt.refused:
        assert np.isfinite(adata.varp["grn"].data).all()
        assert len(grn.get_grn(adata)) == report.edges_kept
        assert attempt(grn.to_networkx, adata) is not attempt.refused
        assert attempt(grn.to_celloracle, adata) is not attempt.refused
