from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

from scgraphvci.grn import read_scenicplus


@pytest.fixture
def triplets(known_net: pd.DataFrame) -> pd.DataFrame:
    """The known network as SCENIC+ lays it out: one to three regions for each edge."""
    rows = []
    for i, edge in known_net.iterrows():
        sign = "+" if edge["weight"] > 0 else "-"
        for region in range(1 + i % 3):
            name = f"{edge['source']}_direct_{sign}/{'+-'[region % 2]}"
            rows.append(
                {
                    "Region": f"chr1:{1000 * i + 100 * region}-{1000 * i + 100 * region + 90}",
                    "Gene": edge["target"],
                    "importance_R2G": 0.1 * region,
                    "TF": edge["source"],
                    "is_extended": False,
                    "eRegulon_name": name,
                    "Gene_signature_name": f"{name}_(12g)",
                    "importance_TF2G": abs(edge["weight"]),
                }
            )
    return pd.DataFrame(rows).sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture
def expected(known_net: pd.DataFrame) -> pd.DataFrame:
    return known_net.assign(weight=known_net["weight"].abs(), sign=np.sign(known_net["weight"]).astype(int))


def test_table_round_trip(triplets: pd.DataFrame, expected: pd.DataFrame, ordered, tmp_path) -> None:
    pd.testing.assert_frame_equal(ordered(read_scenicplus(triplets)), expected)
    triplets.to_csv(tmp_path / "eRegulon_direct.tsv", sep="\t", index=False)
    pd.testing.assert_frame_equal(ordered(read_scenicplus(tmp_path / "eRegulon_direct.tsv")), expected)
    with_counts = triplets.assign(eRegulon_name=triplets["Gene_signature_name"])
    pd.testing.assert_frame_equal(ordered(read_scenicplus(with_counts)), expected)


def test_names_of_older_versions(triplets: pd.DataFrame, expected: pd.DataFrame, ordered) -> None:
    older = triplets["eRegulon_name"].str.replace("_direct", "").str.replace("/", "_")
    pd.testing.assert_frame_equal(ordered(read_scenicplus(triplets.assign(eRegulon_name=older))), expected)


def test_mudata_round_trip(triplets: pd.DataFrame, expected: pd.DataFrame, ordered, tmp_path) -> None:
    mdata = md.MuData({"scRNA_counts": ad.AnnData(np.ones((2, 3), dtype=np.float32))})
    mdata.uns["direct_e_regulon_metadata"] = triplets
    mdata.uns["extended_e_regulon_metadata"] = triplets[triplets["TF"] == "G00"]
    mdata.write_h5mu(tmp_path / "scplusmdata.h5mu")
    for data in (mdata, tmp_path / "scplusmdata.h5mu"):
        pd.testing.assert_frame_equal(ordered(read_scenicplus(data)), expected)
        extended = ordered(read_scenicplus(data, kind="extended"))
        pd.testing.assert_frame_equal(extended, expected[expected["source"] == "G00"].reset_index(drop=True))


def test_largest_weight_over_regions(triplets: pd.DataFrame) -> None:
    found = read_scenicplus(triplets, weight="importance_R2G").set_index(["source", "target"])["weight"]
    for edge, group in triplets.groupby(["TF", "Gene"]):
        assert found[edge] == group["importance_R2G"].max()


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda t: t.drop(columns="TF"), {}, KeyError, r"no column \['TF'\]"),
        (lambda t: t, {"weight": "triplet_rank"}, KeyError, "triplet_rank.*`weight` names"),
        (lambda t: t.assign(eRegulon_name="STAT1"), {}, ValueError, "'STAT1' has no sign in its name"),
        (lambda t: t.assign(eRegulon_name="STAT1_direct_?/+"), {}, ValueError, "no sign in its name"),
        (lambda t: t.assign(Gene=t["Region"]), {}, ValueError, "targets of `data` look like genomic regions"),
        (lambda t: t.assign(importance_TF2G=np.nan), {}, ValueError, "NaN or infinite"),
        (lambda t: pd.concat([t, t.assign(eRegulon_name="A_direct_-/+")]), {}, ValueError, "both signs, first G0"),
        (lambda t: t, {"kind": "both"}, ValueError, "kind='both' must be"),
        (
            lambda t: ad.AnnData(uns={"eRegulon_metadata": t}),
            {},
            KeyError,
            r"not found in uns. Keys: \['eRegulon_metadata'\]",
        ),
        (lambda t: t.iloc[:0], {}, ValueError, "no edges"),
    ],
)
def test_malformed(triplets: pd.DataFrame, change, options, error, match) -> None:
    with pytest.raises(error, match=match):
        read_scenicplus(change(triplets), **options)
