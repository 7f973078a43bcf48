"""Curves drawn against the frame they come from."""

from __future__ import annotations

import pandas as pd
import pytest

from scgraphvci import pl
from scgraphvci.grn import precision_recall

TRUTH = pd.DataFrame({"source": ["A", "A", "B"], "target": ["C", "D", "C"]})
NETS = {
    "refined": TRUTH.assign(weight=[3.0, 1.0, 2.0]),
    "prior": pd.DataFrame({"source": ["A", "B", "B"], "target": ["C", "D", "A"], "weight": [1.0, 2.0, 3.0]}),
}


@pytest.fixture
def curves() -> pd.DataFrame:
    return precision_recall(NETS, TRUTH, per_regulator=True)


def test_lines_are_the_curves(curves) -> None:
    axes = pl.grn_precision_recall(curves, show=False)
    assert [ax.get_title() for ax in axes] == ["all regulators", "A", "B"]
    for ax, name in zip(axes, ["all", "A", "B"], strict=True):
        refined, rest_of_refined, prior, rest_of_prior, random = ax.lines
        for line, rest, predictor in ((refined, rest_of_refined, "refined"), (prior, rest_of_prior, "prior")):
            part = curves[(curves["predictor"] == predictor) & (curves["regulator"] == name)]
            assert line.get_label() == predictor
            points = part[["recall", "precision"]].to_numpy().tolist()
            assert line.get_xydata().tolist() == points[:-1]
            assert rest.get_xydata().tolist() == points[-2:]  # beyond the edges of the network
            assert (rest.get_color(), rest.is_dashed()) == (line.get_color(), True)
        density = {"all": 3 / 6, "A": 2 / 3, "B": 1 / 3}[name]
        assert random.get_ydata() == pytest.approx([density, density])
        assert ax.get_xlabel() == "recall"
    assert [ax.get_ylabel() for ax in axes] == ["precision", "", ""]
    assert [text.get_text() for text in axes[-1].get_legend().get_texts()] == [
        "refined",
        "prior",
        "random scores",
    ]


def test_chosen_regulators(curves) -> None:
    assert [ax.get_title() for ax in pl.grn_precision_recall(curves, regulators=["B", "all"], show=False)] == [
        "B",
        "all regulators",
    ]
    assert pl.grn_precision_recall(curves, regulators="A", show=False).size == 1


def test_many_networks_are_told_apart() -> None:
    curves = precision_recall({f"net{i}": TRUTH for i in range(8)}, TRUTH)
    lines = pl.grn_precision_recall(curves, show=False)[0].lines[:-1:2]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 8


def test_bad_input(curves) -> None:
    with pytest.raises(KeyError, match="no column \\['density'\\]"):
        pl.grn_precision_recall(curves.drop(columns="density"))
    with pytest.raises(KeyError, match="Regulators \\['Q'\\] are not in what is drawn.*per_regulator=True"):
        pl.grn_precision_recall(curves, regulators=["A", "Q"])
