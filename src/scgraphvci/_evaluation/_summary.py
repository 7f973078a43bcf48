"""Tables of scores: by condition, averaged with intervals, calibrated, and what may be headlined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scgraphvci._evaluation._bootstrap import Resamples, mean_and_interval, resample
from scgraphvci._evaluation._duplicates import DUPLICATES
from scgraphvci._evaluation._predictors import SIMPLE
from scgraphvci._evaluation._scores import COLUMNS
from scgraphvci.metrics import METRICS, bound_discrimination_score, dynamic_range_fraction

NEGATIVE_CONTROLS = ("no change", "train mean", "stratum mean", "control level")
MIN_CONDITIONS = 5  # fewer are an anecdote
MIN_DYNAMIC_RANGE = 0.2  # below, a metric cannot tell a repeated experiment from a negative control
SUMMARY = ("mean", "ci_low", "ci_high", "difference", "difference_low", "difference_high", "n")


class Calibration(NamedTuple):
    """What a metric can tell on some data: see :meth:`scgraphvci.Evaluation.calibration`."""

    drf: float
    bds: float
    positive: str | None
    negative: str | None
    n: int


@dataclass(frozen=True)
class ScoreTable:
    """Scores of every predictor in every condition.

    Attributes
    ----------
    labels
        What the conditions are, one row each.
    scores
        By predictor, one row per condition and one column per metric.
    kinds
        "model", "baseline" or "duplicate" by predictor.
    n_bootstrap, seed
        Number and seed of the resamples.
    cluster_keys
        Columns of `labels` whose joint values are resampled, where there are at least ten; none for conditions.
    """

    labels: pd.DataFrame
    scores: Mapping[str, pd.DataFrame]
    kinds: Mapping[str, str]
    n_bootstrap: int
    seed: int
    cluster_keys: tuple[str, ...] = ("treatment", "dose")

    @cached_property
    def resamples(self) -> Resamples:
        """Resamples of treatments or conditions, the same for all predictors and metrics."""
        keys = list(self.cluster_keys)
        cluster = self.labels.groupby(keys, dropna=False).ngroup() if keys else self.labels.reset_index().index
        return resample(np.asarray(cluster), self.n_bootstrap, self.seed)

    def names(self, kind: str) -> list[str]:
        """Predictors of a kind."""
        return [name for name in self.scores if self.kinds[name] == kind]

    def values(self, name: str, metric: str) -> np.ndarray:
        """Scores of a predictor, shape ``(n_conditions,)``."""
        return self.scores[name][metric].to_numpy(dtype=np.float64)

    def pairs(self) -> pd.DataFrame:
        """One row per condition and predictor."""
        parts = [
            pd.concat([self.labels, self.scores[name]], axis=1).assign(predictor=name, kind=self.kinds[name])
            for name in self.scores
        ]
        pairs = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
        return pairs[["predictor", "kind", *self.labels.columns, *COLUMNS]]

    def best_baseline(self, metric: str, names: list[str] | None = None) -> str | None:
        """Name of the simple baseline, or of those given, with the best mean; None without one."""
        higher = METRICS[metric].higher_is_better
        names = self.names("baseline") if names is None else names
        means = {name: value for name in names if np.isfinite(value := _nanmean(self.values(name, metric)))}
        if higher is None or not means:
            return None
        return max(means, key=lambda name: means[name] if higher else -means[name])

    def statistics(self, name: str, metric: str) -> dict[str, float]:
        """Mean of a predictor, its difference to the best simple baseline, and their intervals."""
        values = self.values(name, metric)
        best = self.best_baseline(metric)
        difference = (np.nan,) * 3
        if best is not None:
            sign = 1 if METRICS[metric].higher_is_better else -1
            difference = mean_and_interval(sign * (values - self.values(best, metric)), self.resamples)
        numbers = (*mean_and_interval(values, self.resamples), *difference, int(np.isfinite(values).sum()))
        return dict(zip(SUMMARY, numbers, strict=True))

    def summary(self) -> pd.DataFrame:
        """One row per predictor; columns (metric, statistic)."""
        size = {
            "n_conditions": len(self.labels),
            "n_cells": int(self.labels["n_cells"].sum()),
            "n_thin": int(self.labels["thin"].sum()),
        }
        shared = {m: {"drf": self.calibrate(m).drf} if self.names("duplicate") else {} for m in COLUMNS}
        rows = [
            [*size.values(), *(x for m in COLUMNS for x in {**self.statistics(name, m), **shared[m]}.values())]
            for name in self.scores
        ]
        columns = [(m, statistic) for m in COLUMNS for statistic in (*SUMMARY, *shared[m])]
        return pd.DataFrame(
            rows,
            index=pd.Index(list(self.scores), name="predictor"),
            columns=pd.MultiIndex.from_tuples(
                [*(("size", number) for number in size), *columns], names=["metric", "statistic"]
            ),
        )

    def nearest_own(self, name: str) -> float:
        """Share of conditions in which no other true mean is nearer than the own one."""
        accuracy = self.values(name, "centroid_accuracy")
        return _nanmean(np.where(np.isfinite(accuracy), accuracy == 1, np.nan))

    def calibrate(self, metric: str) -> Calibration:
        """How far a metric tells the better duplicate from the better negative control."""
        info = METRICS[metric]
        positive = self.best_baseline(metric, [name for name in DUPLICATES if name in self.scores])
        negative = self.best_baseline(metric, [name for name in NEGATIVE_CONTROLS if name in self.scores])
        if positive is None or negative is None or info.higher_is_better is None:
            return Calibration(np.nan, np.nan, positive, negative, 0)
        good, bad = self.values(positive, metric), self.values(negative, metric)
        both = np.isfinite(good) & np.isfinite(bad)
        good, bad = good[both], bad[both]
        if not both.any():
            return Calibration(np.nan, np.nan, positive, negative, 0)
        return Calibration(
            drf=dynamic_range_fraction(float(good.mean()), float(bad.mean()), info.perfect),
            bds=bound_discrimination_score(good, bad, info.higher_is_better),
            positive=positive,
            negative=negative,
            n=int(both.sum()),
        )

    def calibration(self) -> pd.DataFrame:
        """One row per metric."""
        rows = [self.calibrate(metric) for metric in COLUMNS]
        return pd.DataFrame(rows, index=pd.Index(COLUMNS, name="metric"))

    def headline(self) -> pd.DataFrame:
        """Primary metrics of the models against the best baseline, and which of them may be headlined."""
        missing = [name for name in SIMPLE if name not in self.names("baseline")]
        if missing:
            msg = (
                f"No headline without all simple baselines: {missing} are missing, and a score alone says nothing. "
                "Evaluate with `baselines='simple'`."
            )
            raise ValueError(msg)
        n_unseen = int(self.labels["unseen"].sum())
        rows = []
        for metric in (name for name in COLUMNS if METRICS[name].role == "primary"):
            drf = self.calibrate(metric).drf
            best = self.best_baseline(metric)
            for name in self.names("model"):
                about: dict[str, Any] = {"predictor": name, "metric": metric, "best_baseline": best}
                numbers = self.statistics(name, metric)
                usable = drf >= MIN_DYNAMIC_RANGE and numbers["n"] >= MIN_CONDITIONS
                rows.append({**about, **numbers, "n_unseen": n_unseen, "drf": drf, "headline": usable})
        columns = ["predictor", "metric", "best_baseline", *SUMMARY, "n_unseen", "drf", "headline"]
        return pd.DataFrame(rows, columns=columns)


def _nanmean(values: np.ndarray) -> float:
    known = np.isfinite(values)
    return float(values[known].mean()) if known.any() else float("nan")
