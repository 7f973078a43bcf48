from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scgraphvci.grn import read_celloracle


@pytest.fixture
def base(known_net: pd.DataFrame) -> pd.DataFrame:
    """The known network as CellOracle lays it out: each gene has a row for two peaks, motifs in either or both."""
    regulators, genes = sorted(set(known_net["source"])), sorted(set(known_net["target"]))
    edges = set(zip(known_net["source"], known_net["target"], strict=True))
    rng = np.random.default_rng(0)
    rows = []
    for gene in genes:
        present = np.array([(regulator, gene) in edges for regulator in regulators])
        first = present & (rng.random(len(regulators)) < 0.5)
        for start, motifs in ((100, first), (900, present & (~first | (rng.random(len(regulators)) < 0.3)))):
            rows.append(
                {
                    "peak_id": f"chr1_{start}_{start + 500}",
                    "gene_short_name": gene,
                    **dict(zip(regulators, motifs * 1.0, strict=True)),
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture
def links(known_net: pd.DataFrame) -> pd.DataFrame:
    p = np.linspace(0, 0.1, len(known_net))
    table = known_net.rename(columns={"weight": "coef_mean"}).assign(p=p)
    return table.assign(coef_abs=table["coef_mean"].abs(), **{"-logp": -np.log10(p + 1e-12)})


def test_base_round_trip(base: pd.DataFrame, known_net: pd.DataFrame, ordered, tmp_path) -> None:
    expected = known_net.assign(weight=1.0)
    pd.testing.assert_frame_equal(ordered(read_celloracle(base)), expected)
    base.to_csv(tmp_path / "base.csv", index=False)
    pd.testing.assert_frame_equal(ordered(read_celloracle(tmp_path / "base.csv")), expected)
    whole_numbers = base.drop(columns="peak_id").astype(dict.fromkeys(base.columns[2:], int))
    pd.testing.assert_frame_equal(ordered(read_celloracle(whole_numbers)), expected)


def test_links_round_trip(links: pd.DataFrame, known_net: pd.DataFrame, ordered, tmp_path) -> None:
    everything = {"p": None, "top": None}
    other = links.assign(coef_mean=1.0, coef_abs=1.0)
    for written in ({"B": links, "T": other}, SimpleNamespace(links_dict={"B": links, "T": other})):
        pd.testing.assert_frame_equal(ordered(read_celloracle(written, cluster="B", **everything)), known_net)
    pd.testing.assert_frame_equal(ordered(read_celloracle({"B": links}, **everything)), known_net)
    links.to_csv(tmp_path / "links.csv")
    pd.testing.assert_frame_equal(ordered(read_celloracle(tmp_path / "links.csv", **everything)), known_net)


def test_links_are_filtered_as_celloracle_does(links: pd.DataFrame) -> None:
    links.loc[3, "p"] = np.nan
    found = read_celloracle(links, p=0.05, top=6)
    kept = links[links["p"] <= 0.05].sort_values("coef_abs", ascending=False).head(6)
    pd.testing.assert_frame_equal(
        found, kept[["source", "target"]].assign(weight=kept["coef_mean"]).reset_index(drop=True)
    )
    assert len(read_celloracle(links)) == (links["p"] <= 0.001).sum() == 1


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda b: b.drop(columns="gene_short_name"), KeyError, "gene_short_name.*targets in rows.*coef_mean"),
        (lambda b: b.set_index("gene_short_name").drop(columns="peak_id").T, KeyError, "targets in rows"),
        (lambda b: b.rename(columns={"G00": "chr1_100_600"}), ValueError, "columns of `net` look like genomic regions"),
        (lambda b: b.assign(gene_short_name=b["peak_id"]), ValueError, "targets of `net` look like genomic regions"),
        (lambda b: b.assign(G00="yes"), ValueError, r"\['G00'\] are not numeric"),
        (lambda b: b.assign(G00=np.nan), ValueError, "holds nan for regulator G00, target G00"),
        (lambda b: b.assign(G00=7.5), ValueError, "holds 7.5.*threshold"),
        (lambda b: b[["peak_id", "gene_short_name"]], ValueError, "no column of a regulator"),
        (lambda b: b.iloc[:0], ValueError, "no edges"),
        (lambda b: b.assign(gene_short_name=None), ValueError, "no source or target"),
    ],
)
def test_malformed_base(base: pd.DataFrame, change, error, match) -> None:
    with pytest.raises(error, match=match):
        read_celloracle(change(base))


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda t: {"B": t, "T": t}, {}, ValueError, r"clusters \['B', 'T'\]. Choose one by `cluster`"),
        (lambda t: {"B": t}, {"cluster": "NK"}, KeyError, r"'NK' is not in `net`. Clusters: \['B'\]"),
        (lambda t: t.assign(p=0.5), {}, ValueError, "None of .* links has p <= 0.001 .smallest 0.5"),
        (lambda t: t.drop(columns="coef_abs"), {}, KeyError, "coef_abs"),
        (lambda t: t.assign(coef_mean=np.nan), {"p": None}, ValueError, "NaN or infinite"),
        (
            lambda t: t.assign(target="chr1:100-600"),
            {"p": None},
            ValueError,
            "targets of `net` look like genomic regions",
        ),
        (lambda t: t, {"top": 0}, ValueError, "top=0"),
        (lambda t: 3, {}, TypeError, "got int"),
    ],
)
def test_malformed_links(links: pd.DataFrame, change, options, error, match) -> None:
    with pytest.raises(error, match=match):
        read_celloracle(change(links), **options)


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean"])
def test_base_in_the_types_of_pandas(dtype):
    base = pd.DataFrame({"gene_short_name": ["A", "B"], "STAT1": pd.array([1, 0], dtype=dtype)})
    assert read_celloracle(base).values.tolist() == [["STAT1", "A", 1.0]]
    base.loc[1, "STAT1"] = pd.NA
    with pytest.raises(ValueError, match="holds nan for regulator STAT1, target B"):
        read_celloracle(base)


def test_names_that_are_huge_numbers_are_text():
    links = pd.DataFrame({
        "source": pd.Series([10**400, 0.5], dtype=object), "target": ["A", "B"],
        "coef_mean": [1.0, -2.0], "coef_abs": [1.0, 2.0], "p": [1e-4, 1e-5],
    })  # fmt: skip
    found = read_celloracle(links)
    assert found["source"].tolist() == ["0.5", str(10**400)]
    assert found["weight"].tolist() == [-2.0, 1.0]
