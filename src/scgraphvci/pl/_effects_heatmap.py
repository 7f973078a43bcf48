"""Effects of many treatments at once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.patches import Rectangle

from scgraphvci.estimate import MarginalEffects
from scgraphvci.estimate._estimands import NULL
from scgraphvci.estimate._one_stratum import one_stratum
from scgraphvci.pl._base import Drawn, finish, panels
from scgraphvci.pl._effects import effect_label, levels_of
from scgraphvci.pl._status import shorten, with_status

LIMIT = 0.98  # quantile of effects at which colours end
COLOUR_BAR = 2.0  # inches that its label takes


def effects_heatmap(
    effects: MarginalEffects,
    *,
    stratum: Mapping[str, Any] | Hashable | None = None,
    treatments: Sequence[str] | str | None = None,
    genes: Sequence[str] | str | int = 30,
    alpha: float = 0.05,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw effects of treatments on genes in one stratum, with dots where they are significant.

    Colours reach to the 98 % quantile of the absolute effects drawn that have an interval, so that a few small and
    noisy arms do not bleach the others; beyond it they stay as they are, and the colour bar ends in arrows. Rows
    without an interval do not count, unless there is no other; they are crossed out, rows that have one but another
    status than "ok" are hatched, and the names of both are followed by the status.

    Parameters
    ----------
    effects
        What :meth:`scgraphvci.GraphVCI.marginal_effect` returned.
    stratum
        One level for each stratum key, as in ``{"cell_type": "B"}``, or ``"B"`` itself where there is one
        key; may be left out if there is one stratum.
    treatments
        Treatments to draw, from top to bottom; all by default.
    genes
        Genes to draw, from left to right; or the number of genes with the largest effects in units of their errors,
        those of the same treatment side by side.
    alpha
        Cells with a smaller adjusted p-value have a dot.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If stratum, a treatment or a gene are not in the result.
    ValueError
        If more than one stratum is meant, the result is of means without a reference, or no effect is finite.
    """
    estimand = effects.params.get("estimand", "difference")
    if effects.params["reference"] is None and not effects.is_contrast:
        msg = "This result holds means of arms, not effects. Estimate with a `reference`."
        raise ValueError(msg)
    chosen = one_stratum(effects.select(treatments), stratum)
    frame = chosen.to_frame(genes=None if isinstance(genes, int) else genes)
    wide = {
        name: frame.pivot(index="treatment", columns="gene", values=name)
        .loc[chosen.treatments, frame["gene"].unique()]
        for name in ("estimate", "std_error", "p_value_adj")
    }  # fmt: skip
    value = wide["estimate"] - NULL[estimand]
    if isinstance(genes, int):
        in_errors = (value / wide["std_error"].where(wide["std_error"] > 0)).abs().fillna(0.0)
        strong = in_errors.loc[:, in_errors.max().nlargest(genes).index]
        order = np.lexsort([-strong.max(), strong.to_numpy().argmax(axis=0)])
        value = value[strong.columns[order]]
    finite = np.isfinite(value.to_numpy())
    if not finite.any():
        msg = f"No effect to draw in {levels_of(chosen) or 'this result'}. `effects.overlap()['status']` says why."
        raise ValueError(msg)
    has_interval = np.isfinite(wide["std_error"][value.columns].to_numpy())
    counted = finite & has_interval if (finite & has_interval).any() else finite
    size = np.abs(value.to_numpy())
    limit = float(np.quantile(size[counted], LIMIT)) or float(size[finite].max()) or 1.0
    status = chosen.status[:, 0]
    rows = with_status(map(shorten, value.index), status)
    longest = max(0.0, 0.07 * (max(map(len, rows)) - 12))  # inches for names longer than usual
    height = 0.8 + 0.065 * max(map(len, map(str, value.columns))) + max(0.22 * len(value), COLOUR_BAR)
    axis = panels(1, ax, figsize, (2.6 + 0.2 * value.shape[1] + longest, height))[0]
    colours = mpl.colormaps["RdBu_r"].with_extremes(bad="0.75")
    image = axis.imshow(value.to_numpy() + NULL[estimand], cmap=colours, norm=CenteredNorm(NULL[estimand], limit),
                        aspect="auto", interpolation="nearest")  # fmt: skip
    row, column = np.nonzero(wide["p_value_adj"][value.columns].to_numpy() <= alpha)
    axis.scatter(column, row, s=7, color="black", linewidths=0.4, edgecolors="white")
    axis.set_xticks(range(value.shape[1]), value.columns, rotation=90, fontsize="x-small")
    axis.set_yticks(range(len(value)), rows, fontsize="small")
    crossed = ~has_interval.any(axis=1)
    for marked in np.flatnonzero((status != "ok") | crossed):
        axis.add_patch(Rectangle((-0.5, marked - 0.5), value.shape[1], 1, fill=False, linewidth=0, edgecolor="0.45",
                                 hatch="xxx" if crossed[marked] else "///"))  # fmt: skip
    axis.tick_params(length=0)
    key = f"dots: adjusted p at most {alpha:g}"
    key += "; hatched: status not ok" if ((status != "ok") & ~crossed).any() else ""
    key += "; crossed: no interval" if crossed.any() else ""
    axis.set_title("\n".join(filter(None, [levels_of(chosen), key])), fontsize="medium")
    axis.spines[:].set_visible(False)
    extend = "both" if (size[finite] > limit).any() else "neither"
    axis.figure.colorbar(image, ax=axis, label=effect_label(effects), pad=0.02, extend=extend)
    return finish(np.array([axis]), show, return_fig, single=True)
