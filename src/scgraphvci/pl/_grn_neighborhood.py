"""Targets of a regulator."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scgraphvci.grn import to_frame
from scgraphvci.grn._frame import check_columns
from scgraphvci.pl._base import BLUE, GREY, RED, Drawn, finish, legend_beside, panels, tidy

MARKERS = {"": "o", "kept": "o", "added": "D", "dropped": "x"}


def grn_neighborhood(
    net: AnnData | pd.DataFrame,
    *,
    regulator: str,
    key: str = "grn_refined",
    n_targets: int = 25,
    dropped: bool = False,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the targets of a regulator with the signed weights of its edges, the strongest on top.

    Colour is the sign, where the network has signs. Of a refined network, the marker says whether the prior had the
    edge; where edges have a support, it is written at the right.

    Parameters
    ----------
    net
        An AnnData with the network in `varp[key]`, or a frame with columns `source`, `target`, `weight` and optionally
        `sign`, `status` and `support`, as :func:`scgraphvci.grn.to_frame` and
        :meth:`scgraphvci.GRNRefiner.get_refined_grn` return it.
    regulator
        The regulator.
    key
        Key of the network in an AnnData.
    n_targets
        Number of targets to draw at most, those with the largest magnitude of weight.
    dropped
        Also count and draw edges of the prior that the refined network left out, as crosses at 0.
    ax, figsize, show, return_fig
        See :mod:`scgraphvci.pl`.

    Raises
    ------
    KeyError
        If there is no such network, a column is missing, or the regulator has no target.
    ValueError
        If `n_targets` is below 1.

    Examples
    --------
    >>> import pandas as pd, scgraphvci as sgv
    >>> net = pd.DataFrame({"source": "STAT1", "target": ["IRF1", "GBP1", "SOCS1"], "weight": [0.9, 0.5, -0.7]})
    >>> ax = sgv.pl.grn_neighborhood(net, regulator="STAT1", show=False)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['IRF1', 'SOCS1', 'GBP1']
    """
    if n_targets < 1:
        msg = f"`n_targets` is {n_targets}, must be at least 1."
        raise ValueError(msg)
    edges = _edges_of(to_frame(net, key) if isinstance(net, AnnData) else net, regulator, dropped)
    drawn = edges.head(n_targets)
    axis = panels(1, ax, figsize, (5.2, 1.0 + 0.22 * len(drawn)))[0]
    signed = bool((edges["weight"] < 0).any())
    position = np.arange(len(drawn))
    colours = np.where(drawn["weight"] < 0, RED, BLUE).tolist()
    axis.hlines(position, 0, drawn["weight"], colors=colours, linewidth=1.2)
    groups = drawn.assign(at=position, negative=drawn["weight"] < 0).groupby(["status", "negative"], sort=False)
    for group, part in groups:
        status, negative = str(group[0]), bool(group[1])
        sign = ("represses" if negative else "activates") if signed and status != "dropped" else ""
        colour = GREY if status == "dropped" else RED if negative else BLUE
        label = ", ".join(filter(None, [status, sign]))
        axis.plot(part["weight"], part["at"], MARKERS[status], markersize=5, color=colour, label=label or "edge")
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set_yticks(position, drawn["target"], fontsize="small")
    axis.set(ylim=(len(drawn) - 0.5, -0.5), xlabel="weight")
    axis.set_title(f"{regulator}: {_count(edges, len(drawn))}", fontsize="medium")
    if "support" in drawn:
        _write_support(axis, drawn["support"].to_numpy())
    if signed or edges["status"].any():
        legend_beside(axis, gap=0.16 if "support" in drawn else 0.0)
    tidy(axis)
    return finish(np.array([axis]), show, return_fig, single=True)


def _edges_of(frame: pd.DataFrame, regulator: str, dropped: bool) -> pd.DataFrame:
    """Edges of a regulator to other genes, the strongest first, with a sign in `weight` and a text in `status`."""
    check_columns(frame, ["source", "target", "weight"], "net", "`scgraphvci.grn.to_frame` makes such a frame.")
    frame = frame.assign(status=frame["status"] if "status" in frame else "")
    if not dropped:
        frame = frame[frame["status"] != "dropped"]
    edges = frame[(frame["source"].astype(str) == regulator) & (frame["target"] != frame["source"])]
    if edges.empty:
        most = frame["source"].astype(str).value_counts().index[:5].tolist()
        msg = f"{regulator!r} has no target in this network. Regulators with most targets: {most}."
        raise KeyError(msg)
    weight = edges["weight"].where(edges["status"] != "dropped", 0.0)
    if "sign" in edges:
        weight = weight.abs() * edges["sign"]
    return edges.assign(weight=weight).sort_values("weight", key=abs, ascending=False, kind="stable")


def _count(edges: pd.DataFrame, n_drawn: int) -> str:
    """Say how many targets there are, and how many are drawn."""
    kinds = ", ".join(f"{n} {name}" for name, n in edges["status"].value_counts().items() if name)
    total = f"{len(edges)} targets" + (f" ({kinds})" if kinds else "")
    return total if n_drawn == len(edges) else f"{total}\n{n_drawn} strongest"


def _write_support(axis: Axes, support: np.ndarray) -> None:
    """Write the support of every row at the right, under a heading."""
    cells = [(-1.0, "support"), *((float(row), f"{share:.0%}") for row, share in enumerate(support))]
    for row, text in cells:
        axis.annotate(text, (1.13, row), xycoords=("axes fraction", "data"), annotation_clip=False, fontsize="x-small",
                      va="center", ha="right")  # fmt: skip
