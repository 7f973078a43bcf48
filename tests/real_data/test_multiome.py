"""A network from paired RNA and ATAC of human cell lines (385 cells), with a motif matrix made here."""

from __future__ import annotations

from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import sparse

import scgraphvci as sgv

pytestmark = [pytest.mark.real_data, pytest.mark.filterwarnings("ignore::FutureWarning:mudata")]

# Start sites in GRCh38 of genes that all or some of these cells express.
STARTS = {
    "GAPDH": ("chr12", 6534516), "ACTB": ("chr7", 5530600), "EEF1A1": ("chr6", 73521031), "MYC": ("chr8", 127736068),
    "TUBA1B": ("chr12", 49131396), "ENO1": ("chr1", 8878685), "PKM": ("chr15", 72231821),
    "HSP90AB1": ("chr6", 44247079), "STMN1": ("chr1", 25906853), "CD74": ("chr5", 150412913),
    "TMSB10": ("chr2", 84905655), "NPM1": ("chr5", 171387115), "HNRNPA2B1": ("chr7", 26200756),
    "LDHA": ("chr11", 18394387), "VIM": ("chr10", 17228258), "HMGA1": ("chr6", 34236799),
}  # fmt: skip
N_MOTIFS = 200


@pytest.fixture(scope="module")
def mdata(folder: Path) -> mudata.MuData:
    """Log-normalised expression, and random matches of motifs named after 200 genes."""
    mdata = mudata.read_h5mu(folder / "chen_rna_atac_385cells.h5mu")
    threads = torch.get_num_threads()
    sc.pp.normalize_total(mdata["rna"], target_sum=1e4)
    sc.pp.log1p(mdata["rna"])
    torch.set_num_threads(threads)  # numba, which scanpy calls, changes torch's number too
    rng = np.random.default_rng(0)
    atac = mdata["atac"]
    atac.varm["motif_match"] = sparse.random_array((atac.n_vars, N_MOTIFS), density=0.02, rng=rng, format="csr").sign()
    atac.uns["motif_name"] = list(rng.choice(mdata["rna"].var_names, N_MOTIFS, replace=False))
    return mdata


@pytest.fixture(scope="module")
def genes(mdata: mudata.MuData) -> pd.DataFrame:
    """Made-up start sites near peaks for 8,000 genes: real ones need a file that is not at hand."""
    rng = np.random.default_rng(1)
    near = mdata["atac"].var.iloc[rng.integers(0, mdata["atac"].n_vars, 8_000)]
    offset = rng.integers(-3_000, 3_000, 8_000)
    return pd.DataFrame(
        {"gene": mdata["rna"].var_names[:8_000], "chrom": near["chrom"].astype(str), "tss": near["start"] + offset}
    )


def test_expressed_genes_have_an_open_promoter(mdata: mudata.MuData) -> None:
    frame = pd.DataFrame([(gene, *site) for gene, site in STARTS.items()], columns=["gene", "chrom", "tss"])
    every = mdata.copy()
    every["atac"].varm["motif_match"] = pd.DataFrame({"STAT1": np.ones(every["atac"].n_vars)}, every["atac"].var_names)
    net = sgv.grn.from_atac(every, frame, max_distance=2_000)
    assert set(net["target"]) == set(STARTS) and (net["weight"] >= 1).all()
    assert len(net.attrs["report"]["genes_without_coordinates"]) == every["rna"].n_vars - len(STARTS)
    every["atac"].var = every["atac"].var[[]]  # from names such as chr2-148881654-148881927
    pd.testing.assert_frame_equal(sgv.grn.from_atac(every, frame, max_distance=2_000), net)


def test_weights_of_single_genes(mdata: mudata.MuData, genes: pd.DataFrame) -> None:
    net = sgv.grn.from_atac(mdata, genes, min_correlation=0.1)
    rna, atac = mdata["rna"], mdata["atac"]
    names, matches = np.asarray(atac.uns["motif_name"]), atac.varm["motif_match"]
    n_compared = 0
    for site in genes.iloc[::800].itertuples():
        peaks = atac.var
        distance = np.maximum(np.maximum(peaks["start"] - site.tss, site.tss - peaks["end"] + 1), 0).to_numpy()
        near = np.flatnonzero((peaks["chrom"].astype(str) == site.chrom).to_numpy() & (distance <= 100_000))
        expression = rna[:, site.gene].X.toarray().ravel()
        total = np.zeros(N_MOTIFS)
        for p in near:
            r = np.corrcoef(atac.X[:, [p]].toarray().ravel(), expression)[0, 1]
            if distance[p] <= 2_000 or r >= 0.1:
                total += matches[[p]].toarray().ravel() * 0.5 ** (max(distance[p] - 2_000, 0) / 10_000)
        expected = pd.Series(total, index=names)
        found = net[net["target"] == site.gene].set_index("source")["weight"].reindex(names, fill_value=0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        n_compared += int((expected > 0).sum())
    assert n_compared > 30


def test_refined_in_place(mdata: mudata.MuData, genes: pd.DataFrame) -> None:
    net = sgv.grn.from_atac(mdata, genes, max_distance=10_000)
    report = sgv.grn.add_grn(mdata["rna"], net)
    assert report.edges_kept == len(net) and not report.genes_missing
    sgv.pp.coexpression_features(mdata["rna"], 8)
    sgv.tl.refine_grn(
        mdata, gene_features_key="gene_features", max_epochs=1, accelerator="cpu", enable_progress_bar=False
    )
    refined = mdata["rna"].varp["grn_refined"]
    assert refined.nnz > 0 and refined.shape == (8_595, 8_595) and "grn_refined" not in mdata["atac"].varp
