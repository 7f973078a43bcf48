"""scvi-tools fields for treatments, strata and networks, stratum moments and the simulator's core."""

from scgraphvci.data._coexpression import Residuals, cell_residuals
from scgraphvci.data._descriptor_field import DescriptorField
from scgraphvci.data._fields import ContinuousField, SizeFactorField, SplitField, StratumField
from scgraphvci.data._gene_regression import Network
from scgraphvci.data._graph_field import GraphField
from scgraphvci.data._intervention_field import InterventionField
from scgraphvci.data._moments import StratumMoments, stratum_moments
from scgraphvci.data._outcome_field import OutcomeField
from scgraphvci.data._treatment_field import TreatmentField
from scgraphvci.data._treatments import TreatmentTable

__all__ = [
    "ContinuousField",
    "DescriptorField",
    "GraphField",
    "InterventionField",
    "Network",
    "OutcomeField",
    "Residuals",
    "SizeFactorField",
    "SplitField",
    "StratumField",
    "StratumMoments",
    "TreatmentField",
    "TreatmentTable",
    "cell_residuals",
    "stratum_moments",
]
