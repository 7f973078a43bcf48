from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci.module import Discriminator, GraphVCIModule

N_GENES = 6


@pytest.fixture
def module():
    torch.manual_seed(0)
    design = np.array([[0.0, 0], [1, 0], [0, 1]], np.float32)
    return GraphVCIModule(
        N_GENES, design, np.array([[0], [1]]), [2], n_continuous=1, n_hidden=8, distribution_loss="adversarial"
    )


def batch(module, n=8):
    rng = np.random.default_rng(0)
    return (
        torch.from_numpy(rng.normal(size=(n, N_GENES)).astype(np.float32)),
        module.design[rng.integers(3, size=n)],
        module.strata[rng.integers(2, size=n)],
        torch.from_numpy(rng.normal(size=(n, 1)).astype(np.float32)),
    )


def test_one_logit_per_cell_that_depends_on_every_input(module):
    discriminator = Discriminator(N_GENES, 2, module.covariates.n_out, n_hidden=8)
    outcome, treatment, levels, continuous = batch(module)
    logit = discriminator(module, outcome, treatment, levels, continuous)
    assert logit.shape == (8,)
    for changed in (
        (outcome + 1, treatment, levels, continuous),
        (outcome, treatment + 1, levels, continuous),
        (outcome, treatment, 1 - levels, continuous),
        (outcome, treatment, levels, continuous + 1),
    ):
        assert (discriminator(module, *changed) - logit).abs().min() > 1e-6


def test_its_loss_does_not_train_the_model(module):
    discriminator = Discriminator(N_GENES, 2, module.covariates.n_out, n_hidden=8)
    discriminator(module, *batch(module)).sum().backward()
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_learns_to_tell_cells_apart_given_treatment(module):
    """Observed cells sit at +1 under one treatment and at -1 under the other; constructed ones the other way round."""
    torch.manual_seed(0)
    discriminator = Discriminator(N_GENES, 2, module.covariates.n_out, n_hidden=8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.01)
    n = 64
    code = torch.arange(n) % 2 + 1
    place = torch.where(code == 1, 1.0, -1.0)[:, None].expand(n, N_GENES)
    rest = (module.design[code], module.strata[torch.zeros(n, dtype=torch.long)], torch.zeros(n, 1))
    for _ in range(60):
        real = discriminator(module, place + 0.3 * torch.randn(n, N_GENES), *rest)
        fake = discriminator(module, -place + 0.3 * torch.randn(n, N_GENES), *rest)
        loss = torch.nn.functional.softplus(-real).mean() + torch.nn.functional.softplus(fake).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (real > 0).float().mean() > 0.95
    assert (fake < 0).float().mean() > 0.95
