"""CPA's composition and adversary against formulas, and that the basal state forgets what it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci._constants import KEYS
from scgraphvci.baselines import CPA
from scgraphvci.baselines._cpa import CPAModule
from scgraphvci.baselines._deep_module import Screen

DESIGN = np.array([[0, 0], [1, 0], [0, 0.5], [1, 0.5]], dtype=np.float32)
SCREEN = Screen(6, DESIGN, np.array([[0, 0], [1, 1]]), (2, 2), 1)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return CPAModule(SCREEN, n_latent=3, n_hidden=8, adversarial_weight=0.7, gradient_penalty=5.0)


@pytest.fixture
def batch():
    codes = torch.arange(12)[:, None] % 4
    return {
        KEYS.OUTCOME: torch.randn(12, 6),
        KEYS.TREATMENT: codes,
        KEYS.STRATUM: codes % 2,
        KEYS.CONTINUOUS: torch.randn(12, 1),
    }


def test_decoder_reads_the_sum_of_basal_state_and_embeddings(module):
    latent, treatment, levels = torch.randn(4, 3), torch.as_tensor(DESIGN), torch.tensor([[0, 1]] * 4)
    with torch.no_grad():
        module.dose_slope.uniform_(0.5, 2)
        module.dose_offset.uniform_(-1, 1)
    slope, offset = (part.detach().numpy() for part in (module.dose_slope, module.dose_offset))
    response = 1 / (1 + np.exp(-(slope * DESIGN + offset))) - 1 / (1 + np.exp(-offset))
    assert (response[0] == 0).all()
    embedding = module.treatment_embedding.weight.detach().numpy().T
    levels_sum = sum(table.weight.detach().numpy()[k] for table, k in zip(module.level_embeddings, (0, 1), strict=True))
    total = latent.numpy() + response @ embedding + levels_sum
    expected = module.head(module.decoder(torch.as_tensor(total, dtype=torch.float32)))
    torch.testing.assert_close(module.decode(latent, treatment, levels)[0], expected, atol=1e-5, rtol=1e-4)


def test_basal_state_reads_neither_treatment_nor_categories(module, batch):
    cells = module.unpack(batch)
    latent = module.encode(cells["outcome"], cells["treatment"], cells["levels"], cells["continuous"]).mean
    other = module.encode(cells["outcome"], 1 - cells["treatment"], 1 - cells["levels"], cells["continuous"]).mean
    torch.testing.assert_close(latent, other)


def test_adversary_and_its_penalty(module, batch):
    cells = module.unpack(batch)
    inference, generative, _ = module(batch)

    def entropy(latent):
        return sum(module.adversary(latent, cells)).detach()

    latent = inference["latent"].detach()
    assert module.adversarial_term(cells, inference, generative).item() == pytest.approx(
        -0.7 * entropy(latent).mean().item(), rel=1e-5
    )
    step = 1e-2
    slopes = [(entropy(latent + step * e) - entropy(latent - step * e)) / (2 * step) for e in torch.eye(3)]
    penalty = torch.stack(slopes).square().sum(dim=0).mean().item()
    loss = module.adversary_loss(cells, inference, generative).item()
    assert loss == pytest.approx(entropy(latent).mean().item() + 5 * penalty, rel=2e-2)


def nearest_mean_accuracy(latent, levels, train, test):
    """Accuracy of the simplest classifier: the class whose training mean is nearest, in whitened space."""
    latent = (latent - latent[train].mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(latent[train].T))).T
    names = np.unique(levels)
    means = np.stack([latent[train & (levels == name)].mean(axis=0) for name in names])
    nearest = ((latent[test][:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    return float((names[nearest] == levels[test]).mean())


def test_learns_effects_and_forgets_covariates(fit, learnable, scores):
    obs = learnable.obs
    train, test = ((obs["split"] == split).to_numpy() for split in ("train", "test"))
    accuracy = {}
    for weight in (10.0, 0.0):
        model = fit(CPA, learnable.copy(), 60, adversarial_weight=weight, gradient_penalty=1.0)
        if weight:
            found = scores(model)
        for key in ("perturbation", "cell_type"):
            levels, latent = obs[key].astype(str).to_numpy(), model.get_latent_representation()
            accuracy[key, weight] = nearest_mean_accuracy(latent, levels, train, test)
    assert found["shift"] > 0.3  # no change has 0
    assert found["individuality"] > 0.3
    chance = 1 / 3  # three cell types
    assert accuracy["cell_type", 10.0] < chance + 0.15
    assert accuracy["cell_type", 10.0] - chance < 0.6 * (accuracy["cell_type", 0.0] - chance)
    assert accuracy["perturbation", 10.0] < accuracy["perturbation", 0.0] - 0.2
