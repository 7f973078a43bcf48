"""scvi-tools fields for treatments, strata and networks, stratum moments and the simulator's core."""

from scgraphvci.data._fields import (
    ContinuousField,
    SizeFactorField,
    SplitField,
    StratumField,
    TreatmentField,
)
from scgraphvci.data._graph_field import GraphField
from scgraphvci.data._moments import StratumMoments, stratum_moments
from scgraphvci.data._outcome_field import OutcomeField
from scgraphvci.data._treatments import TreatmentTable

__all__ = [
    "ContinuousField",
    "GraphField",
    "OutcomeField",
    "SizeFactorField",
    "SplitField",
    "StratumField",
    "StratumMoments",
    "TreatmentField",
    "TreatmentTable",
    "stratum_moments",
]
