"""Predicted against true shifts of held-out strata."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scgraphvci.evaluate import Evaluation
from scgraphvci.pl._base import BLUE, GREY, Drawn, choose, finish, panels, starts_row, tidy


def shift_scatter(
    shifts: pd.DataFrame | Evaluation,
    *,
    predictors: Sequence[str] | str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw predicted against true shift from control, one panel per predictor and one point per gene and stratum.

    Parameters
    ----------
    shifts
        An evaluation, or its :meth:`scgraphvci.Evaluation.shifts`: columns `predictor`, `true`, `predicted`.
    predictors
        Which to draw, in this order; all if None.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If a column or predictor is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> from scgraphvci import pl
    >>> shifts = pd.DataFrame({"predictor": "model", "true": [0.0, 1.0, -1.0], "predicted": [0.5, 0.5, -1.0]})
    >>> ax = pl.shift_scatter(shifts, show=False)[0]
    >>> ax.get_title().splitlines()
    ['model', 'r = 0.87']
    """
    if isinstance(shifts, Evaluation):
        shifts = shifts.shifts()
    missing = [name for name in ("predictor", "true", "predicted") if name not in shifts]
    if missing:
        msg = f"`shifts` has no column {missing}. Make it with `scgraphvci.Evaluation.shifts`."
        raise KeyError(msg)
    names = choose("Predictors", predictors, shifts["predictor"])
    chosen = shifts[shifts["predictor"].isin(names)]
    limit = 1.05 * float(np.abs(chosen[["true", "predicted"]].to_numpy()).max())
    axes = panels(len(names), ax, figsize, (3.0, 3.6))
    for axis, name, is_first in zip(axes, names, starts_row(axes), strict=True):
        part = chosen[chosen["predictor"] == name]
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.axvline(0, color=GREY, linewidth=0.6)
        axis.plot([-limit, limit], [-limit, limit], color="black", linewidth=0.8, linestyle="--")
        axis.scatter(part["true"], part["predicted"], s=6, alpha=0.35, color=BLUE, linewidths=0, rasterized=True)
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="true shift")
        axis.set_box_aspect(1)
        axis.set_title(f"{name}\nr = {_correlation(part):.2f}", fontsize="medium")
        axis.set_ylabel("predicted shift" if is_first else "")
        tidy(axis)
    return finish(axes, show, return_fig)


def _correlation(part: pd.DataFrame) -> float:
    """Pearson correlation over all points; 0 where the prediction is constant."""
    true, predicted = part["true"] - part["true"].mean(), part["predicted"] - part["predicted"].mean()
    norm = float(np.sqrt((true**2).sum() * (predicted**2).sum()))
    return float((true * predicted).sum()) / norm if norm > 0 else 0.0
