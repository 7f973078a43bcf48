"""Single-cell counterfactuals, treatment effects with intervals, and refined gene regulatory networks."""

from __future__ import annotations

import logging
from importlib.metadata import version

from scvi import settings

from scgraphvci import baselines, datasets, grn, metrics, pl, pp, tl
from scgraphvci.estimate import MarginalEffects
from scgraphvci.evaluate import Evaluation, evaluate
from scgraphvci.model import GraphVCI, GRNRefiner, estimate_memory

__all__ = [
    "Evaluation",
    "GRNRefiner",
    "GraphVCI",
    "MarginalEffects",
    "__version__",
    "baselines",
    "datasets",
    "estimate_memory",
    "evaluate",
    "grn",
    "metrics",
    "pl",
    "pp",
    "settings",
    "tl",
]

__version__ = version("scgraphvci")

# So that `scvi.settings.verbosity` holds for messages of this package too, and both are shown alike.
logging.getLogger(__name__).parent = logging.getLogger("scvi")
