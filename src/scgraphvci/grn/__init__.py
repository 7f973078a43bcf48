"""Gene regulatory networks in and out of AnnData, and null networks to compare them with."""

from scgraphvci.grn._adata import GRNReport, add_grn, get_grn
from scgraphvci.grn._random import degree_matched_random

__all__ = ["GRNReport", "add_grn", "degree_matched_random", "get_grn"]
