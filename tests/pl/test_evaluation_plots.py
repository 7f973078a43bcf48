"""Bars of an evaluation, and means of one condition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

import scgraphvci as sgv
from scgraphvci import pl
from scgraphvci.pl._base import BLUE, GREEN, GREY
from scgraphvci.pl._means import _apart


@pytest.fixture(scope="module")
def evaluation():
    adata = sgv.datasets.simulate(n_cells=600, n_genes=60, n_perturbations=5, n_ood_pairs=4, seed=0)
    mine = sgv.baselines.ContextShift(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    return sgv.Evaluation({"mine": mine}, n_bootstrap=50, n_de=10)


def by_label(axis, label):
    return [line for line in axis.lines if line.get_label() == label]


def test_bars_are_the_summary(evaluation):
    summary = evaluation.summary()
    axes = pl.evaluation_bars(evaluation, metrics=["pearson_perturbed", "centroid_accuracy"], show=False)
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert sorted(names) == sorted(summary.index)
    assert names[0] == "mine" and names[-2:] == ["technical duplicate", "interpolated duplicate"]
    for axis, metric in zip(axes, ["pearson_perturbed", "centroid_accuracy"], strict=True):
        scores = summary[metric].loc[names]
        np.testing.assert_allclose([bar.get_width() for bar in axis.patches], scores["mean"].fillna(0))
        intervals = np.array([segment[:, 0] for segment in axis.collections[0].get_segments()])
        known = scores[["ci_low", "ci_high"]].notna().all(axis=1).to_numpy()
        np.testing.assert_allclose(intervals[known], scores.loc[known, ["ci_low", "ci_high"]])
        (best,) = by_label(axis, "best simple baseline")
        simple = [name for name in names if name != "mine" and "duplicate" not in name]
        assert best.get_xdata()[0] == pytest.approx(scores.loc[simple, "mean"].max())
    colours = [bar.get_facecolor()[:3] for bar in axes[0].patches]
    expected = [BLUE] + [GREY] * (len(names) - 3) + [GREEN] * 2
    np.testing.assert_allclose(colours, [to_rgba(colour)[:3] for colour in expected])
    assert by_label(axes[0], "no information") == []
    assert by_label(axes[1], "no information")[0].get_xdata()[0] == 0.5
    legend = [text.get_text() for text in axes[-1].get_legend().get_texts()]
    assert legend == ["model", "simple baseline", "repeated experiment", "best simple baseline", "no information"]


def test_bars_of_a_summary_are_the_same(evaluation):
    drawn, expected = (
        [bar.get_width() for bar in pl.evaluation_bars(what, metrics="mse", show=False)[0].patches]
        for what in (evaluation.summary(), evaluation)
    )
    assert drawn == expected
    (axis,) = pl.evaluation_bars(evaluation, metrics="mse", predictors=["no change"], show=False)
    assert axis.get_xlabel() == "lower is better"
    best = evaluation.summary()["mse", "mean"].drop(["mine", "technical duplicate", "interpolated duplicate"]).min()
    assert by_label(axis, "best simple baseline")[0].get_xdata()[0] == pytest.approx(best)


def summary_of(**means: float) -> pd.DataFrame:
    """Summary of one metric without spread, which cannot tell anything."""
    rows = {
        name: {("weighted_r2", "mean"): mean, ("weighted_r2", "ci_low"): mean, ("weighted_r2", "ci_high"): mean}
        for name, mean in means.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["weighted_r2", "drf"] = 0.0
    return table


def test_what_lies_far_below_and_what_is_not_defined():
    scores = summary_of(**{"mine": 0.6, "no change": -40.0, "train mean": np.nan})
    (axis,) = pl.evaluation_bars(scores, metrics="weighted_r2", show=False)
    assert axis.get_xlim()[0] == -0.5
    texts = {text.get_text(): text.xy[1] for text in axis.texts}
    assert texts == {"← -40.0": 1, "not defined": 2}
    assert axis.get_title() == "weighted r2\ncannot tell on these data (DRF 0.00)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"metrics": "elbo"}, r"Metrics \['elbo'\]"), ({"predictors": "nobody"}, r"Predictors \['nobody'\]")],
)
def test_bars_of_what_was_not_scored(evaluation, arguments, message):
    with pytest.raises(KeyError, match=message):
        pl.evaluation_bars(evaluation, **arguments, show=False)


@pytest.fixture(scope="module")
def condition(evaluation):
    one = evaluation.pairs().query("predictor == 'mine'").iloc[0]
    return {"treatment": one["treatment"], "stratum": {"cell_type": one["cell_type"]}}, one


def test_means_and_scores_of_one_condition(evaluation, condition):
    which, one = condition
    mine, unchanged = pl.mean_scatter(evaluation, **which, predictors=["mine", "no change"], n_names=4, show=False)
    assert mine.get_title() == f"mine\nR² = {one['r2']:.2f}, DE {one['r2_de']:.2f}"
    genes = evaluation.genes()
    genes = genes[(genes["treatment"] == one["treatment"]) & (genes["cell_type"] == one["cell_type"])]
    shifts = (
        evaluation.shifts()
        .query("predictor == 'mine'")
        .merge(genes[["treatment", "cell_type", "gene", "is_de", "reference"]])
    )
    points = {part.get_label(): np.asarray(part.get_offsets()) for part in mine.collections if part.get_label()}
    for label, is_de in (("differentially expressed (10)", True), ("other (50)", False)):
        part = shifts[shifts["is_de"] == is_de]
        expected = np.stack([part["true"] + part["reference"], part["predicted"] + part["reference"]], axis=1)
        np.testing.assert_allclose(points[label], expected, rtol=1e-6)
    farthest = genes.assign(far=(genes["true"] - genes["reference"]).abs()).nlargest(4, "far")["gene"]
    assert {text.get_text() for text in mine.texts} == set(farthest)
    (alone,) = pl.mean_scatter(evaluation, **which, predictors="mine", show=False)
    assert alone.get_title() == mine.get_title()
    # Where nothing changes, predictions are the control means: no line leaves the start in height.
    starts = [line.get_ydata() for line in unchanged.lines if len(line.get_ydata()) == 2 and line.get_alpha() == 0.4]
    assert len(starts) == 10
    np.testing.assert_allclose(*np.transpose(starts), rtol=1e-5, atol=1e-6)
    legend = unchanged.get_legend()
    assert legend.get_title().get_text() == f"{one['treatment']}\n{one['cell_type']}"


def test_which_condition_is_meant(evaluation, condition):
    which, _ = condition
    with pytest.raises(ValueError, match="fits 0 held-out conditions, must fit one. Choose from"):
        pl.mean_scatter(evaluation, treatment="nothing", show=False)
    with pytest.raises(KeyError, match=r"have no \['donor'\]"):
        pl.mean_scatter(evaluation, treatment=which["treatment"], stratum={"donor": "a"}, show=False)
    with pytest.raises(KeyError, match="'nobody'"):
        pl.mean_scatter(evaluation, **which, predictors="nobody", show=False)


def test_names_are_a_line_apart_between_the_limits():
    moved = _apart(np.array([-1.0, 0.1, 0.1, 0.12, 5.0]), 0.0, 1.0, 0.2)
    assert moved.min() >= 0.0 and moved.max() <= 1.0
    assert np.diff(moved).min() >= 0.2 - 1e-9
    np.testing.assert_allclose(_apart(np.array([0.2, 0.6]), 0.0, 1.0, 0.2), [0.2, 0.6])
    assert np.ptp(_apart(np.zeros(11), 0.0, 1.0, 0.2)) == pytest.approx(1.0)  # no room: evenly
