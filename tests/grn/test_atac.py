from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy import sparse

from scgraphvci.grn import add_grn, from_atac

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:mudata")

N_CELLS, N_PEAKS, N_GENES = 50, 40, 12
MOTIFS = ["MA0137.3.STAT1", "STAT1", "MA0099.3.FOS::JUN", "MA0477.2_JUN(var.2)", "GENE3"]
REGULATORS = [["STAT1"], ["STAT1"], ["FOS", "JUN"], ["JUN"], ["GENE3"]]
DISTANCES = {"max_distance": 1_200, "promoter": 100, "half_distance": 300}


@pytest.fixture
def mdata() -> MuData:
    """Peaks and genes on two chromosomes; scores of five motifs; half of the peaks follow a gene near them."""
    rng = np.random.default_rng(0)
    expression = rng.normal(size=(N_CELLS, N_GENES))
    start = rng.integers(0, 4_000, N_PEAKS)
    names = [f"chr{rng.integers(1, 3)}:{a}-{a + rng.integers(50, 300)}" for a in start]
    open_ = (rng.normal(size=(N_CELLS, N_PEAKS)) + 2 * expression[:, rng.integers(0, N_GENES, N_PEAKS)]) > 0
    genes = [f"GENE{i}" for i in range(N_GENES - 1)] + ["JUN"]
    obs = pd.DataFrame(
        {"split": rng.choice(["train", "test", "ood"], N_CELLS)}, index=[f"c{i}" for i in range(N_CELLS)]
    )
    rna = ad.AnnData(expression.astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))
    rna.layers["twice"] = rna.X * 2
    atac = ad.AnnData(sparse.csr_matrix(open_.astype(np.float32)), obs=obs[[]], var=pd.DataFrame(index=names))
    atac.var_names_make_unique()
    score = np.where(rng.random((N_PEAKS, len(MOTIFS))) < 0.3, rng.uniform(1, 9, (N_PEAKS, len(MOTIFS))), 0)
    atac.varm["motif_match"] = pd.DataFrame(score, index=atac.var_names, columns=MOTIFS)
    return MuData({"rna": rna, "atac": atac})


@pytest.fixture
def genes() -> pd.DataFrame:
    """Two start sites for some genes, none for GENE10, a gene the data lack, a chromosome without peaks."""
    rng = np.random.default_rng(1)
    names = [f"GENE{i}" for i in range(10)] + ["GENE0", "GENE5", "JUN", "ELSEWHERE"]
    chrom = np.where(np.arange(14) == 9, "chrX", rng.choice(["chr1", "chr2"], 14))
    return pd.DataFrame({"gene": names, "chrom": chrom, "tss": rng.integers(0, 4_000, 14)})


def naive(
    mdata: MuData, genes: pd.DataFrame, *, min_correlation=None, layer=None, cells=None, binary=False, **_
) -> dict:
    """Three loops: regulators, genes, peaks."""
    rna, atac = mdata["rna"], mdata["atac"]
    cells = slice(None) if cells is None else cells
    expression = (rna.X if layer is None else rna.layers[layer])[cells]
    accessibility = atac.X.toarray()[cells]
    score = atac.varm["motif_match"].to_numpy()
    score = (score > 0).astype(float) if binary else score
    weights = {}
    for regulator in {name for several in REGULATORS for name in several}:
        columns = [k for k, several in enumerate(REGULATORS) if regulator in several]
        for g, gene in enumerate(rna.var_names):
            total = 0.0
            for p, name in enumerate(atac.var_names):
                chrom, interval = name.split(":")
                bases = np.arange(*map(int, interval.split("-")[:2]))
                sites = genes.loc[(genes["gene"] == gene) & (genes["chrom"] == chrom), "tss"]
                distance = min((np.abs(bases - site).min() for site in sites), default=np.inf)
                if distance > DISTANCES["max_distance"]:
                    continue
                far = max(0, distance - DISTANCES["promoter"])
                if far and min_correlation is not None:
                    r = np.corrcoef(accessibility[:, p], expression[:, g])[0, 1]
                    if not r >= min_correlation:
                        continue
                total += score[p, columns].max() * 2 ** (-far / DISTANCES["half_distance"])
            if total:
                weights[regulator, gene] = total
    return weights


def weights_of(net: pd.DataFrame) -> dict:
    assert not net.duplicated(["source", "target"]).any() and (net["weight"] > 0).all()
    return net.set_index(["source", "target"])["weight"].to_dict()


@pytest.mark.parametrize("options", [{}, {"min_correlation": 0.3}, {"min_correlation": 0.0, "layer": "twice"}])
def test_weights_against_a_triple_loop(mdata: MuData, genes: pd.DataFrame, options: dict) -> None:
    expected = naive(mdata, genes, **options)
    found = weights_of(from_atac(mdata, genes, **DISTANCES, **options))
    assert found == pytest.approx(expected, rel=1e-6) and len(expected) > 15


def test_correlation_removes_links(mdata: MuData, genes: pd.DataFrame) -> None:
    every, some = (from_atac(mdata, genes, **DISTANCES, min_correlation=r) for r in (None, 0.3))
    assert len(some) <= len(every) and some["weight"].sum() < 0.8 * every["weight"].sum()
    report = some.attrs["report"]
    assert report["links"] + report["links_uncorrelated"] == every.attrs["report"]["links"]
    promoters = from_atac(mdata, genes, **{**DISTANCES, "max_distance": DISTANCES["promoter"]})
    assert weights_of(promoters).items() <= weights_of(from_atac(mdata, genes, **DISTANCES, min_correlation=1)).items()


def test_held_out_cells_are_invisible(mdata: MuData, genes: pd.DataFrame) -> None:
    options = {**DISTANCES, "min_correlation": 0.3, "split_key": "split"}
    train = (mdata["rna"].obs["split"] == "train").to_numpy()
    before = from_atac(mdata, genes, **options)
    assert weights_of(before) == pytest.approx(naive(mdata, genes, min_correlation=0.3, cells=train), rel=1e-6)
    mdata["rna"].X[~train] = 1e6
    pd.testing.assert_frame_equal(from_atac(mdata, genes, **options), before)


def test_cells_are_paired_by_name(mdata: MuData, genes: pd.DataFrame) -> None:
    rna, atac = mdata["rna"], mdata["atac"][np.random.default_rng(0).permutation(N_CELLS)[:40]].copy()
    shared = rna.obs_names.isin(atac.obs_names)
    net = from_atac(MuData({"rna": rna, "atac": atac}), genes, **DISTANCES, min_correlation=0.2)
    assert weights_of(net) == pytest.approx(naive(mdata, genes, min_correlation=0.2, cells=shared), rel=1e-6)
    assert net.attrs["report"]["cells"] == 40


@pytest.mark.parametrize("form", ["pychromvar", "sparse", "mapped"])
def test_forms_of_the_motif_matrix(mdata: MuData, genes: pd.DataFrame, form: str) -> None:
    atac = mdata["atac"]
    expected = naive(mdata, genes, binary=True)
    matches = (atac.varm["motif_match"].to_numpy() > 0).astype(np.uint8)
    options: dict = {}
    if form == "pychromvar":  # what its match_motif writes
        atac.varm["motif_match"], atac.uns["motif_name"] = matches, MOTIFS
    elif form == "sparse":
        del atac.varm["motif_match"]
        atac.varm["hits"] = sparse.csr_matrix(matches)
        options = {"motif_key": "hits", "motif_names": MOTIFS}
    else:
        atac.varm["motif_match"], names = matches, [f"motif{k}" for k in range(len(MOTIFS))]
        mapping = dict(zip(names, [several if len(several) > 1 else several[0] for several in REGULATORS], strict=True))
        options = {"motif_names": names, "regulators": mapping}
    assert weights_of(from_atac(mdata, genes, **DISTANCES, **options)) == pytest.approx(expected)


def test_report_and_log(mdata: MuData, genes: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    mapping = {motif: several for motif, several in zip(MOTIFS, REGULATORS, strict=True) if motif != "GENE3"}
    with caplog.at_level(logging.WARNING):
        net = from_atac(mdata, genes, **DISTANCES, regulators=mapping)
    report = net.attrs["report"]
    assert report["genes_without_coordinates"] == ["GENE10"] and report["motifs_without_regulator"] == ["GENE3"]
    counts = {name: report[name] for name in ("cells", "genes", "peaks", "motifs", "regulators")}
    assert counts == {"cells": N_CELLS, "genes": N_GENES, "peaks": N_PEAKS, "motifs": len(MOTIFS), "regulators": 3}
    assert report["links_uncorrelated"] == 0 and 0 < report["peaks_linked"] <= min(report["links"], N_PEAKS)
    assert "1 of 12 genes have no coordinates in `genes`, such as GENE10" in caplog.text
    assert "1 of 5 motifs have no regulator" in caplog.text
    assert net[["source", "target"]].to_numpy().tolist() == sorted(
        net[["source", "target"]].to_numpy().tolist(),
        key=lambda edge: (edge[0], list(mdata["rna"].var_names).index(edge[1])),
    )


def test_enters_the_data_it_came_from(mdata: MuData, genes: pd.DataFrame) -> None:
    net = from_atac(mdata, genes, **DISTANCES)
    report = add_grn(mdata["rna"], net)
    assert report.genes_missing == ("FOS", "STAT1")
    known = net["source"].isin(mdata["rna"].var_names)
    assert report.edges_kept == known.sum() == mdata["rna"].varp["grn"].nnz
    first = net[known].iloc[0]
    row, column = mdata["rna"].var_names.get_indexer(first[["source", "target"]])
    assert mdata["rna"].varp["grn"][row, column] == pytest.approx(first["weight"])


def set_motifs(mdata: MuData, value) -> None:
    mdata["atac"].varm["motif_match"] = value


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (None, {"rna": "gex"}, KeyError, r"'gex' not found. Modalities: \['rna', 'atac'\]"),
        (None, {"motif_key": "m"}, KeyError, r"'m' not found in varm of the peaks. Keys: \['motif_match'\]"),
        (None, {"motif_names": ["a"]}, ValueError, "holds 5 motifs, but 1 names of them"),
        (lambda m: set_motifs(m, np.ones((N_PEAKS, 2))), {}, ValueError, "holds 2 motifs, but none of them"),
        (lambda m: set_motifs(m, -m["atac"].varm["motif_match"]), {}, ValueError, "NaN or negative"),
        (lambda m: set_motifs(m, m["atac"].varm["motif_match"] * np.nan), {}, ValueError, "NaN or negative"),
        (None, {"regulators": {"x": "y"}}, ValueError, "None of 5 motifs, such as .*, is a key of `regulators`"),
        (None, {"regulators": ["STAT1"]}, TypeError, "must map motifs to regulators, as a dict does, not list"),
        (None, {"promoter": -1}, ValueError, "promoter=-1, max_distance=100000"),
        (None, {"max_distance": 10}, ValueError, "promoter=2000, max_distance=10"),
        (None, {"half_distance": 0}, ValueError, "half_distance=0 must be above 0"),
        (None, {"min_correlation": 2}, ValueError, "min_correlation=2 must lie between -1 and 1"),
        (None, {"min_correlation": 0, "layer": "x"}, KeyError, r"Layer 'x' not found. Layers: \['twice'\]"),
        (None, {"split_key": "x"}, KeyError, r"column 'x' not found in obs. Columns: \['split'\]"),
        (lambda m: m["rna"].obs.__setitem__("split", "ood"), {"split_key": "split"}, ValueError, "as 'train'"),
        (lambda m: set_motifs(m, m["atac"].varm["motif_match"] * 0), {}, ValueError, "No edge is left: .*'peaks': 40"),
    ],
)  # fmt: skip
def test_bad_input(mdata: MuData, genes: pd.DataFrame, change, options, error, match) -> None:
    if change is not None:
        change(mdata)
    with pytest.raises(error, match=match):
        from_atac(mdata, genes, **options)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda g: g.assign(chrom=g["chrom"].str[3:]), r"\['chr1', 'chr2'\].*\['1', '2', 'X'\].*'chr' \+ genes"),
        (lambda g: g.assign(chrom="scaffold"), "No chromosome has the same name"),
        (lambda g: g.assign(gene="ENSG" + g["gene"]), "such as .*'GENE0'.*'ENSGGENE0'.*attribute='gene_id'"),
    ],
)  # fmt: skip
def test_genes_of_other_names(mdata: MuData, genes: pd.DataFrame, change, match) -> None:
    with pytest.raises(ValueError, match=match):
        from_atac(mdata, change(genes))


def test_other_objects_and_names(mdata: MuData, genes: pd.DataFrame) -> None:
    with pytest.raises(TypeError, match="Expected a MuData with RNA and ATAC, got AnnData"):
        from_atac(mdata["rna"], genes)
    other = mdata["atac"].copy()
    other.obs_names = [f"x{i}" for i in range(N_CELLS)]
    with pytest.raises(ValueError, match=r"share no cells: RNA has \['c0', 'c1'\], ATAC \['x0', 'x1'\]"):
        from_atac(MuData({"rna": mdata["rna"], "atac": other}), genes)
