from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci.data import StratumMoments
from scgraphvci.data._dose_response import DoseResponse
from scgraphvci.module import GraphVCIModule
from scgraphvci.module._likelihood import LOG_RATE_BOUND, MIN_SCALE
from scgraphvci.train._targets import Targets

N_GENES = 4
DESIGN = np.array([[0.0, 0], [1, 0], [0.5, 1]], np.float32)
STRATA = np.array([[0, 0], [1, 0], [1, 1]])
ROW = np.array([[0, 4, 3], [1, -1, 6], [5, 2, -1]])  # in no order


@pytest.fixture
def moments():
    rng = np.random.default_rng(0)
    mean, variance = rng.gamma(2, 1, (2, 7, N_GENES)).astype(np.float32)
    mean[:, 3] = [0, 0.01, 0, 0, 0.002, 0, 0]  # a rare gene
    return StratumMoments(ROW, rng.integers(1, 30, 7), mean, variance, mean[0], 1.0)


def make_module(likelihood="normal", baseline=True):
    torch.manual_seed(0)
    module = GraphVCIModule(
        N_GENES, DESIGN, STRATA, [2, 2], n_hidden=8, n_latent=3, likelihood=likelihood, baseline=baseline
    )
    if baseline:
        module.baseline.deviation = torch.zeros(2, DESIGN.shape[1], N_GENES)  # of the second covariate
        for name, buffer in module.baseline.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.0 if name == "heterogeneity" else -1.0, 1.0)
        module.baseline.deviation_covariate.fill_(1)
        module.baseline.dose_response.copy_(torch.tensor(DoseResponse()))
    return module


def naive(moments, module):
    """Means of the observed pairs, shrunk one number at a time; keys are rows."""
    state = {name: value.double().numpy() for name, value in module.baseline.named_buffers()}
    count, n_total = module.likelihood != "normal", moments.n_cells.sum()
    result = {}
    for x, (first, second) in enumerate(STRATA):
        features = state["features_0"][first] + state["features_1"][second]
        for t, vector in enumerate(DESIGN):
            row = ROW[x, t]
            if row < 0:
                continue
            result[row] = []
            for g in range(N_GENES):
                fitted = state["intercept"][g] + state["offset_0"][first, g] + state["offset_1"][second, g]
                fitted += vector @ (state["shift"][:, g] + state["interaction"][:, :, g] @ features)
                fitted += vector @ state["deviation"][second, :, g]
                n, mean, spread = (
                    moments.n_cells[row],
                    float(moments.mean[row, g]),
                    state["heterogeneity"][min(t, 1), g],
                )
                if count:
                    typical = max((moments.n_cells * moments.mean[:, g]).sum() / n_total, 1 / n_total)
                    mean = np.log((n * mean + 1) / (n + 1 / typical))
                shrunken = fitted + spread / (spread + 1 / n) * (mean - fitted)
                result[row].append(np.exp(shrunken) if count else shrunken)
    return np.array([result[row] for row in range(len(result))])


@pytest.mark.parametrize("likelihood", ["normal", "nb", "zinb"])
def test_means_are_shrunk_toward_the_baseline(moments, likelihood):
    module = make_module(likelihood)
    targets = Targets(moments, module)
    assert targets.mean.shape == (7, N_GENES)  # those observed, and no others
    assert targets.mean.dtype == torch.float32
    assert not targets.mean.requires_grad
    np.testing.assert_allclose(targets.mean, naive(moments, module), rtol=1e-5, atol=1e-6)


def test_without_a_baseline_means_stay_as_they_are(moments):
    np.testing.assert_array_equal(Targets(moments, make_module(baseline=False)).mean, moments.mean)


@pytest.mark.parametrize("baseline", [True, False])
def test_variances_are_shrunk_toward_those_of_the_treatment(moments, baseline):
    found = Targets(moments, make_module(baseline=baseline)).variance
    for t in range(3):
        rows = ROW[:, t][ROW[:, t] >= 0]
        n = moments.n_cells[rows]
        pooled = np.average(moments.variance[rows], axis=0, weights=n)
        for row, cells in zip(rows, n, strict=True):
            expected = (cells * moments.variance[row] + 20 * pooled) / (cells + 20) + MIN_SCALE**2
            np.testing.assert_allclose(found[row], expected, rtol=1e-5)


def test_many_cells_or_a_poor_model_leave_the_mean(moments):
    module = make_module()
    module.baseline.heterogeneity.fill_(1e8)
    np.testing.assert_allclose(Targets(moments, module).mean, moments.mean, atol=1e-5)
    module.baseline.heterogeneity.fill_(0.0)
    fitted = module.baseline(module.design[[2]], module.strata[[1]])[0]
    np.testing.assert_allclose(Targets(moments, module).mean[6], fitted, rtol=1e-6)


def test_rates_stay_within_float32(moments):
    module = make_module("nb")
    module.baseline.shift.fill_(200.0)
    module.baseline.heterogeneity.fill_(0.0)
    found = Targets(moments, module).mean
    assert torch.isfinite(found).all()
    assert found.max() == pytest.approx(np.exp(LOG_RATE_BOUND), rel=1e-5)
