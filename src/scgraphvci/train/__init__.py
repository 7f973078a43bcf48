"""Training plans and the splitting of cells."""

from scgraphvci.train._adversarial_plan import AdversarialPlan
from scgraphvci.train._checkpoint import SaveCheckpoint
from scgraphvci.train._plan import CounterfactualPlan
from scgraphvci.train._splitter import SplitByColumn

__all__ = ["AdversarialPlan", "CounterfactualPlan", "SaveCheckpoint", "SplitByColumn"]
