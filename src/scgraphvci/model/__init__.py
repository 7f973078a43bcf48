"""The user's models."""

from scgraphvci.model._graphvci import GraphVCI
from scgraphvci.model._memory import estimate_memory
from scgraphvci.model._refiner import GRNRefiner

__all__ = ["GRNRefiner", "GraphVCI", "estimate_memory"]
