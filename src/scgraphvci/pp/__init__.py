"""Splits that hold treatments out, differential expression in strata, and features of genes."""

from scgraphvci.pp._folds import split_folds
from scgraphvci.pp._gene_features import coexpression_features, gene_features
from scgraphvci.pp._gene_sets import gene_set_features
from scgraphvci.pp._rank_genes import rank_genes_by_stratum, ranked_genes
from scgraphvci.pp._split import split_ood

__all__ = [
    "coexpression_features",
    "gene_features",
    "gene_set_features",
    "rank_genes_by_stratum",
    "ranked_genes",
    "split_folds",
    "split_ood",
]
