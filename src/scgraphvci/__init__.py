"""Single-cell counterfactuals, treatment effects with intervals, and refined gene regulatory networks."""

from __future__ import annotations

from importlib.metadata import version

from scvi import settings

from scgraphvci import datasets, metrics
from scgraphvci.estimate import MarginalEffects
from scgraphvci.model import GraphVCI

__all__ = ["GraphVCI", "MarginalEffects", "__version__", "datasets", "metrics", "settings"]

__version__ = version("scgraphvci")
