from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal

from scgraphvci.module._objective import (
    draw_counterfactual,
    gaussian_distance,
    kernel_distance,
    latent_divergence,
    mean_by_set,
)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def posterior(seed, n=6, d=4, requires_grad=False):
    mean, scale = normal(n, d, seed=seed), normal(n, d, seed=seed + 100).exp()
    return Normal(mean.requires_grad_(requires_grad), scale.requires_grad_(requires_grad))


class TestKernel:
    @pytest.mark.parametrize("bandwidth", [0.7, np.array([0.3, 1.0, 2.0])])
    def test_closed_form_is_the_average_over_cells_of_log_kernels(self, bandwidth):
        cells, predicted = normal(40, 3, seed=1).numpy(), normal(5, 3).numpy()
        h = torch.as_tensor(bandwidth, dtype=torch.float64)
        found = kernel_distance(
            torch.from_numpy(predicted), torch.from_numpy(cells.mean(0)), torch.from_numpy(cells.var(0)), h
        )
        for i, y in enumerate(predicted):
            log_kernels = [stats.norm.logpdf(y, cell, bandwidth).mean() for cell in cells]
            constant = stats.norm.logpdf(0, 0, bandwidth * np.ones(3)).mean()
            assert found[i].item() == pytest.approx(constant - np.mean(log_kernels), rel=1e-10)

    def test_gradient(self):
        predicted = normal(5, 3).requires_grad_()
        mean, variance = normal(5, 3, seed=1), normal(5, 3, seed=2).exp()
        h = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda y: kernel_distance(y, mean, variance, h), (predicted,))
        kernel_distance(predicted, mean, variance, h).sum().backward()
        torch.testing.assert_close(predicted.grad, (predicted.detach() - mean) / h**2 / 3)


class TestGaussian:
    def test_negative_log_density(self):
        predicted, mean, variance = normal(5, 3), normal(5, 3, seed=1), normal(5, 3, seed=2).exp()
        found = gaussian_distance(predicted, mean, variance)
        expected = -stats.norm.logpdf(*(x.numpy() for x in (predicted, mean, variance.sqrt()))).mean(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-10)

    def test_gradient(self):
        mean, variance = normal(5, 3, seed=1), normal(5, 3, seed=2).exp()
        assert torch.autograd.gradcheck(
            lambda y: gaussian_distance(y, mean, variance), (normal(5, 3).requires_grad_(),)
        )


class TestMeanBySet:
    MEMBER = torch.tensor([2, 0, 2, 1, 0, 2])

    def test_each_set_has_the_mean_of_its_cells(self):
        predicted = normal(6, 3)
        for k, found in enumerate(mean_by_set(predicted, self.MEMBER, 3)):
            torch.testing.assert_close(found, predicted[self.MEMBER == k].mean(dim=0))

    def test_half_precision_is_summed_in_single(self):
        predicted = normal(6, 3).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = mean_by_set(predicted, self.MEMBER, 3)
        torch.testing.assert_close(found, mean_by_set(predicted.float(), self.MEMBER, 3), rtol=0, atol=0)

    def test_gradient(self):
        assert torch.autograd.gradcheck(lambda y: mean_by_set(y, self.MEMBER, 3), (normal(6, 3).requires_grad_(),))


class TestDivergence:
    def test_is_the_exact_gaussian_kl(self):
        p, q = posterior(0), posterior(1)
        found = latent_divergence(p, q, n_genes=10)
        m, s, n, r = (np.asarray(x) for x in (p.mean, p.stddev, q.mean, q.stddev))
        expected = (np.log(r / s) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5).sum(axis=1) / 10
        np.testing.assert_allclose(found, expected, rtol=1e-10)

    def test_agrees_with_monte_carlo(self):
        torch.manual_seed(0)
        p, q = posterior(0), posterior(1)
        draws = p.sample((400_000,))
        estimate = (p.log_prob(draws) - q.log_prob(draws)).sum(-1)
        error = estimate.std(0) / len(draws) ** 0.5
        assert ((latent_divergence(p, q, 1) - estimate.mean(0)).abs() < 4 * error).all()

    def test_zero_for_equal_posteriors_and_never_negative(self):
        p = posterior(0)
        assert latent_divergence(p, p, 3).abs().max() < 1e-12
        assert all((latent_divergence(p, posterior(seed), 3) > 0).all() for seed in range(1, 6))

    def test_gradient_reaches_both_posteriors(self):
        tensors = [*(normal(6, 4, seed=s).requires_grad_() for s in (0, 1))]
        scales = [*(normal(6, 4, seed=s).exp().requires_grad_() for s in (2, 3))]
        assert torch.autograd.gradcheck(
            lambda m, n, s, r: latent_divergence(Normal(m, s), Normal(n, r), 5), (*tensors, *scales)
        )


class TestDraw:
    def draw(self, condition, frequency, n=60_000, seed=0):
        torch.manual_seed(seed)
        return draw_counterfactual(torch.full((n,), condition), torch.as_tensor(frequency))

    @pytest.mark.parametrize("frequency", [[10.0, 3, 1, 6], [5.0, 0, 1, 2], [0.0, 4, 4, 1], [3.0, 2, 5, 0]])
    @pytest.mark.parametrize("condition", [0, 1, 2, 3])
    def test_frequencies_follow_the_empirical_law_without_the_own_treatment(self, condition, frequency):
        drawn = self.draw(condition, frequency)
        counts = np.bincount(drawn, minlength=4)
        expected = np.where(np.arange(4) == condition, 0, frequency)
        expected = expected / expected.sum() * len(drawn)
        assert counts.sum() == len(drawn)
        np.testing.assert_array_equal(counts[expected == 0], 0)  # neither the own nor one without training cells
        positive = expected > 0
        assert stats.chisquare(counts[positive], expected[positive]).pvalue > 1e-4

    def test_mixed_batches_and_many_treatments(self):
        rng = np.random.default_rng(0)
        frequency = torch.from_numpy(rng.integers(0, 5, 300).astype(np.float32))
        condition = torch.from_numpy(rng.integers(0, 300, 20_000))
        drawn = draw_counterfactual(condition, frequency)
        assert (drawn != condition).all()
        assert (frequency[drawn] > 0).all()

    @pytest.mark.parametrize("frequency", [[0.0, 5, 0], [0.0, 0, 5], [5.0, 0, 0]])
    def test_own_treatment_only_where_there_is_no_other(self, frequency):
        own = int(np.argmax(frequency))
        assert (self.draw(own, frequency, n=100) == own).all()
        assert (self.draw((own + 1) % 3, frequency, n=100) == own).all()

    def test_seeded_by_torch(self):
        first, second, third = (self.draw(1, [3.0, 2, 5, 1], n=500, seed=seed) for seed in (7, 7, 8))
        assert torch.equal(first, second)
        assert not torch.equal(first, third)
