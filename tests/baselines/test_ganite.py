"""The game of GANITE against its formula, and that playing it teaches effects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci._constants import KEYS
from scgraphvci.baselines import GANITE
from scgraphvci.baselines._deep_module import Screen
from scgraphvci.baselines._ganite import GANITEModule
from scgraphvci.data import stratum_moments

SCREEN = Screen(6, np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32), np.array([[0], [1]]), (2,), 1)


@pytest.fixture
def played():
    """Module, cells and outputs of one minibatch."""
    torch.manual_seed(0)
    module = GANITEModule(SCREEN, n_latent=3, n_hidden=8, adversarial_weight=0.7, gradient_penalty=5.0)
    codes = torch.arange(12)[:, None] % 3
    batch = {
        KEYS.OUTCOME: torch.randn(12, 6),
        KEYS.TREATMENT: codes,
        KEYS.STRATUM: codes % 2,
        KEYS.CONTINUOUS: torch.randn(12, 1),
    }
    inference, generative, _ = module(batch)
    return module, module.unpack(batch), inference, generative


def test_counterfactuals_are_of_the_treatment_drawn(played):
    module, cells, inference, generative = played
    expected = module.decode(inference["latent"], generative["treatment"], cells["levels"])[0]
    torch.testing.assert_close(generative["counterfactual"], expected)
    other = (generative["treatment"] != cells["treatment"]).any(dim=1)
    np.testing.assert_array_equal(generative["counts"], other.float())
    assert sorted(map(tuple, generative["treatment"].tolist())) == sorted(map(tuple, cells["treatment"].tolist()))


def test_pairs_without_training_cells_are_left_out_of_the_game(played):
    module, cells, inference, _ = played
    values = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    stratum, condition = cells["stratum"].numpy(), cells["condition"].numpy()
    train = np.flatnonzero(~((stratum == 0) & (condition == 2)))
    module.initialise(stratum_moments(values, stratum, condition, 2, 3, train))
    known = set(zip(stratum[train], condition[train], strict=True))
    generative = module.generative(cells, inference["latent"])
    for i, drawn in enumerate(generative["treatment"].numpy()):
        code = int((SCREEN.design == drawn).all(axis=1).argmax())
        assert generative["counts"][i] == (code != condition[i] and (stratum[i], code) in known)
    assert 12 > generative["counts"].sum() > 0


def test_terms_are_cross_entropies_over_the_two_outcomes(played):
    module, cells, inference, generative = played
    outcome = generative["px"].mean.detach()
    score = module._score(cells, cells["treatment"], outcome)
    other = module._score(cells, generative["treatment"], generative["counterfactual"])
    pair = torch.stack([score, other], dim=1).softmax(dim=1).detach().numpy()
    mask = generative["counts"].numpy() > 0
    generator = module.adversarial_term(cells, inference, generative).item()
    assert generator == pytest.approx(0.7 * -np.log(pair[mask, 1]).mean(), rel=1e-4)

    step = 1e-2
    slopes = []
    for j in range(6):
        moved = [outcome + sign * step * torch.eye(6)[j] for sign in (1, -1)]
        rise = [module._score(cells, cells["treatment"], value).detach() for value in moved]
        slopes.append((rise[0] - rise[1]) / (2 * step))  # scales are 1 before training
    penalty = torch.stack(slopes).square().sum(dim=0).mean().item()
    discriminator = module.adversary_loss(cells, inference, generative).item()
    assert discriminator == pytest.approx(-np.log(pair[mask, 0]).mean() + 5 * penalty, rel=1e-2)


def test_generator_alone_gets_the_gradient_of_its_term(played):
    module, cells, inference, generative = played
    module.adversary.requires_grad_(False)
    module.adversarial_term(cells, inference, generative).backward()
    assert module.head.weight.grad.abs().sum() > 0
    module.zero_grad()
    module.adversary.requires_grad_(True)
    module.adversary_loss(cells, inference, generative).backward()
    assert all(p.grad is None for name, p in module.named_parameters() if not name.startswith("adversary"))


def test_the_game_teaches_effects(fit, learnable, scores):
    found, base = (scores(fit(GANITE, learnable.copy(), 40, adversarial_weight=weight)) for weight in (1.0, 0.0))
    assert found["shift"] > base["shift"] + 0.05
    assert found["shift"] > 0.4  # no change has 0
    assert found["individuality"] > 0.3
