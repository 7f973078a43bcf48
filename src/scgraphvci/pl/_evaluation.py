"""Scores of predictors beside baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from scgraphvci._evaluation._duplicates import DUPLICATES
from scgraphvci._evaluation._predictors import SIMPLE
from scgraphvci._evaluation._summary import MIN_DYNAMIC_RANGE
from scgraphvci.evaluate import Evaluation
from scgraphvci.metrics import METRICS
from scgraphvci.pl._base import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Drawn,
    choose,
    ends_row,
    finish,
    legend_beside,
    panels,
    starts_row,
    tidy,
)
from scgraphvci.pl._status import shorten

COLOUR = {"model": BLUE, "baseline": GREY, "duplicate": GREEN}
MEANING = {"model": "model", "baseline": "simple baseline", "duplicate": "repeated experiment"}
LOWEST = -0.5  # where scores that are 1 at best and 0 without information are cut


def evaluation_bars(
    evaluation: Evaluation | pd.DataFrame,
    *,
    metrics: Sequence[str] | str = ("pearson_perturbed", "weighted_r2", "centroid_accuracy"),
    predictors: Sequence[str] | str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw mean scores with 95 % intervals, models above simple baselines above repeated experiments.

    One panel per metric. The dashed line is the best simple baseline, which a model must beat; the dotted one the value
    of a prediction that knows nothing of the treatment, where there is such a value. A metric whose dynamic range
    fraction is below .2 cannot tell a repeated experiment from a negative control on these data: its title says so.
    Bars that would leave the panel end at its edge, with their value.

    Parameters
    ----------
    evaluation
        An evaluation, or its :meth:`scgraphvci.Evaluation.summary`, as :func:`scgraphvci.evaluate` returns it.
    metrics
        Names of :data:`scgraphvci.metrics.METRICS`.
    predictors
        Which to draw, from top to bottom; all if None.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If a metric or predictor was not scored.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=600, n_genes=60, n_perturbations=4, seed=0)
    >>> shift = sgv.baselines.ContextShift(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> scores = sgv.evaluate({"mine": shift}, n_de=10)
    >>> ax = sgv.pl.evaluation_bars(scores, metrics="weighted_r2", show=False)[0]
    >>> ax.get_yticklabels()[0].get_text()
    'mine'
    """
    summary = evaluation.summary() if isinstance(evaluation, Evaluation) else evaluation
    names = choose("Predictors", predictors, _ordered(summary.index))
    chosen = choose("Metrics", metrics, [name for name in METRICS if (name, "ci_low") in summary.columns])
    axes = panels(len(chosen), ax, figsize, (2.4, 1.2 + 0.26 * len(names)), beside=2.8)
    for axis, metric, is_first in zip(axes, chosen, starts_row(axes), strict=True):
        _draw_metric(axis, metric, pd.DataFrame(summary[metric]), names)
        axis.set_yticks(range(len(names)), list(map(shorten, names)) if is_first else [], fontsize="small")
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        tidy(axis)
    kinds = list(dict.fromkeys(map(_kind, names)))
    lines = {line.get_label(): line for axis in axes for line in axis.get_legend_handles_labels()[0]}.values()
    legend_beside(ends_row(axes), handles=[*(Patch(color=COLOUR[kind], label=MEANING[kind]) for kind in kinds), *lines])
    return finish(axes, show, return_fig)


def _draw_metric(axis: Axes, metric: str, scores: pd.DataFrame, names: list[str]) -> None:
    """Draw the scores of a metric; a frame of the statistics, one row per predictor."""
    info = METRICS[metric]
    part = scores.loc[names]
    mean = part["mean"].to_numpy(dtype=np.float64)
    position = np.arange(len(names))
    colours = [COLOUR[_kind(name)] for name in names]
    axis.barh(position, np.nan_to_num(mean), color=colours, height=0.7)
    axis.hlines(position, part["ci_low"], part["ci_high"], color="black", linewidth=1.2)
    others = scores.loc[[name for name in scores.index if _kind(name) == "baseline"], "mean"].dropna()
    if len(others) and info.higher_is_better is not None:
        best = float(others.max() if info.higher_is_better else others.min())
        axis.axvline(best, color=ORANGE, linewidth=1.2, linestyle="--", label="best simple baseline")
    if info.no_information is not None:
        axis.axvline(info.no_information, color="black", linewidth=0.9, linestyle=":", label="no information")
    _cut(axis, position, mean, part["ci_low"].to_numpy(dtype=np.float64), is_share=info.perfect == 1.0)
    direction = {True: "higher is better", False: "lower is better", None: f"{info.perfect:g} is right"}
    axis.set_xlabel(direction[info.higher_is_better] if np.isfinite(info.perfect) else "")
    drf = float(part["drf"].iloc[0]) if "drf" in part else np.nan
    weak = f"\ncannot tell on these data (DRF {drf:.2f})" if drf < MIN_DYNAMIC_RANGE else ""
    axis.set_title(metric.replace("_", " ") + weak, fontsize="medium" if not weak else "small")


def _cut(axis: Axes, position: np.ndarray, mean: np.ndarray, low: np.ndarray, *, is_share: bool) -> None:
    """Cut scores far below 0 off, and write those that lie beyond, and those that are not defined."""
    if is_share and np.nanmin([*low, *mean, 0.0]) < LOWEST:
        axis.set_xlim(left=LOWEST)
    edge = axis.get_xlim()[0]
    for row, value in zip(position, mean, strict=True):
        if not np.isfinite(value):
            axis.annotate("not defined", (0.0, row), xytext=(3, 0), textcoords="offset points", va="center",
                          fontsize="x-small", bbox={"facecolor": "white", "linewidth": 0, "pad": 1})  # fmt: skip
        elif value < edge:
            axis.annotate(f"← {value:.1f}", (edge, row), xytext=(3, 0), textcoords="offset points", va="center",
                          fontsize="x-small", bbox={"facecolor": "white", "linewidth": 0, "pad": 1})  # fmt: skip


def _kind(name: str) -> str:
    """Kind of a predictor, told by names that no other predictor may have."""
    return "baseline" if name in SIMPLE else "duplicate" if name in DUPLICATES else "model"


def _ordered(names: pd.Index) -> list[str]:
    """Models, then baselines, then duplicates."""
    return sorted(names, key=lambda name: list(COLOUR).index(_kind(name)))
