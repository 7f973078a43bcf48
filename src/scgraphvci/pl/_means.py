"""Predicted against true means of one held-out condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scgraphvci.evaluate import Evaluation
from scgraphvci.metrics import r2
from scgraphvci.pl._base import GREY, RED, Drawn, choose, ends_row, finish, legend_beside, panels, starts_row, tidy
from scgraphvci.pl._status import shorten

KEYS = ("treatment", "dose")


def mean_scatter(
    evaluation: Evaluation,
    *,
    treatment: str,
    stratum: Mapping[str, Any] | None = None,
    dose: str | None = None,
    predictors: Sequence[str] | str | None = None,
    n_names: int = 8,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw predicted against true mean expression of a held-out treatment in a stratum, one panel per predictor.

    Differentially expressed genes, those that `r2_de` counts, are coloured; lines lead from their mean under control,
    on the diagonal, to where they went, and those that went farthest are named. Titles hold `r2` and `r2_de`.

    Parameters
    ----------
    evaluation
        The evaluation.
    treatment
        A held-out treatment.
    stratum
        Levels of covariates, as in ``{"cell_type": "CD8"}``; may be left out if one stratum holds the treatment out.
    dose
        Dose, as text; may be left out if there is one.
    predictors
        Which to draw, in this order; all if None.
    n_names
        Number of genes to name.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If a predictor or a key of `stratum` is missing.
    ValueError
        If `treatment`, `stratum` and `dose` do not name exactly one condition.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=600, n_genes=60, n_perturbations=4, seed=0)
    >>> shift = sgv.baselines.ContextShift(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> evaluation = sgv.Evaluation({"mine": shift}, baselines=None, duplicates=False, n_de=10)
    >>> one = evaluation.pairs().iloc[0]
    >>> held_out = {"treatment": one["treatment"], "stratum": {"cell_type": one["cell_type"]}}
    >>> ax = sgv.pl.mean_scatter(evaluation, **held_out, n_names=3, show=False)[0]
    >>> len([text for text in ax.texts if text.get_text() in adata.var_names])
    3
    """
    means, label = _condition(evaluation, treatment, stratum, dose)
    names = choose("Predictors", predictors, means["predictor"])
    means = means[means["predictor"].isin(names)]
    low, high = (float(f(means[["true", "predicted"]].to_numpy())) for f in (np.min, np.max))
    margin = 0.05 * (high - low or 1.0)
    axes = panels(len(names), ax, figsize, (3.0, 3.7), beside=1.9)
    for axis, name, is_first in zip(axes, names, starts_row(axes), strict=True):
        part = means[means["predictor"] == name]
        is_de = part["is_de"].to_numpy()
        axis.axline((low, low), slope=1, color="black", linewidth=0.8, linestyle="--")
        start, end = part.loc[is_de, "reference"], part.loc[is_de, ["true", "predicted"]]
        axis.plot(np.stack([start, end["true"]]), np.stack([start, end["predicted"]]), color=RED, linewidth=0.5,
                  alpha=0.4)  # fmt: skip
        for kind, colour, size in (("other", GREY, 6), ("differentially expressed", RED, 12)):
            points = part[is_de == (kind != "other")]
            axis.scatter(points["true"], points["predicted"], s=size, color=colour, linewidths=0, alpha=0.8,
                         label=f"{kind} ({len(points):,})", zorder=2)  # fmt: skip
        axis.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), xlabel="true mean")
        axis.set_ylabel("predicted mean" if is_first else "")
        axis.set_box_aspect(1)
        scores = [r2(chosen["true"].to_numpy(), chosen["predicted"].to_numpy()) for chosen in (part, part[is_de])]
        axis.set_title(f"{shorten(name)}\nR² = {scores[0]:.2f}, DE {scores[1]:.2f}", fontsize="medium")
        _name_genes(axis, part[is_de], n_names)
        tidy(axis)
    legend_beside(ends_row(axes), title=label, title_fontsize="x-small", alignment="left")
    return finish(axes, show, return_fig)


def _condition(
    evaluation: Evaluation, treatment: str, stratum: Mapping[str, Any] | None, dose: str | None
) -> tuple[pd.DataFrame, str]:
    """Means of the only condition that is meant, one row per predictor and gene, and its name."""
    genes, shifts = evaluation.genes(), evaluation.shifts()
    places = [key for key in genes.columns[: genes.columns.get_loc("gene")] if key not in KEYS]
    wanted: dict[str, Any] = {
        "treatment": treatment,
        **(stratum or {}),
        **({} if dose is None else {"dose": dose}),
    }
    missing = [key for key in wanted if key not in genes]
    if missing:
        msg = f"The strata of this evaluation have no {missing}. They have {places}."
        raise KeyError(msg)
    conditions = genes[[*KEYS, *places]].drop_duplicates()
    chosen = conditions
    for key, level in wanted.items():
        chosen = chosen[chosen[key].astype(str) == str(level)]
    if len(chosen) != 1:
        fitting = chosen if len(chosen) else conditions
        msg = (
            f"{wanted} fits {len(chosen)} held-out conditions, must fit one. Choose from "
            f"{fitting.head(10).to_dict('records')}{' ...' if len(fitting) > 10 else ''}."
        )
        raise ValueError(msg)
    keys = [*KEYS, *places, "gene"]
    means = shifts.merge(chosen).merge(genes[[*keys, "reference", "is_de"]], on=keys)
    means["predicted"] += means["reference"]
    means["true"] += means["reference"]
    one = chosen.iloc[0]
    lines = [str(one["treatment"]) + (f" @ {one['dose']}" if one["dose"] else ""), *(str(one[key]) for key in places)]
    return means, "\n".join(map(shorten, lines))


def _name_genes(axis: Axes, genes: pd.DataFrame, n_names: int) -> None:
    """Name the genes that truly went farthest, in the free corners: above the diagonal, and below it."""
    named = genes.loc[(genes["true"] - genes["reference"]).abs().nlargest(n_names).index].sort_values("predicted")
    low, high = axis.get_ylim()
    size = high - low
    for above in (True, False):
        part = named[(named["predicted"] >= named["true"]) == above]
        bottom, top = (low + 0.45 * size, high) if above else (low, low + 0.55 * size)
        heights = _apart(part["predicted"].to_numpy(), bottom + 0.03 * size, top - 0.03 * size, 0.055 * size)
        for (_, row), height in zip(part.iterrows(), heights, strict=True):
            axis.annotate(
                str(row["gene"]), (row["true"], row["predicted"]),
                xytext=(low + 0.02 * size if above else high - 0.02 * size, height),
                ha="left" if above else "right", va="center", fontsize="x-small", zorder=3,
                arrowprops={"arrowstyle": "-", "color": "0.4", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
            )  # fmt: skip


def _apart(heights: np.ndarray, low: float, high: float, line: float) -> np.ndarray:
    """Move ascending heights between two limits, a line apart where so many fit."""
    rank = np.arange(heights.size) * min(line, (high - low) / max(1, heights.size - 1))
    moved = np.maximum.accumulate(np.clip(heights, low, high) - rank) + rank
    return np.minimum(moved, high - rank[::-1])
