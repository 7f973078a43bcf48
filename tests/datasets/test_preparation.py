"""What all public screens share: quality, normalisation, genes, split, files on disk, wrong files."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

import scgraphvci as sgv
from scgraphvci.datasets import _preparation
from scgraphvci.datasets._marson import MARSON
from scgraphvci.datasets._preparation import local_files, log_normalise

FEW = {"n_top_genes": 30, "n_hardest": 2}


@pytest.fixture
def marson_file(draw_marson, tmp_path):
    path = tmp_path / "home" / "marson_formatted_raw.h5ad"
    path.parent.mkdir()
    draw_marson().write_h5ad(path)
    return path


def test_expression_is_log1p_of_counts_at_the_median_library(marson_file, draw_marson):
    adata = sgv.datasets.marson(marson_file, **FEW)
    raw = draw_marson()[adata.obs_names].X.toarray()
    library = raw.sum(axis=1, keepdims=True)
    genes = [list(draw_marson().var["name"]).index(name) for name in adata.var_names]
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), raw[:, genes])
    expected = np.log1p(raw / library * np.median(library))[:, genes]
    np.testing.assert_allclose(adata.X.toarray(), expected, rtol=1e-5)


def test_variable_genes_are_those_of_scanpy(marson_file, draw_marson):
    adata = sgv.datasets.marson(marson_file, **FEW)
    full = draw_marson()[adata.obs_names].copy()
    full.var_names = full.var["name"].astype(str)
    sc.pp.filter_genes(full, min_cells=1)
    sc.pp.normalize_total(full)
    sc.pp.log1p(full)
    sc.pp.highly_variable_genes(full, n_top_genes=30, flavor="cell_ranger")
    assert set(adata.var_names[adata.var["highly_variable"]]) == set(full.var_names[full.var["highly_variable"]])
    assert {"G3", "G5", "G7"} <= set(adata.var_names)
    assert adata.n_vars <= 33


def test_genes_a_user_names_are_kept(marson_file):
    few = sgv.datasets.marson(marson_file, **FEW)
    others = sorted({f"G{number}" for number in range(10, 600)} - set(few.var_names))[:3]
    more = sgv.datasets.marson(marson_file, **FEW, keep_genes=[*others, "nowhere"])
    assert set(more.var_names) == {*few.var_names, *others}


def test_quality_is_read_in_blocks(marson_file, monkeypatch):
    whole = sgv.datasets.marson(marson_file, **FEW)
    monkeypatch.setattr(_preparation, "ROWS", 7)
    blocks = sgv.datasets.marson(marson_file, **FEW)
    np.testing.assert_array_equal(whole.X.toarray(), blocks.X.toarray())
    assert whole.obs.equals(blocks.obs)


def test_file_stored_by_gene_reads_the_same(marson_file, tmp_path):
    by_gene = ad.read_h5ad(marson_file)
    by_gene.X = sparse.csc_matrix(by_gene.X)
    by_gene.write_h5ad(tmp_path / "by_gene.h5ad")
    one, other = (sgv.datasets.marson(path, **FEW) for path in (marson_file, tmp_path / "by_gene.h5ad"))
    np.testing.assert_array_equal(one.X.toarray(), other.X.toarray())


def test_seed_draws_the_split(marson_file):
    splits = [sgv.datasets.marson(marson_file, **FEW, seed=seed).obs["split"] for seed in (0, 0, 1)]
    assert splits[0].equals(splits[1])
    assert not splits[0].equals(splits[2])
    ood = [split == "ood" for split in splits]
    assert ood[0].equals(ood[2])


def test_result_can_be_written_and_trained_on(marson_file, tmp_path):
    adata = sgv.datasets.marson(marson_file, **FEW)
    adata.write_h5ad(tmp_path / "prepared.h5ad")
    again = ad.read_h5ad(tmp_path / "prepared.h5ad")
    sgv.GraphVCI.setup_anndata(
        again,
        "perturbation",
        control="NTC",
        split_key="split",
        categorical_covariate_keys=["cell_type", "donor", "stim"],
    )
    sgv.GraphVCI(again)


def test_unprocessed_is_as_published(marson_file, draw_marson):
    adata = sgv.datasets.marson(marson_file, processed=False)
    assert adata.obs.equals(draw_marson().obs)
    np.testing.assert_array_equal(adata.X.toarray(), draw_marson().X.toarray())


def test_other_numbers_than_the_authors_are_told(host, draw_marson, to_bytes, caplog):
    host.put_osf("5n2mz", {"marson_formatted_raw.h5ad": to_bytes(draw_marson())})
    with caplog.at_level(logging.WARNING):
        adata = sgv.datasets.marson(**FEW)
    assert f"marson: {adata.n_obs} cells pass, but the authors were left with 39616." in caplog.text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.obs.pop("celltype"), KeyError, r"lacks \['celltype'\]; it has \['barcode'"),
        (lambda a: setattr(a, "X", a.X * 0.5), ValueError, "no counts, such as [0-9]+.5. .*`processed=False`"),
        (lambda a: setattr(a, "X", -a.X), ValueError, "no counts, such as -[0-9]"),
        (lambda a: setattr(a, "X", (a.X > 3).astype("f4") * 0), ValueError, "No cell of bad.h5ad passes"),
    ],
)
def test_wrong_file(draw_marson, tmp_path, change, error, message):
    adata = draw_marson()
    change(adata)
    adata.write_h5ad(tmp_path / "bad.h5ad")
    with pytest.raises(error, match=message):
        sgv.datasets.marson(tmp_path / "bad.h5ad", **FEW)


def test_too_many_to_hold_out(marson_file):
    with pytest.raises(ValueError, match="n_hardest=20, but 3 treatments"):
        sgv.datasets.marson(marson_file, n_top_genes=30)


def test_files_a_user_means(marson_file, tmp_path):
    assert local_files(marson_file.parent, MARSON.files) == [marson_file]
    assert local_files(str(marson_file), MARSON.files) == [marson_file]
    assert local_files([marson_file, marson_file], MARSON.files) == [marson_file] * 2
    message = r"No file .*elsewhere.h5ad.*with marson_formatted_raw.h5ad from https://osf.io/5n2mz/"
    with pytest.raises(FileNotFoundError, match=message):
        local_files(tmp_path / "elsewhere.h5ad", MARSON.files)
    with pytest.raises(FileNotFoundError, match="marson_formatted_raw.h5ad"):
        local_files(tmp_path, MARSON.files)


def test_log_normalise_keeps_all_genes_unless_told():
    counts = np.array([[1.0, 3.0], [5.0, 5.0]], dtype=np.float32)
    adata = log_normalise(ad.AnnData(sparse.csr_matrix(counts)))
    np.testing.assert_allclose(adata.X.toarray(), np.log1p([[250, 750], [500, 500]]), rtol=1e-6)
