from __future__ import annotations

import copy

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

import scgraphvci as sgv
from scgraphvci._constants import KEYS
from scgraphvci.data import StratumMoments
from scgraphvci.module import GraphVCIModule
from scgraphvci.train import AdversarialPlan

N_GENES = 4
DESIGN = np.array([[0.0], [1.0]], np.float32)


@pytest.fixture(autouse=True)
def seed():
    before = scvi.settings.seed
    scvi.settings.seed = 0
    yield
    scvi.settings.seed = before


@pytest.fixture
def plan():
    module = GraphVCIModule(
        N_GENES, DESIGN, np.array([[0], [1]]), [2], n_hidden=8, n_latent=3, distribution_loss="adversarial"
    )
    mean = np.ones((3, N_GENES), np.float32)
    moments = StratumMoments(np.array([[0, 1], [2, -1]]), np.array([5, 5, 5]), mean, mean, mean[0], 1.0)
    return AdversarialPlan(module, moments=moments, discriminator_lr=0.02)


def make_batch(stratum):
    rng = np.random.default_rng(0)
    n = len(stratum)
    return {
        KEYS.OUTCOME: torch.from_numpy(rng.normal(size=(n, N_GENES)).astype(np.float32)),
        KEYS.TREATMENT: torch.zeros((n, 1), dtype=torch.long),
        KEYS.STRATUM: torch.tensor(stratum)[:, None],
    }


def discriminator_loss(plan, batch):
    return plan._discriminator_loss(batch, plan.module.unpack(batch))


class TestDiscriminatorLoss:
    def test_cross_entropy_of_observed_cells_against_known_counterfactuals(self, plan):
        batch = make_batch([0, 0, 1, 1, 0])  # all are controls; stratum 1 was never treated
        plan._draw(batch)
        assert batch["target_known"].tolist() == [True, True, False, False, True]
        real = torch.tensor([0.3, -0.2, 1.0, 2.0, 0.0])
        fake = torch.tensor([-1.0, 0.5, 100.0, 100.0, 0.1])
        logits = iter([real, fake])
        plan.discriminator.forward = lambda *args: next(logits)
        positive = np.log1p(np.exp(-real.numpy())).mean()
        negative = np.log1p(np.exp(fake.numpy()[[0, 1, 4]])).mean()
        assert discriminator_loss(plan, batch).item() == pytest.approx(positive + negative, rel=1e-6)

    def test_backward_pass_where_no_counterfactual_is_known(self, plan):
        """Every process of a distributed run must take one: the others wait for its gradients."""
        batch = make_batch([1, 1])
        plan._draw(batch)
        plan.discriminator.eval()  # no dropout
        loss = discriminator_loss(plan, batch)
        loss.backward()
        cells = plan.module.unpack(batch)
        with torch.no_grad():
            covariates = (cells["levels"], cells["continuous"])
            real = plan.discriminator(plan.module, cells["outcome"], cells["treatment"], *covariates)
        assert loss.item() == pytest.approx(torch.nn.functional.softplus(-real).mean().item(), rel=1e-6)

    def test_gradient_stays_in_the_discriminator(self, plan):
        batch = make_batch([0, 0, 1])
        plan._draw(batch)
        discriminator_loss(plan, batch).backward()
        assert all(parameter.grad is None for parameter in plan.module.parameters())
        assert any(parameter.grad.abs().sum() > 0 for parameter in plan.discriminator.parameters())


def test_optimisers_own_disjoint_parameters(plan):
    model, discriminator = plan.configure_optimizers()
    owned = [
        {id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in (model, discriminator)
    ]
    assert owned[0] == {id(p) for p in plan.module.parameters()}
    assert owned[1] == {id(p) for p in plan.discriminator.parameters()}
    assert discriminator.param_groups[0]["lr"] == 0.02


def test_moves_between_devices_and_dtypes(plan):
    plan.to(torch.float64)
    assert {parameter.dtype for parameter in plan.parameters()} == {torch.float64}


class Steps(Callback):
    """Notes which parameters change in a step."""

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        self.before = copy.deepcopy(plan.state_dict())

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
        after = plan.state_dict()
        self.changed = {key.split(".")[0] for key in after if not torch.equal(after[key], self.before[key])}


class TestTraining:
    def train(self, screen, max_epochs=2, **kwargs):
        sgv.GraphVCI.setup_anndata(
            screen, combination_sep="+", categorical_covariate_keys=["cell_type"], split_key="split"
        )
        model = sgv.GraphVCI(screen, distribution_loss="adversarial", n_latent=3, n_hidden=8)
        model.train(
            max_epochs=max_epochs, accelerator="cpu", enable_progress_bar=False, batch_size=64,
            check_val_every_n_epoch=1, **kwargs,
        )  # fmt: skip
        return model

    def test_every_step_trains_both_and_logs_all_terms(self, screen):
        steps = Steps()
        model = self.train(screen, callbacks=[steps])
        assert steps.changed == {"module", "discriminator"}
        history = model.history
        for mode, loss in (("train", "train_loss"), ("validation", "validation_loss")):
            names = ("reconstruction_loss", "distribution_loss", "divergence")
            terms = [history[f"{name}_{mode}"].to_numpy(dtype=float) for name in names]
            module = model.module
            weights = [module.individual_weight, module.covariate_weight, module.divergence_weight]
            expected = sum(weight * term for weight, term in zip(weights, terms, strict=True))
            np.testing.assert_allclose(history[loss].to_numpy(dtype=float), expected, rtol=1e-5)
        assert np.isfinite(history["discriminator_loss_train"].to_numpy(dtype=float)).all()
        assert len(history["lr"]) == 2

    def test_same_seed_same_weights(self, make_screen):
        states = []
        for _ in range(2):
            scvi.settings.seed = 3
            states.append(self.train(make_screen()).module.state_dict())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    def test_the_model_moves_toward_the_observed_mean(self, screen):
        """Without the reconstruction term, only the discriminator says where a treatment's cells are."""
        sgv.GraphVCI.setup_anndata(screen, combination_sep="+", split_key="split")
        model = sgv.GraphVCI(
            screen, distribution_loss="adversarial", n_latent=3, n_hidden=16, individual_weight=0.0, baseline=False
        )
        train = (screen.obs["split"] == "train").to_numpy()
        target = screen.X[train & (screen.obs["perturbation"] == "B").to_numpy()].mean(axis=0)
        errors = []
        for _ in range(2):
            if errors:
                model.train(
                    max_epochs=60, accelerator="cpu", enable_progress_bar=False, batch_size=64,
                    plan_kwargs={"lr": 3e-3, "discriminator_lr": 3e-3},
                )  # fmt: skip
            model.is_trained_ = True
            predicted = np.asarray(model.predict("B", indices=np.arange(40)).X).mean(axis=0)
            errors.append(np.abs(predicted - target).mean())
        assert errors[1] < 0.6 * errors[0]
