"""The paper's tables and figures on any screen: `scgraphvci reproduce`."""

from scgraphvci._reproduce._experiment import EFFECT_MODELS, MODELS, Experiment, UsageError
from scgraphvci._reproduce._fig4 import reproduce_fig4
from scgraphvci._reproduce._fig5 import reproduce_fig5
from scgraphvci._reproduce._fig6a import reproduce_fig6a
from scgraphvci._reproduce._fig6b import reproduce_fig6b
from scgraphvci._reproduce._figures import FigureReport
from scgraphvci._reproduce._options import add_options, to_experiment
from scgraphvci._reproduce._recipes import RECIPES, Recipe, hold_out_category
from scgraphvci._reproduce._table1 import reproduce_table1
from scgraphvci._reproduce._table2 import reproduce_table2
from scgraphvci._reproduce._tables import Report

__all__ = [
    "EFFECT_MODELS",
    "MODELS",
    "RECIPES",
    "Experiment",
    "FigureReport",
    "Recipe",
    "Report",
    "UsageError",
    "add_options",
    "hold_out_category",
    "reproduce_fig4",
    "reproduce_fig5",
    "reproduce_fig6a",
    "reproduce_fig6b",
    "reproduce_table1",
    "reproduce_table2",
    "to_experiment",
]
