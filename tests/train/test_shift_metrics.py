from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scgraphvci.data import StratumMoments
from scgraphvci.train._shift_metrics import ShiftMetrics

N_GENES = 8
ONE_PROCESS = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
# Stratum 0: control and both treatments; stratum 1: no control; stratum 2: control and too few treated cells.
ROW = np.array([[0, 1, 2], [-1, 3, -1], [4, 5, -1]])
N_CELLS = np.array([20, 9, 6, 30, 12, 4])


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(6, N_GENES)).astype(np.float32)
    return StratumMoments(ROW, N_CELLS, mean, np.ones_like(mean), mean[0], 1.0)


def naive(truth, predicted, stratum, condition, pairs):
    """Scores of the mean prediction for each pair, written with numpy's own functions."""
    scores = {"r2": [], "pearson_shift": []}
    for x, t in pairs:
        mean = predicted[(stratum == x) & (condition == t)].mean(axis=0)
        true, control = truth.mean[ROW[x, t]], truth.mean[ROW[x, 0]]
        scores["r2"].append(1 - np.sum((true - mean) ** 2) / np.sum((true - true.mean()) ** 2))
        scores["pearson_shift"].append(np.corrcoef(true - control, mean - control)[0, 1])
    return {name: np.mean(values) for name, values in scores.items()}


def test_batches_are_averaged_and_pairs_without_truth_left_out(truth):
    rng = np.random.default_rng(1)
    stratum, condition = rng.integers(3, size=(2, 200))
    predicted = truth.mean[np.maximum(ROW[stratum, condition], 0)] + rng.normal(size=(200, N_GENES))
    metrics = ShiftMetrics(truth)
    for _ in range(2):  # a second epoch starts afresh
        metrics.reset(torch.device("cpu"))
        for batch in np.array_split(rng.permutation(200), 7):
            metrics.update(
                torch.from_numpy(predicted[batch]), torch.from_numpy(stratum[batch]), torch.from_numpy(condition[batch])
            )
        found = metrics.compute(ONE_PROCESS)
        expected = naive(truth, predicted, stratum, condition, pairs=[(0, 1), (0, 2)])
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-4)


def test_only_pairs_met_in_this_epoch_count(truth):
    metrics = ShiftMetrics(truth)
    metrics.reset(torch.device("cpu"))
    predicted = np.random.default_rng(1).normal(size=(5, N_GENES)).astype(np.float32)
    stratum, condition = np.zeros(5, int), np.ones(5, int)
    metrics.update(torch.from_numpy(predicted), torch.from_numpy(stratum), torch.from_numpy(condition))
    expected = naive(truth, predicted, stratum, condition, pairs=[(0, 1)])
    assert metrics.compute(ONE_PROCESS)["r2"] == pytest.approx(expected["r2"], rel=1e-4)


def test_the_truth_itself_scores_one_and_control_scores_zero(truth):
    for row, score in ((ROW[0, [1, 2]], 1.0), (ROW[0, [0, 0]], 0.0)):
        metrics = ShiftMetrics(truth)
        metrics.reset(torch.device("cpu"))
        metrics.update(torch.from_numpy(truth.mean[row]), torch.tensor([0, 0]), torch.tensor([1, 2]))
        assert metrics.compute(ONE_PROCESS)["pearson_shift"] == pytest.approx(score, abs=1e-6)


def test_nothing_to_score_logs_nothing(truth):
    metrics = ShiftMetrics(truth)
    metrics.reset(torch.device("cpu"))
    metrics.update(torch.ones(2, N_GENES), torch.tensor([1, 2]), torch.tensor([1, 1]))
    assert metrics.compute(ONE_PROCESS) == {}


def test_processes_are_summed(truth):
    metrics = ShiftMetrics(truth)
    metrics.reset(torch.device("cpu"))
    metrics.update(torch.from_numpy(truth.mean[[1, 2]]), torch.tensor([0, 0]), torch.tensor([1, 2]))
    twice = SimpleNamespace(reduce=lambda tensor, reduce_op: {"sum": 2 * tensor}[reduce_op])
    assert metrics.compute(twice) == pytest.approx(metrics.compute(ONE_PROCESS))
