"""Splits that hold treatments out, and differential expression in strata."""

from scgraphvci.pp._folds import split_folds
from scgraphvci.pp._rank_genes import rank_genes_by_stratum, ranked_genes
from scgraphvci.pp._split import split_ood

__all__ = ["rank_genes_by_stratum", "ranked_genes", "split_folds", "split_ood"]
