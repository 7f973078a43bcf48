from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from scgraphvci.grn import read_gtf
from scgraphvci.grn._genes import gene_starts

LINES = [
    "#!genome-build GRCh38.p14",
    'chr1\tX\tgene\t101\t200\t.\t+\t.\tgene_id "E1.2"; gene_type "x"; gene_name "A";',
    'chr1\tX\ttranscript\t101\t180\t.\t+\t.\tgene_id "E1.2"; transcript_id "T1"; gene_name "A";',
    'chr1\tX\ttranscript\t151\t200\t.\t+\t.\tgene_id "E1.2"; transcript_id "T2"; gene_name "A";',
    "",
    'chr2\tX\tgene\t301\t400\t.\t-\t.\tgene_id "E2.1"; note "a # sign"; gene_name "B"; projected_gene_name "Z";',
    'chr3\tX\tgene\t501\t600\t.\t-\t.\tgene_id "E3.1";',
]
STARTS = [["A", "chr1", 100], ["B", "chr2", 399], ["E3.1", "chr3", 599]]


@pytest.fixture(params=["genes.gtf", "genes.gtf.gz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    text = "\n".join(LINES) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_gtf(path: Path) -> None:
    assert read_gtf(path).to_numpy().tolist() == STARTS
    assert read_gtf(path, attribute="gene_id")["gene"].tolist() == ["E1.2", "E2.1", "E3.1"]
    assert read_gtf(path, feature="transcript").to_numpy().tolist() == [["A", "chr1", 100], ["A", "chr1", 150]]
    pd.testing.assert_frame_equal(gene_starts(str(path)), read_gtf(path))


@pytest.mark.parametrize("strand", [["+", "-", "-"], [1, -1, -1]])
def test_frames_say_the_same(strand: list) -> None:
    bed = pd.DataFrame({"gene": ["A", "B", "E3.1"], "chrom": ["chr1", "chr2", "chr3"], "strand": strand})
    bed = bed.assign(start=[100, 300, 500], end=[200, 400, 600])
    assert gene_starts(bed).to_numpy().tolist() == STARTS
    assert gene_starts(bed.assign(tss=[100, 399, 599])[["tss", "chrom", "gene"]]).to_numpy().tolist() == STARTS


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("chr1 X gene 1 2", "Line 1 of .* has 1 fields between tabs; a line of GTF has 9"),
        ("chr1\tX\tgene\t1\t9\t.\t+\t.\tID=gene:E1", "no 'gene_name' or 'gene_id'.*GFF3"),
        ('chr1\tX\tgene\t1\t9\t.\t.\t.\tgene_id "E1"', "no strand"),
        ('chr1\tX\tgene\t1.5\t9\t.\t+\t.\tgene_id "E1"', "no whole numbers"),
        ('chr1\tX\texon\t1\t9\t.\t+\t.\tgene_id "E1"', r"no lines of feature 'gene'. Features there: \['exon'\]"),
        ("", r"Features there: \[\]"),
    ],
)
def test_bad_files(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "bad.gtf"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=match):
        read_gtf(path)
    with pytest.raises(FileNotFoundError):
        read_gtf(tmp_path / "none.gtf")


FRAME = pd.DataFrame({"gene": ["A"], "chrom": ["chr1"], "start": [1], "end": [9], "strand": ["+"]})


@pytest.mark.parametrize(
    ("genes", "error", "match"),
    [
        (FRAME.drop(columns="strand"), KeyError, r"no column \['strand'\].*gene, chrom and tss"),
        (FRAME[["chrom"]].assign(tss=1), KeyError, r"no column \['gene'\]"),
        (FRAME.assign(chrom=None), ValueError, "1 rows of `genes` miss one of"),
        (FRAME.assign(strand="."), ValueError, r"strand of `genes` holds \['.'\]. Allowed are"),
        (FRAME.assign(start="one"), ValueError, "Column 'start' of `genes` must hold whole numbers, not one"),
        (FRAME.assign(tss=1.5), ValueError, "Column 'tss' of `genes` must hold whole numbers, not 1.5"),
        (3, TypeError, "path of a GTF file or a data frame, got int"),
    ],
)
def test_bad_frames(genes, error, match) -> None:
    with pytest.raises(error, match=match):
        gene_starts(genes)
