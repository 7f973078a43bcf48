"""Gene regulatory networks in and out of AnnData, and null networks to compare them with."""

from scgraphvci.grn._adata import GRNReport, add_grn, get_grn
from scgraphvci.grn._atac import from_atac
from scgraphvci.grn._evaluate import evaluate, precision_recall
from scgraphvci.grn._export import to_celloracle, to_decoupler, to_frame, to_networkx
from scgraphvci.grn._genes import read_gtf
from scgraphvci.grn._interventions import evaluate_interventions
from scgraphvci.grn._random import degree_matched_random
from scgraphvci.grn._read_celloracle import read_celloracle
from scgraphvci.grn._read_graphvci import read_graphvci
from scgraphvci.grn._read_matrix import read_matrix
from scgraphvci.grn._read_net import collectri, dorothea, read_net
from scgraphvci.grn._read_networkx import read_networkx
from scgraphvci.grn._read_scenicplus import read_scenicplus
from scgraphvci.grn._scores import score_edges
from scgraphvci.grn._stability import stability
from scgraphvci.grn._top_correlated import top_correlated

__all__ = [
    "GRNReport",
    "add_grn",
    "collectri",
    "degree_matched_random",
    "dorothea",
    "evaluate",
    "evaluate_interventions",
    "from_atac",
    "get_grn",
    "precision_recall",
    "read_celloracle",
    "read_graphvci",
    "read_gtf",
    "read_matrix",
    "read_net",
    "read_networkx",
    "read_scenicplus",
    "score_edges",
    "stability",
    "to_celloracle",
    "to_decoupler",
    "to_frame",
    "to_networkx",
    "top_correlated",
]
