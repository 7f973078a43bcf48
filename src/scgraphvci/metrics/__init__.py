"""Metrics on arrays, each stating its formula, range and value of no information."""

from scgraphvci.metrics._calibration import (
    IntervalCoverage,
    bound_discrimination_score,
    dynamic_range_fraction,
    interval_coverage,
)
from scgraphvci.metrics._collapse import mean_pairwise_correlation, mean_variance_ratio, variance_ratio
from scgraphvci.metrics._de import DERecovery, de_recovery
from scgraphvci.metrics._distribution import energy_distance, median_distance, mmd
from scgraphvci.metrics._means import mae, mse, pearson_shift, r2
from scgraphvci.metrics._ranking import centroid_accuracy, discrimination_score
from scgraphvci.metrics._registry import METRICS, MetricInfo
from scgraphvci.metrics._weighted import signal_weights, weighted_mse, weighted_r2

__all__ = [
    "METRICS",
    "DERecovery",
    "IntervalCoverage",
    "MetricInfo",
    "bound_discrimination_score",
    "centroid_accuracy",
    "de_recovery",
    "discrimination_score",
    "dynamic_range_fraction",
    "energy_distance",
    "interval_coverage",
    "mae",
    "mean_pairwise_correlation",
    "mean_variance_ratio",
    "median_distance",
    "mmd",
    "mse",
    "pearson_shift",
    "r2",
    "signal_weights",
    "variance_ratio",
    "weighted_mse",
    "weighted_r2",
]
