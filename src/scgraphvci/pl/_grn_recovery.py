"""How well networks recover a known one."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from scgraphvci.pl._base import COLOURS, GREY, Drawn, choose, ends_row, finish, legend_beside, panels, starts_row, tidy

COLUMNS = ("predictor", "regulator", "recall", "precision", "density")


def grn_precision_recall(
    curves: pd.DataFrame,
    *,
    regulators: Sequence[str] | str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw precision-recall curves of networks, one panel per regulator, with the precision of random scores dashed.

    Where a network has no more edges, its curve goes on dotted: the candidates left are as good as random ones.

    Parameters
    ----------
    curves
        Of :func:`scgraphvci.grn.precision_recall`.
    regulators
        Which to draw, in this order; "all" is the pooled curve. None: all that `curves` holds.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If a column or regulator is missing.

    Examples
    --------
    >>> import pandas as pd, scgraphvci as sgv
    >>> truth = pd.DataFrame({"source": ["A", "A"], "target": ["B", "C"]})
    >>> net = pd.DataFrame({"source": ["A", "A"], "target": ["B", "D"], "weight": [2.0, 1.0]})
    >>> curves = sgv.grn.precision_recall({"refined": net}, truth, genes=["A", "B", "C", "D"])
    >>> sgv.pl.grn_precision_recall(curves, show=False)[0].get_title()
    'all regulators'
    """
    missing = [name for name in COLUMNS if name not in curves]
    if missing:
        msg = f"`curves` has no column {missing}. Make it with `scgraphvci.grn.precision_recall`."
        raise KeyError(msg)
    names = choose("Regulators", regulators, curves["regulator"], "Make it with `per_regulator=True`.")
    predictors = list(dict.fromkeys(curves["predictor"]))
    axes = panels(len(names), ax, figsize, (3.2, 3.2), beside=1.6)
    for axis, name, is_first in zip(axes, names, starts_row(axes), strict=True):
        part = curves[curves["regulator"] == name]
        for j, predictor in enumerate(predictors):
            line = part[part["predictor"] == predictor]
            colour = COLOURS[j % len(COLOURS)]
            style = ("-", "-.", ":")[j // len(COLOURS) % 3]
            recall, precision = line["recall"].to_numpy(), line["precision"].to_numpy()
            axis.plot(recall[:-1], precision[:-1], style, color=colour, label=predictor, linewidth=1.5,
                      drawstyle="steps-pre")  # fmt: skip
            axis.plot(
                recall[-2:], precision[-2:], linestyle=(0, (1, 2)), color=colour, linewidth=0.9, drawstyle="steps-pre"
            )
        axis.axhline(float(part["density"].iloc[0]), color=GREY, linewidth=0.8, linestyle="--", label="random scores")
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision" if is_first else "")
        axis.set_title("all regulators" if name == "all" else name, fontsize="medium")
        tidy(axis)
    legend_beside(ends_row(axes))
    return finish(axes, show, return_fig)
