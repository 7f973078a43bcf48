"""Single-cell counterfactuals, treatment effects with intervals, and refined gene regulatory networks."""

from __future__ import annotations

from importlib.metadata import version

from scvi import settings

from scgraphvci import baselines, datasets, grn, metrics, pl, tl
from scgraphvci.estimate import MarginalEffects
from scgraphvci.evaluate import evaluate
from scgraphvci.model import GraphVCI, GRNRefiner

__all__ = [
    "GRNRefiner",
    "GraphVCI",
    "MarginalEffects",
    "__version__",
    "baselines",
    "datasets",
    "evaluate",
    "grn",
    "metrics",
    "pl",
    "settings",
    "tl",
]

__version__ = version("scgraphvci")
