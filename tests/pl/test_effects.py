"""Artists of the plots of leak, sensitivity and many treatments against the numbers they stand for."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from scgraphvci import pl
from scgraphvci.estimate import EffectSums, Groups, MarginalEffects, marginal_effects
from scgraphvci.pl._base import BLUE, GREY, ORANGE, RED
from scgraphvci.pl._status import LONGEST, MEANING, shorten

LEAKS = {"A": 0.0, "B": 0.3}


def estimated(reference: str | None = "control", **options) -> MarginalEffects:
    """Effects of A, whose predictions leak nothing, and B, whose predictions leak 30 % of its effect; in two strata."""
    rng = np.random.default_rng(0)
    n, n_genes = 400, 12
    stratum = np.arange(n) % 2
    treated = rng.random(n) < 0.4
    state = rng.normal(size=(n, n_genes))
    effect = np.where(np.arange(n_genes) < 6, np.linspace(2.0, -2.0, n_genes), 0.0)
    groups, group = Groups.from_codes(stratum)

    def sums():
        for name, leak in LEAKS.items():
            size = effect if name == "A" else np.roll(effect, 6)
            one = EffectSums(groups, n_genes, with_reference=reference is not None)
            baseline = 3.0 + state + leak * treated[:, None] * size
            outcome = 3.0 + state + treated[:, None] * size + 0.5 * rng.normal(size=state.shape)
            in_reference = None if reference is None else ~treated
            one.update(outcome, baseline + size, None if reference is None else baseline, treated, in_reference, group)
            yield name, one

    strata = pd.DataFrame({"cell_type": ["x", "y"]})
    genes = [f"g{i}" for i in range(n_genes)]
    return marginal_effects(sums(), strata=strata, genes=genes, reference=reference, **options)


@pytest.fixture(scope="module")
def effects() -> MarginalEffects:
    return estimated()


def test_leakage_draws_shares_and_marks_leaks(effects):
    ax = pl.effects_leakage(effects, show=False)
    summary = effects.leakage().summary()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A, x", "A, y", "B, x", "B, y"]
    bars = np.array([[bar.get_x(), bar.get_x() + bar.get_width()] for bar in ax.patches])
    np.testing.assert_allclose(bars, np.outer(summary["share_detectable"], [-1, 1]))
    points = {line.get_label(): line for line in ax.lines if "found" in line.get_label()}
    assert list(points) == ["no leak found (2)", "leak found (2)"]
    none, found = points.values()
    np.testing.assert_allclose(none.get_xdata(), summary["share"][:2])
    np.testing.assert_allclose(found.get_xdata(), summary["share"][2:])
    assert found.get_ydata().tolist() == [2, 3]
    assert (none.get_color(), none.get_markerfacecolor()) == (BLUE, "white")
    assert (found.get_color(), found.get_markerfacecolor()) == (RED, RED)
    intervals = [np.array([segment[:, 0] for segment in lines.get_segments()]) for lines in ax.collections]
    np.testing.assert_allclose(np.concatenate(intervals), summary[["share_low", "share_high"]])


def test_leakage_of_some_rows(effects):
    ax = pl.effects_leakage(effects, strata={"cell_type": "y"}, n_rows=1, show=False)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B, y"]  # the smaller p-value
    with pytest.raises(ValueError, match="needs a reference"):
        pl.effects_leakage(estimated(reference=None))


def test_sensitivity_draws_intervals_and_where_they_reach_zero(effects):
    _, given = plt.subplots()
    ax = pl.effects_sensitivity(
        effects, treatment="A", stratum={"cell_type": "x"}, genes=["g0", "g4", "g6"], max_leak=0.9, ax=given, show=False
    )
    assert ax is given
    frame = effects.sensitivity(np.linspace(0, 0.9, 61), "A", {"cell_type": "x"}, ["g0", "g4", "g6"])
    first = frame[frame["gene"] == "g0"]
    low, high, estimate = [line for line in ax.lines if len(line.get_xdata()) == 61][:3]
    for line, column in ((low, "ci_low"), (high, "ci_high"), (estimate, "estimate")):
        np.testing.assert_allclose(line.get_xydata(), first[["leak", column]])
    assert np.all(np.diff(high.get_ydata()) > 0)
    # The interval of g0 never reaches zero, that of g4 does, that of g6 (no effect) holds it from the start.
    lost = frame.groupby("gene")["leak_to_insignificance"].first()
    marked = [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "X"]
    np.testing.assert_allclose(marked, [lost["g4"], 0.0])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "g0: significant beyond 90%",
        f"g4: significant up to {lost['g4']:.1%}",
        "g6: not significant",
    ]


def test_sensitivity_beyond_the_axis(effects):
    ax = pl.effects_sensitivity(effects, treatment="A", stratum={"cell_type": "x"}, genes=1, max_leak=0.1, show=False)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["g0: significant beyond 10%"]
    assert not [line for line in ax.lines if line.get_marker() == "X"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"genes": 6}, "Draw 1 to 5"),
        ({"genes": []}, "0 genes"),
        ({"max_leak": 0.0}, "`max_leak` is 0.0"),
        ({"stratum": None}, "fits 2 strata, must fit one. Choose from"),
    ],
)
def test_sensitivity_rejects(effects, options, match):
    with pytest.raises(ValueError, match=match):
        pl.effects_sensitivity(effects, **{"treatment": "A", "stratum": {"cell_type": "x"}, **options})


def test_heatmap_draws_effects_and_dots(effects):
    ax = pl.effects_heatmap(effects, stratum={"cell_type": "y"}, genes=["g0", "g6", "g11"], show=False)
    frame = effects.to_frame(strata={"cell_type": "y"}, genes=["g0", "g6", "g11"])
    image = ax.images[0]
    np.testing.assert_allclose(image.get_array(), frame["estimate"].to_numpy().reshape(2, 3))
    limit = frame["estimate"].abs().quantile(0.98)
    np.testing.assert_allclose(image.get_clim(), (-limit, limit))
    significant = frame["p_value_adj"].to_numpy().reshape(2, 3) <= 0.05
    dots = ax.collections[0].get_offsets()
    assert {tuple(dot) for dot in np.asarray(dots)} == {(j, i) for i, j in zip(*np.nonzero(significant), strict=True)}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "B (leak_detected)"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["g0", "g6", "g11"]


def test_heatmap_puts_genes_of_a_treatment_side_by_side(effects):
    ax = pl.effects_heatmap(effects, stratum={"cell_type": "x"}, genes=8, treatments=["B", "A"], show=False)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B (leak_detected)", "A"]
    names = [label.get_text() for label in ax.get_xticklabels()]
    of_b = [int(name[1:]) >= 6 for name in names]
    assert len(names) == 8
    assert of_b == sorted(of_b, reverse=True)


def test_heatmap_greys_what_is_missing_and_centres_ratios(effects):
    ratios = estimated(estimand="ratio")
    ratios.estimate[0, 0, 0] = np.nan
    ax = pl.effects_heatmap(ratios, stratum={"cell_type": "x"}, genes=["g0", "g1"], show=False)
    image = ax.images[0]
    assert sum(image.get_clim()) == pytest.approx(2.0)
    np.testing.assert_allclose(image.cmap(np.ma.masked), to_rgba("0.75"))
    assert np.isnan(image.get_array().filled(np.nan)[0, 0])


def test_heatmap_rejects(effects):
    with pytest.raises(ValueError, match="fits 2 strata"):
        pl.effects_heatmap(effects)
    with pytest.raises(ValueError, match="means of arms"):
        pl.effects_heatmap(estimated(reference=None), stratum={"cell_type": "x"})
    with pytest.raises(KeyError, match="'none'"):
        pl.effects_heatmap(effects, stratum={"cell_type": "x"}, genes=["none"])
    nothing = estimated()
    nothing.estimate[:] = np.nan
    with pytest.raises(ValueError, match="No effect to draw in x"):
        pl.effects_heatmap(nothing, stratum={"cell_type": "x"})


def with_status(effects: MarginalEffects, status: str, *, error: bool) -> MarginalEffects:
    """The same result with another status of A in x, with or without its errors."""
    changed = replace(effects, **{name: getattr(effects, name).copy() for name in ("status", "estimate", "std_error")})
    changed.status[0, 0] = status
    if not error:
        changed.std_error[0, 0] = np.nan
    return changed


A_IN_X = {"treatment": "A", "stratum": {"cell_type": "x"}, "show": False}


def test_forest_of_what_is_ok_says_nothing_of_status(effects):
    ax = pl.effects_forest(effects, **A_IN_X)
    assert ax.get_title() == "A against control\nx"
    assert ax.get_legend().get_title().get_text() == ""
    estimate, observed = ax.lines[1:]
    assert (estimate.get_markerfacecolor(), observed.get_marker()) == (BLUE, "x")
    assert ax.collections[0].get_linestyle()[0][1] is None  # solid


@pytest.mark.parametrize("status", MEANING)
def test_forest_shows_the_status(effects, status):
    has_error = status == "leak_detected"
    ax = pl.effects_forest(with_status(effects, status, error=has_error), **A_IN_X)
    assert ax.get_title().splitlines() == ["A against control", "x", status]
    said = ax.get_legend().get_title()
    assert said.get_text().replace("\n", " ") == f"{status}: {MEANING[status]}"
    assert said.get_color() == RED
    estimate = ax.lines[1]
    assert estimate.get_markerfacecolor() == "white"
    name = "prediction" if status == "extrapolated" else "robust"
    assert estimate.get_label() == (f"{name}, 95 % interval" if has_error else f"{name}, no interval")
    assert [len(segment) for segment in ax.collections[0].get_segments()] == [2 if has_error else 0] * 12
    assert ax.collections[0].get_linestyle()[0][1] is not None  # dashed


def test_forest_without_errors_takes_the_largest_effects(effects):
    ax = pl.effects_forest(with_status(effects, "too_few_cells", error=False), genes=3, **A_IN_X)
    frame = effects.to_frame("A", {"cell_type": "x"}).set_index("gene")["estimate"]
    largest = frame[frame.abs().nlargest(3).index].sort_values(ascending=False)
    assert [label.get_text() for label in ax.get_yticklabels()] == largest.index.tolist()


def test_forest_draws_an_estimate_once():
    ax = pl.effects_forest(estimated(estimator="observed"), **A_IN_X)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["observed, 95 % interval"]
    assert len(ax.lines) == 2  # zero and the estimate
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), np.arange(12))


def test_forest_without_estimates_says_why(effects):
    nothing = with_status(effects, "no_reference", error=False)
    nothing.estimate[0, 0] = np.nan
    with pytest.raises(ValueError, match="no_reference: no cell received the reference here"):
        pl.effects_forest(nothing, **A_IN_X)


def test_volcano_hollows_what_is_not_ok(effects):
    filled = pl.effects_volcano(effects, **A_IN_X)
    hollow = pl.effects_volcano(with_status(effects, "leak_detected", error=True), **A_IN_X)
    assert hollow.get_title().splitlines()[-1] == "leak_detected"
    for ax, has_face in ((filled, True), (hollow, False)):
        for points, colour in zip(ax.collections, (GREY, ORANGE, BLUE), strict=True):
            assert (len(points.get_facecolor()) > 0) == has_face
            if not has_face:
                np.testing.assert_allclose(points.get_edgecolor()[0][:3], to_rgba(colour)[:3])


def test_volcano_without_p_values_says_why(effects):
    with pytest.raises(ValueError, match=r"for A against control, x \(too_few_cells: .*effects_forest"):
        pl.effects_volcano(with_status(effects, "too_few_cells", error=False), **A_IN_X)


@pytest.mark.parametrize("long", ["ENSMUSG00000028270.", "g"])
def test_names_stay_within_the_volcano(effects, long):
    """As drawn: every name lies in the axes, and names on one side do not overlap."""
    genes = pd.Index([f"{long} {i}" for i in range(12)])
    named = replace(effects, genes=genes, estimate=effects.estimate * np.tile([1, -1], 6))
    ax = pl.effects_volcano(named, **A_IN_X)
    ax.figure.draw_without_rendering()
    frame = ax.get_window_extent()
    left = [text for text in ax.texts if text.get_horizontalalignment() == "right"]
    assert len(ax.texts) >= 5 and 2 <= len(left) < len(ax.texts)
    for text in ax.texts:
        box = plt.Text.get_window_extent(text)
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    heights = sorted(plt.Text.get_window_extent(text).y0 for text in left)
    assert np.diff(heights).min() > 5


def test_heatmap_hatches_rows_that_are_not_ok(effects):
    status = with_status(effects, "too_few_cells", error=False)
    ax = pl.effects_heatmap(status, stratum={"cell_type": "x"}, show=False)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A (too_few_cells)", "B (leak_detected)"]
    assert [(patch.get_y(), bool(patch.get_hatch())) for patch in ax.patches] == [(-0.5, True), (0.5, True)]
    assert [patch.get_hatch() for patch in ax.patches] == ["xxx", "///"]
    assert ax.get_title().endswith("hatched: status not ok; crossed: no interval")
    ok = pl.effects_heatmap(effects, stratum={"cell_type": "x"}, treatments=["A"], show=False)
    assert not ok.patches and "hatched" not in ok.get_title() and "crossed" not in ok.get_title()


def test_a_noisy_arm_without_an_interval_does_not_bleach_the_others(effects):
    noisy = with_status(effects, "too_few_cells", error=False)
    noisy.estimate[0, 0] = 100.0
    ax = pl.effects_heatmap(noisy, stratum={"cell_type": "x"}, genes=[f"g{i}" for i in range(12)], show=False)
    limit = np.quantile(np.abs(noisy.estimate[1, 0]), 0.98)
    np.testing.assert_allclose(ax.images[0].get_clim(), (-limit, limit))
    assert ax.figure.axes[-1]._colorbar.extend == "both"
    alone = pl.effects_heatmap(noisy, stratum={"cell_type": "x"}, treatments=["A"], genes=["g0", "g1"], show=False)
    np.testing.assert_allclose(alone.images[0].get_clim(), (-100, 100))


def test_the_colour_bar_of_few_rows_holds_its_label(effects):
    ax = pl.effects_heatmap(effects, stratum="x", treatments=["A"], show=False)
    ax.figure.draw_without_rendering()
    label = ax.figure.axes[-1].yaxis.label.get_window_extent()
    assert 0 <= label.y0 and label.y1 <= ax.figure.bbox.height


def test_a_contrast_is_labelled_as_what_it_is(effects):
    contrast = effects.select("A").contrast(effects.select("B"), independent=True)
    for draw in (pl.effects_volcano, pl.effects_forest):
        ax = draw(contrast, stratum="x", show=False)
        assert ax.get_xlabel() == "difference of effects on mean expression"
        assert ax.get_title().splitlines()[0] == "A - B, each against control"
    bar = pl.effects_heatmap(contrast, stratum="x", show=False).figure.axes[-1]
    assert bar.get_ylabel() == "difference of effects on mean expression"
    means = estimated(reference=None)
    contrast = means.select("A").contrast(means.select("B"), independent=True)
    ax = pl.effects_forest(contrast, stratum="x", show=False)
    assert (ax.get_xlabel(), ax.get_title().splitlines()[0]) == ("difference of mean expression", "A - B")


def test_long_titles_are_wrapped_within_the_figure(effects):
    named = replace(effects, treatments=pd.Index(["Dacinostat (LAQ824), histone deacetylase inhibitor", "B"]))
    for draw in (pl.effects_volcano, pl.effects_forest, pl.effects_sensitivity):
        ax = draw(named, treatment=named.treatments[0], stratum="x", show=False)
        ax.figure.draw_without_rendering()
        box = ax.title.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= ax.figure.bbox.width
        assert ax.get_title().replace("\n", " ").startswith(f"{named.treatments[0]} against control")


def test_leaks_that_do_not_matter_are_hollow(effects):
    harmless = replace(effects, status=np.full_like(effects.status, "ok"))
    ax = pl.effects_leakage(harmless, show=False)
    points = {line.get_label(): line for line in ax.lines if "found" in line.get_label()}
    assert list(points) == ["no leak found (2)", "leak found, intervals hold (2)"]
    marked = points["leak found, intervals hold (2)"]
    assert (marked.get_color(), marked.get_markerfacecolor()) == (RED, "white")


def test_sensitivity_shows_the_status(effects):
    ax = pl.effects_sensitivity(effects, treatment="B", stratum={"cell_type": "x"}, show=False)
    assert ax.get_title().splitlines()[-1] == "leak_detected"


def test_leakage_says_what_keeps_rows_from_an_interval_and_which_are_left_out(effects):
    ax = pl.effects_leakage(with_status(effects, "too_few_cells", error=False), show=False)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["A, x (too_few_cells)", "A, y", "B, x", "B, y"]  # B: found, in another colour
    assert ax.get_title() == ""
    assert pl.effects_leakage(effects, n_rows=3, show=False).get_title().startswith("3 of 4 rows")


@pytest.mark.parametrize("size", [None, (6, 4)])
def test_names_of_leakage_rows_do_not_touch(effects, size):
    """As drawn, forty rows of long names, in a figure of its own or a small one of the user's."""
    one = effects.select("A", {"cell_type": "x"})
    many = one._take(np.zeros(40, dtype=np.int64), np.zeros(1, dtype=np.int64))
    many = replace(many, treatments=pd.Index([f"{i} Dacinostat (LAQ824), histone deacetylase, {i}" for i in range(40)]))
    ax = pl.effects_leakage(many, figsize=size, show=False)
    ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert len(boxes) == 40
    tops = np.array(sorted((box.y0, box.y1) for box in boxes))
    assert (tops[1:, 0] - tops[:-1, 1]).min() > -0.5  # boxes hold room for letters below the line
    assert min(box.x0 for box in boxes) >= 0
    assert ax.get_window_extent().width > 0.25 * ax.figure.bbox.width


def test_long_names_lose_their_middle():
    assert shorten("CD14 Monocytes") == "CD14 Monocytes"
    assert shorten("a" * 20 + "b" * 20) == "a" * 14 + "…" + "b" * 14
    assert len(shorten("x" * 100)) == LONGEST


@pytest.mark.parametrize("draw", [pl.effects_volcano, pl.effects_forest])
def test_ratios_are_not_drawn_around_zero(draw):
    with pytest.raises(ValueError, match="Estimate with `estimand='log_fold_change'`"):
        draw(estimated(estimand="ratio"), treatment="a", stratum={"cell_type": "x"}, show=False)
