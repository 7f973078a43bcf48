"""Tools that write to an AnnData."""

from scgraphvci.tl._rank_effects import rank_effects
from scgraphvci.tl._refine_grn import refine_grn
from scgraphvci.tl._score_regulons import score_regulons

__all__ = ["rank_effects", "refine_grn", "score_regulons"]
