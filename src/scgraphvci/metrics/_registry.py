"""What is known of every metric: its part in a report, its direction and its value without information."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from scgraphvci.metrics._calibration import interval_coverage
from scgraphvci.metrics._collapse import mean_pairwise_correlation, mean_variance_ratio, variance_ratio
from scgraphvci.metrics._de import de_recovery
from scgraphvci.metrics._distribution import energy_distance, mmd
from scgraphvci.metrics._means import mae, mse, pearson_shift, r2
from scgraphvci.metrics._ranking import centroid_accuracy, discrimination_score
from scgraphvci.metrics._weighted import weighted_mse, weighted_r2

Role = Literal["primary", "parity", "monitor"]


@dataclass(frozen=True)
class MetricInfo:
    """How to read one metric.

    Parameters
    ----------
    name
        Name of the column it fills; `interval_coverage`, which is for estimators of effects, fills none of
        :class:`scgraphvci.Evaluation`.
    role
        "primary": fit to compare predictors. "parity": reported because others do, not to be concluded from alone.
        "monitor": no score, but a sign of collapse.
    higher_is_better
        Direction; None where values on either side of `perfect` are worse.
    perfect
        Value of a perfect prediction; NaN where it depends on the data.
    no_information
        Expected value of a prediction that knows nothing of the treatment; None where it depends on the data, so that
        only baselines tell. So it does for correlations and directions of shifts from a reference: the noise of the
        reference, or what it does not share with the stratum, is in the true shift, and a prediction of the control
        level alone can correlate with that.
    formula
        Formula: y true and ŷ predicted mean, r reference, g genes.
    function
        The function that computes it.

    Examples
    --------
    >>> METRICS["centroid_accuracy"].no_information
    0.5
    """

    name: str
    role: Role
    higher_is_better: bool | None
    perfect: float
    no_information: float | None
    formula: str
    function: Callable[..., Any]


_NAN = float("nan")
_ALL = (
    MetricInfo("pearson_perturbed", "primary", True, 1.0, None,
               "corr(ŷ − r, y − r), r the mean over treatments", pearson_shift),
    MetricInfo("weighted_r2", "primary", True, 1.0, 0.0,
               "1 − Σ w (y − ŷ)² / Σ w (δ − mean δ)², δ = y − r, r as above", weighted_r2),
    MetricInfo("weighted_mse", "primary", False, 0.0, None,
               "Σ w (y − ŷ)², w of `signal_weights`", weighted_mse),
    MetricInfo("centroid_accuracy", "primary", True, 1.0, 0.5,
               "share of other true centroids farther from ŷ than y is", centroid_accuracy),
    MetricInfo("energy_distance", "primary", False, 0.0, None,
               "2 E‖a − b‖ − E‖a − a′‖ − E‖b − b′‖, unbiased", energy_distance),
    MetricInfo("mmd", "primary", False, 0.0, None,
               "E k(a, a′) + E k(b, b′) − 2 E k(a, b), k Gaussian, unbiased", mmd),
    MetricInfo("interval_coverage", "primary", None, _NAN, None,
               "share of y inside its interval; right is the nominal level; of estimators, no column of `Evaluation`",
               interval_coverage),
    MetricInfo("r2", "parity", True, 1.0, None,
               "1 − Σ (y − ŷ)² / Σ (y − mean y)²", r2),
    MetricInfo("r2_de", "parity", True, 1.0, None,
               "`r2` over the most differentially expressed genes", r2),
    MetricInfo("pearson_shift", "parity", True, 1.0, None,
               "corr(ŷ − r, y − r), r the control mean", pearson_shift),
    MetricInfo("mse", "parity", False, 0.0, None,
               "mean (y − ŷ)²", mse),
    MetricInfo("mae", "parity", False, 0.0, None,
               "mean |y − ŷ|", mae),
    MetricInfo("discrimination_l1", "parity", True, 1.0, 0.5,
               "1 − rank / n of the own true shift, by L1 distance", discrimination_score),
    MetricInfo("discrimination_l2", "parity", True, 1.0, 0.5,
               "1 − rank / n of the own true shift, by L2 distance", discrimination_score),
    MetricInfo("discrimination_cosine", "parity", True, 1.0, 0.5,
               "1 − rank / n of the own true shift, by cosine distance", discrimination_score),
    MetricInfo("de_auprc", "parity", True, 1.0, None,
               "average precision of |ŷ − r| for significant genes", de_recovery),
    MetricInfo("de_spearman", "parity", True, 1.0, None,
               "rank correlation of shifts over significant genes", de_recovery),
    MetricInfo("de_direction", "parity", True, 1.0, None,
               "share of significant genes moved the right way", de_recovery),
    MetricInfo("de_overlap", "parity", True, 1.0, None,
               "share of the n significant genes among the n of largest |ŷ − r|", de_recovery),
    MetricInfo("variance_ratio", "monitor", None, 1.0, None,
               "median of Var ŷ / Var y between cells, ŷ draws where there are any", variance_ratio),
    MetricInfo("mean_variance_ratio", "monitor", None, _NAN, None,
               "median of Var μ̂ / Var y between cells, μ̂ their means; well below 1 is right, near 0 is a collapse",
               mean_variance_ratio),
    MetricInfo("mean_pairwise_correlation", "monitor", None, _NAN, None,
               "mean corr of ŷ − r between treatments; right is that of y − r", mean_pairwise_correlation),
)  # fmt: skip

METRICS: Mapping[str, MetricInfo] = MappingProxyType({info.name: info for info in _ALL})
"""Every metric by the name of the column it fills, primary ones first."""
