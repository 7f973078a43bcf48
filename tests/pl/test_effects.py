"""Artists of the plots of leak, sensitivity and many treatments against the numbers they stand for."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from scgraphvci import pl
from scgraphvci.estimate import EffectSums, Groups, MarginalEffects, marginal_effects
from scgraphvci.pl._base import BLUE, RED

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
        ({"stratum": None}, "2 strata are left"),
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
    limit = frame["estimate"].abs().max()
    np.testing.assert_allclose(image.get_clim(), (-limit, limit))
    significant = frame["p_value_adj"].to_numpy().reshape(2, 3) <= 0.05
    dots = ax.collections[0].get_offsets()
    assert {tuple(dot) for dot in np.asarray(dots)} == {(j, i) for i, j in zip(*np.nonzero(significant), strict=True)}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "B"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["g0", "g6", "g11"]


def test_heatmap_puts_genes_of_a_treatment_side_by_side(effects):
    ax = pl.effects_heatmap(effects, stratum={"cell_type": "x"}, genes=8, treatments=["B", "A"], show=False)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B", "A"]
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
    with pytest.raises(ValueError, match="2 strata are left"):
        pl.effects_heatmap(effects)
    with pytest.raises(ValueError, match="means of arms"):
        pl.effects_heatmap(estimated(reference=None), stratum={"cell_type": "x"})
    with pytest.raises(KeyError, match="'none'"):
        pl.effects_heatmap(effects, stratum={"cell_type": "x"}, genes=["none"])
    nothing = estimated()
    nothing.estimate[:] = np.nan
    with pytest.raises(ValueError, match="No effect to draw in x"):
        pl.effects_heatmap(nothing, stratum={"cell_type": "x"})


@pytest.mark.parametrize("draw", [pl.effects_volcano, pl.effects_forest])
def test_ratios_are_not_drawn_around_zero(draw):
    with pytest.raises(ValueError, match="Estimate with `estimand='log_fold_change'`"):
        draw(estimated(estimand="ratio"), treatment="a", stratum={"cell_type": "x"}, show=False)
