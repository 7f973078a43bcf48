"""Simple predictors behind the interface of :class:`scgraphvci.GraphVCI`; every model is judged against them."""

from scgraphvci.baselines._base import Baseline, Predictor
from scgraphvci.baselines._simple import Additive, ContextShift, NoChange, StratumMean, TrainMean

__all__ = ["Additive", "Baseline", "ContextShift", "NoChange", "Predictor", "StratumMean", "TrainMean"]
