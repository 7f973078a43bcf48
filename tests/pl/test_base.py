"""The tail of arguments that all plots share."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scgraphvci import pl
from scgraphvci.pl._base import N_SAID, choose, ends_row, panels, starts_row

SHIFTS = pd.DataFrame({"predictor": ["a"] * 3 + ["b"] * 3, "true": [0.0, 1, 2] * 2, "predicted": [0.0, 1, 2, 2, 1, 0]})


@pytest.mark.parametrize("name", pl.__all__)
def test_every_plot_ends_with_the_same_keywords(name):
    parameters = list(inspect.signature(getattr(pl, name)).parameters.values())
    assert [p.name for p in parameters[-4:]] == ["ax", "figsize", "show", "return_fig"]
    assert [p.default for p in parameters[-4:]] == [None, None, None, False]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[1:])
    assert parameters[0].kind is not parameters[0].KEYWORD_ONLY


def test_what_is_returned(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert isinstance(pl.shift_scatter(SHIFTS, return_fig=True), Figure)
    axes = pl.shift_scatter(SHIFTS, show=False)
    assert axes.shape == (2,)
    assert all(isinstance(ax, Axes) for ax in axes)
    assert shown == []
    assert pl.shift_scatter(SHIFTS, show=True) is None
    assert shown == [True]
    before = sc.settings.autoshow
    try:
        sc.settings.autoshow = False
        assert isinstance(pl.shift_scatter(SHIFTS)[0], Axes)
        sc.settings.autoshow = True
        assert pl.shift_scatter(SHIFTS) is None
    finally:
        sc.settings.autoshow = before
    assert shown == [True, True]


def test_axes_of_the_user_are_drawn_in():
    figure, axes = plt.subplots(1, 2)
    returned = pl.shift_scatter(SHIFTS, ax=axes, show=False)
    np.testing.assert_array_equal(returned, axes)
    assert len(axes[1].collections) == 1
    assert pl.shift_scatter(SHIFTS, predictors="a", ax=axes[0], return_fig=True) is figure
    with pytest.raises(ValueError, match=r"2 panel\(s\), but 1 axes"):
        pl.shift_scatter(SHIFTS, ax=axes[0])


def test_size_of_a_new_figure():
    figure = pl.shift_scatter(SHIFTS, figsize=(7, 2), return_fig=True)
    np.testing.assert_allclose(figure.get_size_inches(), [7, 2])


def test_panels_fill_rows_of_like_length():
    size = {n: panels(n, None, None, (3.0, 2.0), beside=1.0)[0].figure for n in (1, 4, 5, 8)}
    assert {n: figure.get_size_inches().tolist() for n, figure in size.items()} == {
        1: [4, 2], 4: [13, 2], 5: [10, 4], 8: [13, 4]
    }  # fmt: skip
    assert [len(figure.axes) for figure in size.values()] == [1, 4, 5, 8]
    assert starts_row(np.array(size[5].axes)) == [True, False, False, True, False]
    column = plt.subplots(3, 2)[1][:, 1]
    assert starts_row(column) == [True, True, True]
    assert len(panels(2, None, None, (20.0, 2.0))[0].figure.axes) == 2  # panels wider than a page


def test_only_panels_that_start_a_row_name_the_vertical_axis():
    many = pd.concat([SHIFTS.assign(predictor=SHIFTS["predictor"] + str(i)) for i in range(4)])
    axes = pl.shift_scatter(many, show=False)
    assert [ax.get_title().splitlines()[0] for ax in axes] == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]
    assert [ax.get_ylabel() for ax in axes] == ["predicted shift", "", "", ""] * 2
    tops = [ax.get_position().y0 for ax in axes]
    assert min(tops[:4]) > max(tops[4:])


def test_the_legend_stands_right_of_all_panels_and_leaves_columns_even():
    regulators = [f"r{i}" for i in range(7)]
    curves = pd.concat([CURVES[CURVES["regulator"] == "all"].assign(regulator=name) for name in regulators])
    axes = pl.grn_precision_recall(curves, show=False)
    assert [i for i, ax in enumerate(axes) if ax.get_legend()] == [3]  # two rows: of four panels and of three
    axes[0].figure.draw_without_rendering()
    left = np.array([ax.get_position().x0 for ax in axes])
    gaps = np.diff(left[:4])
    assert gaps.max() < 1.1 * gaps.min()
    assert ends_row(axes[:2]) is axes[1]
    assert ends_row(axes[:1]) is axes[0]


@pytest.mark.parametrize(
    ("names", "expected"), [(None, ["ab", "b"]), ("ab", ["ab"]), (["b", "ab"], ["b", "ab"]), (("b",), ["b"])]
)
def test_names_to_draw(names, expected):
    assert choose("Things", names, ["ab", "b", "ab"]) == expected


def test_names_that_cannot_be_drawn():
    with pytest.raises(KeyError, match=r"Things \['a'\] are not in what is drawn. It holds \['ab'\]. Look again."):
        choose("Things", "a", ["ab"], "Look again.")
    with pytest.raises(KeyError, match=r"'19'\] and 10 more\."):
        choose("Things", "a", map(str, range(N_SAID + 10)))
    with pytest.raises(ValueError, match="Things to draw: none. Name at least one of"):
        choose("Things", [], ["ab"])


CURVES = pd.DataFrame({"predictor": "refined", "regulator": ["STAT1"] * 3 + ["all"] * 3, "recall": [0.0, 0.5, 1.0] * 2,
                       "precision": [1.0, 0.5, 0.5] * 2, "density": 0.5})  # fmt: skip
SCORES = pd.DataFrame(
    [[0.5, 0.4, 0.6]] * 2, index=["no change", "mine"],
    columns=pd.MultiIndex.from_product([["mse"], ["mean", "ci_low", "ci_high"]]),
)  # fmt: skip
LOG = SimpleNamespace(history={"train_loss": pd.DataFrame({"train_loss": [1.0, 0.5]})})


@pytest.mark.parametrize(
    ("draw", "title"),
    [
        (lambda: pl.shift_scatter(SHIFTS, predictors="a", show=False), "a\nr = 1.00"),
        (lambda: pl.grn_precision_recall(CURVES, regulators="STAT1", show=False), "STAT1"),
        (lambda: pl.evaluation_bars(SCORES, metrics="mse", predictors="mine", show=False), "mse"),
        (lambda: pl.history(LOG, metrics="loss", show=False), ""),
    ],
)
def test_a_plain_string_is_one_name(draw, title):
    assert [ax.get_title() for ax in draw()] == [title]
