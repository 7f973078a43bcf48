from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgraphvci.grn import _peaks
from scgraphvci.grn._peaks import Links, correlation_of_links, link_by_distance, peak_intervals

NAMES = ["chr1:100-200", "chr1-300-450", "chrUn_KI270442v1-5-9", "GL000219.1:7-8", "chr2_40_60"]
INTERVALS = [
    ["chr1", 100, 200], ["chr1", 300, 450], ["chrUn_KI270442v1", 5, 9], ["GL000219.1", 7, 8], ["chr2", 40, 60]
]  # fmt: skip


def peaks_of(names: list[str], **columns) -> ad.AnnData:
    return ad.AnnData(np.ones((2, len(names))), var=pd.DataFrame(columns, index=names))


def test_coordinates_from_names_or_columns() -> None:
    assert peak_intervals(peaks_of(NAMES)).to_numpy().tolist() == INTERVALS
    chrom, start, end = zip(*INTERVALS, strict=True)
    named = peaks_of(list("abcde"), chrom=pd.Categorical(chrom), start=start, end=np.asarray(end, dtype=np.float64))
    assert peak_intervals(named).to_numpy().tolist() == INTERVALS


@pytest.mark.parametrize(
    ("peaks", "match"),
    [
        (peaks_of(["chr1:1-2", "peak7", "chr1:x-3"]), r"2 of 3 peaks have names .*'peak7', 'chr1:x-3'.*chr1:100"),
        (peaks_of(["chr1:9-3", "chr1:1-2"]), "1 peaks end before they start, first 'chr1:9-3'"),
        (peaks_of(["a"], chrom=["chr1"], start=[np.nan], end=[3]), "Column 'start' of the peaks' `var` .* not .*nan"),
        (peaks_of(["a"], chrom=[None], start=[1], end=[3]), "1 peaks have no chromosome"),
    ],
)  # fmt: skip
def test_bad_peaks(peaks: ad.AnnData, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        peak_intervals(peaks)


@pytest.mark.parametrize("max_distance", [0, 7, 40, 10_000])
def test_links_by_distance_against_a_double_loop(max_distance: int) -> None:
    rng = np.random.default_rng(0)
    start = rng.integers(0, 500, 80)
    peaks = pd.DataFrame(
        {"chrom": rng.choice(["1", "2", "3"], 80), "start": start, "end": start + rng.integers(1, 90, 80)}
    )
    starts = pd.DataFrame({"gene": rng.integers(0, 12, 30), "chrom": rng.choice(["1", "2", "X"], 30)})
    starts["tss"] = rng.integers(0, 600, 30)
    expected: dict[tuple[int, int], int] = {}
    for i, peak in peaks.iterrows():
        for site in starts.itertuples():
            bases = np.arange(peak["start"], peak["end"])
            distance = int(np.abs(bases - site.tss).min())
            if site.chrom == peak["chrom"] and distance <= max_distance:
                expected[i, site.gene] = min(distance, expected.get((i, site.gene), distance))
    links = link_by_distance(peaks, starts, max_distance)
    found = dict(zip(zip(links.peak.tolist(), links.gene.tolist(), strict=True), links.distance.tolist(), strict=True))
    assert found == expected and list(found) == sorted(found)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_array, np.asarray])
def test_correlation_of_links_against_numpy(form, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks, for cells in another order in each matrix, with repeated pairs, constant columns and a large mean."""
    monkeypatch.setattr(_peaks, "BLOCK_CELLS", 7)
    monkeypatch.setattr(_peaks, "BLOCK_LINKS", 5)
    rng = np.random.default_rng(0)
    x, y = (rng.random((40, 9)) < 0.3).astype(np.float32), 100 + rng.normal(size=(40, 6))
    x[:, 3], y[:, 2] = 1, 0.1
    cells = np.stack([rng.permutation(40)[:25], rng.permutation(40)[:25]])
    links = Links(rng.integers(0, 9, 60), rng.integers(0, 6, 60), np.zeros(60, dtype=int))
    expected = [
        0 if p == 3 or g == 2 else np.corrcoef(x[cells[0], p], y[cells[1], g])[0, 1]
        for p, g in zip(links.peak, links.gene, strict=True)
    ]
    np.testing.assert_allclose(correlation_of_links(links, form(x), form(y), cells), expected, atol=1e-9)
    y[cells[1, 9], links.gene[0]] = np.nan
    with pytest.raises(ValueError, match=f"Expression holds NaN .* first in column {links.gene[0]} .* not zeros"):
        correlation_of_links(links, form(x), form(y), cells)
    x[cells[0, 9], links.peak[1]] = np.inf
    with pytest.raises(
        ValueError, match=f"Accessibility holds NaN or infinite values, first in column {links.peak[1]} "
    ):
        correlation_of_links(links, form(x), form(y), cells)


def test_a_backed_file_gives_the_same(tmp_path) -> None:
    rng = np.random.default_rng(1)
    values = sparse.csr_matrix(rng.poisson(0.5, size=(30, 8)).astype(np.float32))
    ad.AnnData(values).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    links, cells = Links(np.arange(8), np.arange(8)[::-1], np.zeros(8, dtype=int)), np.tile(np.arange(0, 30, 2), (2, 1))
    found = correlation_of_links(links, backed.X, backed.X, cells)
    np.testing.assert_allclose(found, correlation_of_links(links, values, values, cells), atol=1e-12)
    backed.file.close()
