"""Predictors behind the interface of :class:`scgraphvci.GraphVCI`; every model is judged against them."""

from scgraphvci.baselines._ae import AE
from scgraphvci.baselines._base import Baseline, Predictor
from scgraphvci.baselines._cevae import CEVAE
from scgraphvci.baselines._cpa import CPA
from scgraphvci.baselines._deep_model import DeepBaseline
from scgraphvci.baselines._ganite import GANITE
from scgraphvci.baselines._ridge import RidgePCA
from scgraphvci.baselines._simple import Additive, ContextShift, ControlLevel, NoChange, StratumMean, TrainMean

__all__ = [
    "AE",
    "CEVAE",
    "CPA",
    "GANITE",
    "Additive",
    "Baseline",
    "ContextShift",
    "ControlLevel",
    "DeepBaseline",
    "NoChange",
    "Predictor",
    "RidgePCA",
    "StratumMean",
    "TrainMean",
]
