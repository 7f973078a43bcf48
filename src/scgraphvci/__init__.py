"""Single-cell counterfactuals, treatment effects with intervals, and refined gene regulatory networks."""

from __future__ import annotations

from importlib.metadata import version

from scvi import settings

from scgraphvci import baselines, datasets, grn, metrics, tl
from scgraphvci.estimate import MarginalEffects
from scgraphvci.model import GraphVCI, GRNRefiner

__all__ = [
    "GRNRefiner",
    "GraphVCI",
    "MarginalEffects",
    "__version__",
    "baselines",
    "datasets",
    "grn",
    "metrics",
    "settings",
    "tl",
]

__version__ = version("scgraphvci")
