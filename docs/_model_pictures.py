"""Draw the diagrams of the model page: `python docs/_model_pictures.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch

STATIC = Path(__file__).parent / "_static"
DPI = 110
INK, OBSERVED, LEARNED, GRAPH = "#222222", "#DCE9F5", "#FFFFFF", "#FCEBD2"
Place = tuple[float, float]


def main() -> None:
    """Write both diagrams."""
    mpl.use("Agg")
    causal_diagram()
    architecture()


def causal_diagram() -> None:
    """Draw what depends on what; observed variables are filled."""
    places = {
        "G": (0.0, 1.0), "X": (0.0, 0.0), "Z": (1.6, 1.0), "T": (1.6, 0.0), "T′": (1.6, -1.0),
        "Y": (3.2, 0.5), "Y′": (3.2, -0.5),
    }  # fmt: skip
    figure, ax = canvas((5.4, 3.3), (-0.6, 3.8), (-1.5, 1.5))
    for one, other in ["GZ", "XZ", "XT", ("X", "T′"), "ZY", "TY", ("Z", "Y′"), ("T′", "Y′")]:
        connect(ax, places[one], places[other], 20)
    for name, place in places.items():
        fill = LEARNED if name in ("Z", "Y′") else OBSERVED
        ax.add_patch(Circle(place, 0.23, fc=fill, ec=INK, ls="--" if name == "Y′" else "-"))
        ax.text(*place, f"${name.replace('′', chr(39))}$", ha="center", va="center", fontsize=15)
    figure.savefig(STATIC / "causal_diagram.png", dpi=DPI)
    plt.close(figure)


def architecture() -> None:
    """Draw encoder and decoder, twice through the same weights."""
    figure, ax = canvas((10.4, 4.6), (0, 10.4), (0.6, 5.2))
    boxes = {
        "cell": (0.1, 2.7, 1.3, "cell\n$y, t, x$", OBSERVED),
        "mlp": (1.9, 2.7, 1.3, "MLP", LEARNED),
        "network": (0.1, 0.8, 1.3, "network $G$,\ngene features", GRAPH),
        "gnn": (1.9, 0.8, 1.8, "graph network\n$H$: genes × features", GRAPH),
        "latent": (3.9, 2.7, 1.6, "latent state\n$q(z\\mid y,g,x,t)$", LEARNED),
        "decoder": (6.1, 2.7, 2.0, "decoder\neach gene reads $u(z,t)$\nthrough its row of $H$", LEARNED),
        "baseline": (6.1, 0.8, 2.0, "baseline $m_{xt}$:\nmeans of strata", GRAPH),
        "other": (8.9, 3.4, 1.3, "$y'$ under $t'$", LEARNED),
        "observed": (8.9, 1.9, 1.3, "$y$ under $t$", OBSERVED),
    }
    for x, y, width, text, fill in boxes.values():
        ax.add_patch(FancyBboxPatch((x, y), width, 1.0, boxstyle="round,pad=0.04", fc=fill, ec=INK, lw=1))
        ax.text(x + width / 2, y + 0.5, text, ha="center", va="center", fontsize=9.5)
    for start, end in [
        ((1.44, 3.2), (1.86, 3.2)), ((3.24, 3.2), (3.86, 3.2)), ((5.54, 3.2), (6.06, 3.2)),
        ((1.44, 1.3), (1.86, 1.3)), ((2.9, 1.84), (4.4, 2.66)), ((3.74, 1.4), (6.4, 2.66)),
        ((7.1, 1.84), (7.1, 2.66)), ((8.14, 3.4), (8.86, 3.8)), ((8.14, 3.0), (8.86, 2.5)),
    ]:  # fmt: skip
        connect(ax, start, end, 0)
    ax.plot([9.55, 9.55, 4.7], [4.44, 4.75, 4.75], color=INK, ls="--", lw=1.1)
    connect(ax, (4.7, 4.75), (4.7, 3.74), 0)
    ax.text(7.1, 4.85, "encoded again: to the same latent state", ha="center", va="bottom", fontsize=9.5)
    figure.savefig(STATIC / "architecture.png", dpi=DPI)
    plt.close(figure)


def canvas(size: tuple[float, float], x: Place, y: Place) -> tuple[plt.Figure, Axes]:
    """Return an empty figure in units of the drawing."""
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    ax.set(xlim=x, ylim=y, aspect="equal")
    ax.axis("off")
    return figure, ax


def connect(ax: Axes, start: Place, end: Place, gap: float) -> None:
    """Draw an arrow that leaves `gap` points free at both ends."""
    arrow = {"arrowstyle": "-|>", "color": INK, "shrinkA": gap, "shrinkB": gap, "lw": 1.1}
    ax.annotate("", end, start, arrowprops=arrow)


if __name__ == "__main__":
    main()
