"""The tail of arguments that all plots share."""

from __future__ import annotations

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scgraphvci import pl

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
