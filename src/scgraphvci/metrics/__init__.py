"""Metrics on arrays, each stating its formula, range and value of no information."""

from scgraphvci.metrics._means import pearson_shift, r2

__all__ = ["pearson_shift", "r2"]
