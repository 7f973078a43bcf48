from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

from scgraphvci.module._likelihood import (
    EPS,
    MIN_SCALE,
    distribution,
    draw_like,
    initial_dispersion,
    is_count,
    mean_log_prob,
    mean_of,
    n_parameters,
)

SHAPE = (5, 4)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


LOG_MEAN, LOGIT, LOG_DISPERSION = normal(*SHAPE), normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
LIBRARY = torch.tensor([[0.2], [0.5], [1.0], [2.0], [5.0]]).double()
COUNTS = np.random.default_rng(3).poisson(2.0, SHAPE)
COUNTS[0] = 0


def negative_binomial(dispersion):
    theta = np.exp(dispersion.numpy())
    mean = (LOG_MEAN.exp() * LIBRARY).numpy()
    return stats.nbinom(theta, theta / (theta + mean)), mean


def test_normal():
    outcome = normal(*SHAPE, seed=3)
    for gene_dispersion, scale in ((LOG_DISPERSION[0], LOG_DISPERSION[0]), (None, LOG_DISPERSION)):
        dist = distribution("normal", [LOG_MEAN, LOG_DISPERSION], gene_dispersion, 1.0)
        expected = stats.norm.logpdf(outcome.numpy(), LOG_MEAN.numpy(), np.exp(scale.numpy()) + MIN_SCALE)
        np.testing.assert_allclose(dist.log_prob(outcome), expected, rtol=1e-10)
    assert mean_of("normal", [LOG_MEAN]) is LOG_MEAN


@pytest.mark.parametrize("per_gene", [True, False])
def test_nb(per_gene):
    dispersion = LOG_DISPERSION[0] if per_gene else LOG_DISPERSION
    parameters = [LOG_MEAN] if per_gene else [LOG_MEAN, LOG_DISPERSION]
    dist = distribution("nb", parameters, dispersion if per_gene else None, LIBRARY)
    reference, mean = negative_binomial(dispersion)
    np.testing.assert_allclose(dist.log_prob(torch.from_numpy(COUNTS)), reference.logpmf(COUNTS), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dist.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(dist.variance, reference.var(), rtol=1e-6)


def test_zinb():
    dist = distribution("zinb", [LOG_MEAN, LOGIT], LOG_DISPERSION[0], LIBRARY)
    reference, mean = negative_binomial(LOG_DISPERSION[0])
    dropout = 1 / (1 + np.exp(-LOGIT.numpy()))
    expected = np.log(dropout * (COUNTS == 0) + (1 - dropout) * reference.pmf(COUNTS))
    np.testing.assert_allclose(dist.log_prob(torch.from_numpy(COUNTS)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dist.mean, (1 - dropout) * mean, rtol=1e-6)
    np.testing.assert_allclose(mean_of("zinb", [LOG_MEAN, LOGIT]) * LIBRARY, (1 - dropout) * mean, rtol=1e-10)


def test_means_are_at_the_standard_library():
    np.testing.assert_allclose(mean_of("nb", [LOG_MEAN]), LOG_MEAN.exp())
    np.testing.assert_allclose(mean_of("nb", [LOG_MEAN]), distribution("nb", [LOG_MEAN], LOG_DISPERSION[0], 1.0).mean)


@pytest.mark.parametrize("likelihood", ["normal", "nb", "zinb"])
def test_extreme_decoder_outputs_stay_finite(likelihood):
    extreme = torch.tensor([[-1e4, 1e4, 0.0]]).requires_grad_()
    dist = distribution(likelihood, [extreme, extreme], torch.tensor([-1e4, 1e4, 0.0]), 1.0)
    loss = -dist.log_prob(torch.tensor([[0.0, 5.0, 2.0]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(extreme.grad).all()


@pytest.mark.parametrize(
    ("likelihood", "dispersion", "expected"),
    [("normal", "gene", 1), ("normal", "gene-cell", 2), ("nb", "gene", 1), ("nb", "gene-cell", 2),
     ("zinb", "gene", 2), ("zinb", "gene-cell", 3)],
)  # fmt: skip
def test_number_of_parameters(likelihood, dispersion, expected):
    assert n_parameters(likelihood, dispersion) == expected
    assert is_count(likelihood) == (likelihood != "normal")


@pytest.mark.parametrize("likelihood", ["normal", "nb"])
def test_draws_have_mean_variance_and_gradient(likelihood):
    torch.manual_seed(0)
    log_mean = torch.full((100_000, 1), 3.0, dtype=torch.float64).requires_grad_()
    dist = distribution(likelihood, [log_mean], torch.tensor([1.0]).double(), 1.0)
    draw = draw_like(dist)
    assert draw.mean().item() == pytest.approx(dist.mean.mean().item(), rel=0.02)
    assert (draw >= 0).all() or likelihood == "normal"
    if likelihood == "normal":
        assert draw.var().item() == pytest.approx(dist.variance.mean().item(), rel=0.02)
    draw.sum().backward()
    assert log_mean.grad.mean() > 0.5


@pytest.mark.parametrize("likelihood", ["normal", "nb"])
def test_initial_dispersion_gives_the_variance(likelihood):
    mean, variance = torch.tensor([0.5, 2.0, 9.0]).double(), torch.tensor([0.9, 2.5, 40.0]).double()
    parameter = (mean if likelihood == "normal" else mean.log())[None]
    found = distribution(likelihood, [parameter], initial_dispersion(likelihood, mean, variance), 1.0)
    np.testing.assert_allclose(found.mean[0], mean, rtol=1e-6)
    scale = variance.sqrt() + (MIN_SCALE if likelihood == "normal" else 0)
    np.testing.assert_allclose(found.variance[0], scale**2, rtol=1e-6)


def test_initial_dispersion_is_bounded():
    """Genes that never vary, vary less than a Poisson variable would, or far more."""
    assert initial_dispersion("normal", torch.ones(1), torch.zeros(1)).exp().item() == pytest.approx(MIN_SCALE)
    mean, variance = torch.tensor([2.0, 2.0, 0.01]), torch.tensor([0.0, 2.0, 50.0])
    np.testing.assert_allclose(initial_dispersion("zinb", mean, variance).exp(), [100, 100, 0.1], rtol=1e-5)


@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
def test_mean_log_prob_of_counts_is_that_of_the_distribution_with_its_gradient(dispersion):
    """The gradient is written by hand; three latent samples."""
    log_mean, log_dispersion = normal(3, *SHAPE).requires_grad_(), normal(3, *SHAPE, seed=2)
    log_dispersion = (log_dispersion[0, 0] if dispersion == "gene" else log_dispersion).requires_grad_()
    outcome = torch.from_numpy(COUNTS).double()

    def ours(mean, spread):
        parameters, shared = ([mean], spread) if dispersion == "gene" else ([mean, spread], None)
        return mean_log_prob("nb", parameters, shared, LIBRARY, outcome)

    exact = distribution("nb", [log_mean, log_dispersion], None, LIBRARY).log_prob(outcome).mean(dim=-1)
    torch.testing.assert_close(ours(log_mean, log_dispersion), exact, rtol=1e-6, atol=1e-7)
    assert torch.autograd.gradcheck(ours, (log_mean, log_dispersion))


@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 3e-5)])
def test_mean_log_prob_of_any_counts_is_that_of_scipy(dispersion, dtype, rtol):
    """Counts looked up in a table, beyond it, and none that are whole; slopes by differences of scipy's values."""
    rng = np.random.default_rng(0)
    outcome = np.concatenate([rng.integers(0, 34, (4, 6)), rng.integers(30, 5000, (2, 6)), 40 * rng.random((2, 6))])
    log_rate, log_theta = rng.normal(1, 2, (2, 8, 6)), rng.normal(0, 2, (2, 8, 6))
    log_theta = log_theta[0, 0] if dispersion == "gene" else log_theta
    library = np.exp(rng.normal(size=(8, 1)))

    def exact(log_rate, log_theta):
        mean, theta = np.exp(log_rate) * (library + EPS), np.exp(log_theta)
        power = theta * np.log(theta / (theta + mean)) + outcome * np.log(mean / (theta + mean))
        return power + special.gammaln(outcome + theta) - special.gammaln(theta) - special.gammaln(outcome + 1)

    rate, spread = (torch.from_numpy(value).to(dtype).requires_grad_() for value in (log_rate, log_theta))
    parameters, shared = ([rate], spread) if dispersion == "gene" else ([rate, spread], None)
    found = mean_log_prob(
        "nb", parameters, shared, torch.from_numpy(library).to(dtype), torch.from_numpy(outcome).to(dtype)
    )
    weight = rng.normal(size=found.shape)
    np.testing.assert_allclose(found.detach(), exact(log_rate, log_theta).mean(axis=-1), rtol=rtol)

    (found * torch.from_numpy(weight).to(dtype)).sum().backward()
    step, share = 1e-4, weight[..., None] / 6
    by_rate = share * (exact(log_rate + step, log_theta) - exact(log_rate - step, log_theta)) / (2 * step)
    by_theta = share * (exact(log_rate, log_theta + step) - exact(log_rate, log_theta - step)) / (2 * step)
    by_theta = by_theta.sum(axis=(0, 1)) if dispersion == "gene" else by_theta
    for gradient, expected in ((rate.grad, by_rate), (spread.grad, by_theta)):
        np.testing.assert_allclose(gradient, expected, rtol=100 * rtol, atol=1e-6 * np.abs(expected).max())


def test_counts_that_are_not_numbers_give_a_loss_that_is_none():
    outcome = torch.tensor([[1.0, np.nan], [1.0, 2.0]])
    found = mean_log_prob("nb", [torch.zeros(2, 2)], torch.zeros(2), 1.0, outcome)
    assert torch.isfinite(found).tolist() == [False, True]
