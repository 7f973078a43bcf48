from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scgraphvci.grn import collectri, dorothea, read_net


def test_decoupler_net_round_trip(known_net: pd.DataFrame, tmp_path) -> None:
    known_net.assign(resources="A;B").to_csv(
        tmp_path / "net.tsv", sep="\t"
    )  # with a column of row numbers, as pandas does
    pd.testing.assert_frame_equal(read_net(tmp_path / "net.tsv"), known_net)
    pd.testing.assert_frame_equal(read_net(known_net), known_net)


def test_adjacencies_of_pyscenic(known_net: pd.DataFrame, tmp_path) -> None:
    adjacencies = known_net.rename(columns={"source": "TF", "weight": "importance"})
    adjacencies["importance"] = adjacencies["importance"].abs()
    adjacencies.to_csv(tmp_path / "adj.csv", index=False)
    found = read_net(tmp_path / "adj.csv", source="TF", weight="importance")
    pd.testing.assert_frame_equal(found, known_net.assign(weight=known_net["weight"].abs()))


def test_go_graph_of_gears(known_net: pd.DataFrame, tmp_path) -> None:
    known_net.rename(columns={"weight": "importance"}).to_csv(tmp_path / "go_essential_all.csv", index=False)
    pd.testing.assert_frame_equal(read_net(tmp_path / "go_essential_all.csv", weight="importance"), known_net)


def test_signs_and_no_weights(known_net: pd.DataFrame) -> None:
    written = known_net.assign(mor=np.where(known_net["weight"] > 0, "+", "-")).drop(columns="weight")
    found = read_net(written, weight=None, sign="mor")
    assert found["weight"].eq(1).all()
    assert found["sign"].tolist() == np.sign(known_net["weight"]).astype(int).tolist()


def test_top_per_target(known_net: pd.DataFrame) -> None:
    found = read_net(known_net, top=2)
    expected = []
    for _, row in known_net.iterrows():
        rivals = known_net.loc[known_net["target"] == row["target"], "weight"].abs()
        if (rivals > abs(row["weight"])).sum() < 2:
            expected.append(row)
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected).reset_index(drop=True), check_dtype=False)
    assert len(found) < len(known_net)


def test_duplicates_stay_for_add_grn(known_net: pd.DataFrame) -> None:
    assert len(read_net(pd.concat([known_net, known_net]))) == 2 * len(known_net)


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda n: n.rename(columns={"source": "TF"}), {}, KeyError, r"no column \['source'\].*'TF'.*arguments source"),
        (lambda n: n, {"weight": "importance"}, KeyError, r"no column \['importance'\].*`weight=None`"),
        (lambda n: n, {"sign": "mor"}, KeyError, "mor"),
        (lambda n: n.iloc[:0], {}, ValueError, "no edges"),
        (
            lambda n: n.assign(weight=np.nan),
            {},
            ValueError,
            "weights of `table` are NaN or infinite, first that of G00",
        ),
        (lambda n: n.assign(weight="x"), {}, TypeError, "not numeric"),
        (lambda n: n.assign(source=None), {}, ValueError, "no source or target"),
        (lambda n: n.assign(source="chr1:100-600"), {}, ValueError, "sources of `table` look like genomic regions"),
        (lambda n: n.assign(sign=0), {"sign": "sign"}, ValueError, "unknown, first '0'"),
        (lambda n: n, {"top": 0}, ValueError, "top=0 must be at least 1"),
    ],
)
def test_malformed(known_net: pd.DataFrame, change, options, error, match) -> None:
    with pytest.raises(error, match=match):
        read_net(change(known_net), **options)


@pytest.fixture
def levels_file(known_net: pd.DataFrame, tmp_path):
    net = known_net.assign(confidence=[*"ABCD" * 7][: len(known_net)])
    net.to_csv(tmp_path / "dorothea.csv", index=False)
    return net, tmp_path / "dorothea.csv"


def test_priors_from_files(known_net: pd.DataFrame, levels_file, tmp_path) -> None:
    known_net.to_csv(tmp_path / "collectri.csv", index=False)
    pd.testing.assert_frame_equal(collectri(path=tmp_path / "collectri.csv"), known_net)
    net, path = levels_file
    for levels in ("A", ["B", "D"]):
        expected = net[net["confidence"].isin(list(levels))].drop(columns="confidence").reset_index(drop=True)
        pd.testing.assert_frame_equal(dorothea(levels=levels, path=path), expected)
    assert len(dorothea(path=path)) == net["confidence"].isin(["A", "B", "C"]).sum()


def test_bad_levels(levels_file, tmp_path) -> None:
    net, path = levels_file
    for levels in (["A", "E"], []):
        with pytest.raises(ValueError, match="must be some of"):
            dorothea(levels=levels, path=path)
    net.assign(confidence="B").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"No edge of `path` has a level in \['A'\]. Its levels: \['B'\]"):
        dorothea(levels="A", path=path)
    net.drop(columns="confidence").to_csv(path, index=False)
    with pytest.raises(KeyError, match="confidence"):
        dorothea(path=path)


def test_download_asks_decoupler(known_net: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(**options):
        asked.append(options)
        return known_net.assign(resources="x")

    monkeypatch.setitem(
        sys.modules, "decoupler", SimpleNamespace(op=SimpleNamespace(collectri=download, dorothea=download))
    )
    pd.testing.assert_frame_equal(collectri("mouse"), known_net)
    pd.testing.assert_frame_equal(dorothea(levels="AB"), known_net)
    assert asked == [{"organism": "mouse"}, {"organism": "human", "levels": ["A", "B"]}]


@pytest.mark.parametrize("read", [collectri, dorothea])
def test_offline_says_what_to_do(read, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(**options):
        raise error

    name, error = read.__name__, OSError("Name or service not known")
    monkeypatch.setitem(sys.modules, "decoupler", SimpleNamespace(op=SimpleNamespace(**{name: download})))
    with pytest.raises(
        ConnectionError, match=rf"decoupler.op.{name}\('mouse'\).to_csv\('{name}.csv'\).*path='{name}.csv'"
    ):
        read("mouse")


@pytest.mark.parametrize(
    "values", [[1j, 1], pd.to_datetime([1, 2]), pd.to_timedelta([1, 2])], ids=["complex", "time", "span"]
)
def test_weights_that_only_look_like_numbers_are_refused(values):
    """They convert to float64, and lose their meaning."""
    table = pd.DataFrame({"source": ["A", "B"], "target": ["C", "C"], "weight": values})
    with pytest.raises(TypeError, match="Column weight of `table` is not numeric"):
        read_net(table)
