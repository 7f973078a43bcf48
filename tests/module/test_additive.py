from __future__ import annotations

import numpy as np
import torch

from scgraphvci.data._moments import AdditiveModel
from scgraphvci.module._additive import AdditiveBaseline

TREATMENT = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 2.0]])
LEVELS = torch.tensor([[0, 1], [2, 0], [1, 1]])


def fitted():
    rng = np.random.default_rng(0)
    draw = [rng.normal(size=shape).astype(np.float32) for shape in ((4,), (3, 4), (2, 4), (2, 4))]
    baseline = AdditiveBaseline(4, 2, [3, 2])
    baseline.start_from(AdditiveModel(draw[0], draw[1:3], draw[3]))
    assert not baseline.shift.detach().any()  # the shift is learned from zero
    with torch.no_grad():
        baseline.shift.copy_(torch.from_numpy(draw[3]))
    return baseline, draw


def test_is_intercept_plus_offsets_plus_shift():
    baseline, (intercept, first, second, shift) = fitted()
    expected = [
        intercept + first[0] + second[1],
        intercept + first[2] + second[0] + shift[0],
        intercept + first[1] + second[1] + 0.5 * shift[0] + 2 * shift[1],
    ]
    np.testing.assert_allclose(baseline(TREATMENT, LEVELS).detach(), expected, rtol=1e-5, atol=1e-6)


def test_starts_at_zero_and_needs_no_covariates():
    baseline = AdditiveBaseline(4, 2, [])
    assert not baseline(TREATMENT, torch.empty((3, 0), dtype=torch.long)).any()


def test_gradcheck():
    baseline = fitted()[0].double()
    names = [name for name, _ in baseline.named_parameters()]
    assert torch.autograd.gradcheck(
        lambda *values: torch.func.functional_call(
            baseline, dict(zip(names, values, strict=True)), (TREATMENT.double(), LEVELS)
        ),
        tuple(baseline.parameters()),
    )
