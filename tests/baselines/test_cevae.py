"""The bound of CEVAE against its formula, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci._constants import KEYS
from scgraphvci.baselines import CEVAE
from scgraphvci.baselines._cevae import CEVAEModule
from scgraphvci.baselines._deep_module import Screen

SCREEN = Screen(6, np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32), np.array([[0], [1]]), (2,), 0)


def test_penalties_are_the_other_terms_of_the_bound_per_gene():
    torch.manual_seed(0)
    module = CEVAEModule(SCREEN, n_latent=3, n_hidden=8)
    codes = torch.tensor([[0], [1], [2], [1]])
    batch = {KEYS.OUTCOME: torch.randn(4, 6), KEYS.TREATMENT: codes, KEYS.STRATUM: codes % 2}
    inference, generative, output = module(batch)
    found = module.penalties(module.unpack(batch), inference, generative)
    mean, sd = (part.detach().numpy() for part in (inference["qz"].mean, inference["qz"].stddev))
    divergence = ((mean**2 + sd**2 - 1) / 2 - np.log(sd)).sum(axis=1).mean() / 6
    assert found["divergence"].item() == pytest.approx(divergence, rel=1e-4)
    treatment, covariates = module.proxies(inference["latent"], module.unpack(batch))
    assert found["treatment_loss"].item() == pytest.approx(treatment.mean().item() / 6, rel=1e-5)
    assert found["covariate_loss"].item() == pytest.approx(covariates.mean().item() / 6, rel=1e-5)
    total = output.reconstruction_loss["reconstruction_loss"].mean() + sum(found.values())
    assert output.loss.item() == pytest.approx(total.item(), rel=1e-5)


def test_learns_effects_and_its_latent_tells_covariates(fit, learnable, scores):
    model = fit(CEVAE, learnable.copy(), 40)
    found = scores(model)
    assert found["shift"] > 0.4  # no change has 0
    assert found["individuality"] > 0.3
    cells = np.flatnonzero(learnable.obs["split"] == "test")
    latent = torch.as_tensor(model.get_latent_representation(indices=cells))
    logits = model.module.proxies.levels[0](model.module.proxies.mlp(latent))
    correct = logits.argmax(dim=1).numpy() == learnable.obs["cell_type"].cat.codes.to_numpy()[cells]
    assert correct.mean() > 0.9
    spread = np.abs(model.get_latent_representation(indices=cells, give_mean=False) - latent.numpy()).mean()
    assert 0.01 < spread < 1
