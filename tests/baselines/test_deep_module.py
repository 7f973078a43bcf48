"""Loss, shapes and parts of the conditional autoencoder, against formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from scgraphvci._constants import KEYS
from scgraphvci.baselines._deep_module import ConditionalAutoencoder, LatentClassifier, Point, Screen
from scgraphvci.data import stratum_moments

DESIGN = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32)
STRATA = np.array([[0, 0], [0, 1], [1, 0], [1, 2]])
SCREEN = Screen(n_genes=6, design=DESIGN, strata=STRATA, n_levels=(2, 3), n_continuous=1)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        KEYS.OUTCOME: torch.as_tensor(rng.normal(2, 1, (9, 6)), dtype=torch.float32),
        KEYS.TREATMENT: torch.as_tensor(rng.integers(0, 4, (9, 1))),
        KEYS.STRATUM: torch.as_tensor(rng.integers(0, 4, (9, 1))),
        KEYS.CONTINUOUS: torch.as_tensor(rng.normal(size=(9, 1)), dtype=torch.float32),
    }


def test_codes_point_into_the_tables(batch):
    module = ConditionalAutoencoder(SCREEN)
    cells = module.unpack(batch)
    treatment, stratum = batch[KEYS.TREATMENT].ravel().numpy(), batch[KEYS.STRATUM].ravel().numpy()
    np.testing.assert_array_equal(cells["treatment"], DESIGN[treatment])
    np.testing.assert_array_equal(cells["levels"], STRATA[stratum])
    other = torch.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(module.unpack(batch, design=other)["treatment"], other[treatment])


def test_loss_is_the_normal_log_density_per_gene(batch):
    torch.manual_seed(0)
    module = ConditionalAutoencoder(SCREEN, n_latent=3, n_hidden=8)
    with torch.no_grad():
        module.log_scale.uniform_(-1, 1)
    inference, generative, output = module(batch)
    cells = module.unpack(batch)
    mean = module.decode(inference["latent"], cells["treatment"], cells["levels"])[0].detach().numpy()
    sd = np.exp(module.log_scale.detach().numpy()) + 0.01
    expected = -stats.norm(mean, sd).logpdf(batch[KEYS.OUTCOME].numpy()).mean(axis=1)
    np.testing.assert_allclose(output.reconstruction_loss["reconstruction_loss"].detach(), expected, rtol=1e-5)
    assert output.loss.item() == pytest.approx(expected.mean(), rel=1e-5)


def test_starts_from_mean_and_scale_of_training_cells():
    rng = np.random.default_rng(0)
    values = rng.normal(rng.normal(size=6), rng.uniform(0.5, 2, 6), (400, 6)).astype(np.float32)
    zeros = np.zeros(400, dtype=int)
    module = ConditionalAutoencoder(SCREEN)
    module.initialise(stratum_moments(values, zeros, zeros, 4, 4, np.arange(300)))
    np.testing.assert_allclose(module.input_mean, values[:300].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(module.head.bias.detach(), values[:300].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(module.log_scale.detach().exp(), values[:300].std(axis=0), rtol=1e-4)


def test_every_input_matters_and_widths_are_as_asked(batch):
    torch.manual_seed(0)
    module = ConditionalAutoencoder(SCREEN, n_latent=5, n_hidden=7, n_layers=3, n_treatment_embedding=4)
    cells = module.unpack(batch)
    inputs = [cells[key] for key in ("outcome", "treatment", "levels", "continuous")]
    latent = module.encode(*inputs).mean
    assert latent.shape == (9, 5)
    assert sum(isinstance(part, torch.nn.ReLU) for part in module.encoder.modules()) == 3
    for i, changed in enumerate([inputs[0] + 1, 1 - inputs[1], inputs[2].flip(0), inputs[3] + 1]):
        assert not torch.allclose(latent, module.encode(*inputs[:i], changed, *inputs[i + 1 :]).mean)
    decoded = module.decode(latent, cells["treatment"], cells["levels"])[0]
    assert decoded.shape == (9, 6)
    assert not torch.allclose(decoded, module.decode(latent, 1 - cells["treatment"], cells["levels"])[0])


def test_point_has_no_spread():
    mean = torch.randn(4, 2)
    assert Point(mean).sample() is mean
    assert Point(mean).rsample() is mean


def test_classifier_against_log_softmax(batch):
    torch.manual_seed(0)
    classifier = LatentClassifier(SCREEN, n_latent=3, n_hidden=8)
    cells = ConditionalAutoencoder(SCREEN).unpack(batch)
    latent = torch.randn(9, 3)
    treatment, covariates = (part.detach().numpy() for part in classifier(latent, cells))
    hidden = classifier.mlp(latent)

    def surprise(logits, codes):
        logits = logits.detach().numpy()
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -np.log(probability[np.arange(len(codes)), codes.numpy()])

    np.testing.assert_allclose(treatment, surprise(classifier.treatment(hidden), cells["condition"]), rtol=1e-4)
    expected = sum(surprise(head(hidden), cells["levels"][:, j]) for j, head in enumerate(classifier.levels))
    residual = (classifier.continuous(hidden) - cells["continuous"]).detach().numpy().ravel()
    np.testing.assert_allclose(covariates, expected + residual**2 / 2, rtol=1e-4)
