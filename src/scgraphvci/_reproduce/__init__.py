"""The paper's tables on any screen: `scgraphvci reproduce`."""

from scgraphvci._reproduce._experiment import EFFECT_MODELS, MODELS, Experiment
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
    "Recipe",
    "Report",
    "add_options",
    "hold_out_category",
    "reproduce_table1",
    "reproduce_table2",
    "to_experiment",
]
