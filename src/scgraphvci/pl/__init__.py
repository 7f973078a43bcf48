"""Plots of results. Functions draw what models and tools computed; none changes global styles.

All take the keyword arguments `ax` (axes to draw in; an array for several panels), `figsize` (inches), `show`
(``scanpy.settings.autoshow`` if None) and `return_fig`. They return the figure if `return_fig`, else the axes (an array
for plots of several panels) if not shown, else None.
"""

from scgraphvci.pl._counterfactual import counterfactual_violins
from scgraphvci.pl._effects import effects_forest, effects_volcano
from scgraphvci.pl._effects_heatmap import effects_heatmap
from scgraphvci.pl._effects_leak import effects_leakage, effects_sensitivity
from scgraphvci.pl._evaluation import evaluation_bars
from scgraphvci.pl._grn import grn_adjacency
from scgraphvci.pl._grn_neighborhood import grn_neighborhood
from scgraphvci.pl._grn_recovery import grn_precision_recall
from scgraphvci.pl._history import history
from scgraphvci.pl._means import mean_scatter
from scgraphvci.pl._shifts import shift_scatter

__all__ = [
    "counterfactual_violins",
    "effects_forest",
    "effects_heatmap",
    "effects_leakage",
    "effects_sensitivity",
    "effects_volcano",
    "evaluation_bars",
    "grn_adjacency",
    "grn_neighborhood",
    "grn_precision_recall",
    "history",
    "mean_scatter",
    "shift_scatter",
]
