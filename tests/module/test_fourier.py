from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci.module._fourier import SQUARED_WIDTHS, FourierFeatures, squared_discrepancy

N_GENES = 20


def kernel(a, b):
    """Mean of the Gaussian kernels that the features approximate."""
    square = np.square(a[:, None] - b[None]).sum(axis=-1)
    return np.mean([np.exp(-square / (2 * N_GENES * width)) for width in SQUARED_WIDTHS], axis=0)


def test_inner_products_approximate_the_kernel():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(40, N_GENES)).astype(np.float32)
    features = FourierFeatures(N_GENES)(torch.as_tensor(cells)).numpy()
    assert features.shape == (40, 384)
    np.testing.assert_allclose(features @ features.T, kernel(cells, cells), atol=0.2)
    assert np.abs(features @ features.T - kernel(cells, cells)).mean() < 0.04


def test_frequencies_are_always_the_same_and_not_saved():
    first = FourierFeatures(5)
    torch.manual_seed(7)
    second = FourierFeatures(5)
    assert torch.equal(first.frequency, second.frequency)
    assert torch.equal(first.phase, second.phase)
    assert not first.state_dict()


def test_equals_a_naive_computation():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(7, 3))
    target = np.array([5, 5, 2, 5, 2, 9, 5])
    means = {5: rng.normal(size=3), 2: rng.normal(size=3), 9: rng.normal(size=3)}
    expected = []
    for code in target:
        members = features[target == code]
        n, mu = len(members), means[code]
        pairs = [members[i] @ members[j] for i in range(n) for j in range(n) if i != j or n == 1]
        expected.append(np.mean(pairs) - 2 * np.mean(members @ mu) + mu @ mu)
    found = squared_discrepancy(
        torch.as_tensor(features), torch.as_tensor(np.array([means[code] for code in target])), torch.as_tensor(target)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 1.0), (0.0, 0.3), (0.0, 2.0)])
def test_sets_of_another_mean_or_spread_are_further_away(shift, scale):
    generator = torch.Generator().manual_seed(0)
    features = FourierFeatures(N_GENES)
    mean = features(torch.randn(5_000, N_GENES, generator=generator)).mean(dim=0)
    sets = torch.arange(50).repeat_interleave(8)

    def distance(cells):
        return squared_discrepancy(features(cells), mean.expand(400, -1), sets).mean()

    same = distance(torch.randn(400, N_GENES, generator=generator))
    assert same.abs() < 0.01  # unbiased: small sets of the same law are not far from it
    assert distance(shift + scale * torch.randn(400, N_GENES, generator=generator)) > same + 0.02
