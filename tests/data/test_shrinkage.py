from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scgraphvci.data._shrinkage import N_COMPONENTS, N_STEPS, probability_of_effect


def probability(effect, variance):
    return probability_of_effect(np.asarray(effect)[None], np.asarray(variance)[None])[0]


def two_groups(share, scale, n=2000, seed=0):
    """Estimates of effects that are zero but for a share of them, their variances, and which are not zero."""
    rng = np.random.default_rng(seed)
    variance, real = rng.uniform(0.5, 2, n), rng.random(n) < share
    return real * rng.normal(0, scale, n) + rng.normal(size=n) * np.sqrt(variance), variance, real


@pytest.mark.parametrize(("share", "scale"), [(0.05, 4.0), (0.2, 3.0), (0.2, 10.0), (0.5, 5.0)])
def test_is_calibrated(share, scale):
    """Of the effects declared at any level, the share that is none is as announced."""
    effect, variance, real = two_groups(share, scale, n=5000)
    found = probability(effect, variance)
    assert found.mean() == pytest.approx(share, abs=0.05)
    for level in (0.5, 0.9):
        declared = found > level
        assert declared.mean() > 0.01
        assert (1 - found[declared]).mean() == pytest.approx((~real[declared]).mean(), abs=0.04)


def test_without_effects_all_are_small():
    effect, variance, _ = two_groups(0.0, 1.0)
    found = probability(effect, variance)
    assert found.mean() < 0.05
    assert found.max() < 0.5


def test_large_effects_are_certain():
    effect, variance, _ = two_groups(0.1, 3.0)
    effect[:3] = 30, -50, 1e6
    np.testing.assert_allclose(probability(effect, variance)[:3], 1, atol=1e-6)


def test_grows_with_the_effect_and_not_with_its_sign():
    effect, _, _ = two_groups(0.2, 4.0, n=300)
    effect = np.concatenate([effect, -effect])
    found = probability(effect, np.ones(600))
    np.testing.assert_allclose(found[:300], found[300:])
    assert (np.diff(found[np.argsort(np.abs(effect))]) > -1e-12).all()


def test_units_do_not_matter():
    effect, variance, _ = two_groups(0.2, 4.0, n=300)
    for c in (1e-6, 1e4):
        np.testing.assert_allclose(probability(c * effect, c**2 * variance), probability(effect, variance), rtol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 500])
def test_effects_of_exactly_zero(n):
    found = probability(np.zeros(n), np.linspace(1, 2, n))
    assert (found >= 0).all()
    assert (found < 0.2).all()


def test_a_single_effect():
    assert probability([0.3], [1.0])[0] < 0.2
    assert probability([20.0], [1.0])[0] > 0.999


def test_families_do_not_influence_each_other():
    (first, variance, _), (second, _, _) = two_groups(0.3, 5.0, n=50), two_groups(0.0, 1.0, n=50, seed=1)
    both = probability_of_effect(np.stack([first, second]), np.stack([variance, variance]))
    np.testing.assert_array_equal(both, [probability(first, variance), probability(second, variance)])


def test_equals_em_one_effect_at_a_time():
    effect, variance, _ = two_groups(0.3, 4.0, n=15)
    low, high = np.log(np.sqrt(np.median(variance))), np.log(2 * np.sqrt((effect**2 - variance).max()))
    scale = [0.0, *np.exp(np.linspace(low, high, N_COMPONENTS))]
    density = [
        [stats.norm.pdf(x, scale=np.sqrt(v + s**2)) for s in scale] for x, v in zip(effect, variance, strict=True)
    ]
    weight = [1 / len(scale)] * len(scale)
    for _ in range(N_STEPS + 1):
        posterior = []
        for row in density:
            joint = [w * d for w, d in zip(weight, row, strict=True)]
            posterior.append([value / sum(joint) for value in joint])
        weight = [sum(column) / len(effect) for column in zip(*posterior, strict=True)]
    np.testing.assert_allclose(probability(effect, variance), [1 - row[0] for row in posterior], rtol=1e-9)
