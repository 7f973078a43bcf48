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
from scgraphvci.metrics import pearson_shift, r2
from scgraphvci.module import GraphVCIModule, _objective
from scgraphvci.module._objective import draw_counterfactual
from scgraphvci.train import CounterfactualPlan, SplitByColumn
from scgraphvci.train._seed import mix_seed
from scgraphvci.train._targets import Targets

N_GENES = 5
DESIGN = np.array([[0.0, 0], [1, 0], [0, 1]], np.float32)
ROW = np.array([[0, 2, 3], [1, -1, 4]])
TERMS = ("reconstruction_loss", "distribution_loss", "divergence")


def make_moments(row=ROW):
    rng = np.random.default_rng(0)
    n = row.max() + 1
    mean, variance = rng.gamma(2, 1, (2, n, N_GENES)).astype(np.float32)
    return StratumMoments(row, rng.integers(3, 30, n), mean, variance, mean[0], 1.0)


def make_plan(**kwargs):
    torch.manual_seed(0)
    module = GraphVCIModule(N_GENES, DESIGN, np.array([[0], [1]]), [2], n_hidden=8, n_latent=3)
    moments = make_moments()
    module.initialise(moments)
    return CounterfactualPlan(module, moments=moments, **kwargs)


def make_batch(n=400):
    rng = np.random.default_rng(1)
    codes = {KEYS.TREATMENT: rng.integers(3, size=(n, 1)), KEYS.STRATUM: rng.integers(2, size=(n, 1))}
    batch = {key: torch.from_numpy(value) for key, value in codes.items()}
    batch[KEYS.OUTCOME] = torch.from_numpy(rng.normal(size=(n, N_GENES)).astype(np.float32))
    return batch


def make_model(adata, **kwargs):
    sgv.GraphVCI.setup_anndata(
        adata, combination_sep="+", categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn"
    )
    return sgv.GraphVCI(adata, **{"n_latent": 3, "n_hidden": 8, "n_graph_hidden": 4, **kwargs})


def train(model, max_epochs=2, **kwargs):
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "check_val_every_n_epoch": 1, "batch_size": 64}
    model.train(max_epochs=max_epochs, **{**quiet, **kwargs})
    return model


def weights(model):
    return copy.deepcopy(model.module.state_dict())


def equal(left, right):
    return all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(autouse=True)
def seed():
    before = scvi.settings.seed
    scvi.settings.seed = 0
    yield
    scvi.settings.seed = before


class TestDraws:
    @pytest.mark.parametrize("hold", [True, False])
    @pytest.mark.parametrize("target", ["stratum", "cell"])
    def test_targets_are_those_of_the_cell_s_stratum_under_the_drawn_treatment(self, target, hold):
        plan, batch = make_plan(hold_unobserved=hold), make_batch()
        plan.module.distribution_target = target
        plan._draw(batch)
        targets = Targets(make_moments(), plan.module)
        assert len(targets.mean.unique(dim=0)) == len(targets.variance.unique(dim=0)) == 5
        pair_of_set = {}
        for i in range(400):
            own, drawn = batch[KEYS.TREATMENT][i, 0].item(), batch["counterfactual_condition"][i].item()
            stratum = batch[KEYS.STRATUM][i, 0].item()
            assert own != drawn
            np.testing.assert_array_equal(batch["counterfactual_treatment"][i], DESIGN[drawn])
            mean, variance = (batch[key][batch["target_set"][i]] for key in ("target_mean", "target_variance"))
            row = ROW[stratum, drawn]
            assert batch["target_known"][i] == (row >= 0 or hold)
            assert pair_of_set.setdefault(batch["target_set"][i].item(), (stratum, drawn)) == (stratum, drawn)
            if row >= 0:
                np.testing.assert_array_equal(mean, targets.mean[row])
                np.testing.assert_array_equal(variance, targets.variance[row])
            elif hold:  # the baseline's
                vector, levels = torch.from_numpy(DESIGN[[drawn]]), torch.tensor([[stratum]])
                np.testing.assert_allclose(mean, plan.module.baseline(vector, levels)[0], rtol=1e-5)
                np.testing.assert_array_equal(variance, targets.within_variance)
        assert len(set(pair_of_set.values())) == len(pair_of_set) == (4 if target == "stratum" else 6)

    @pytest.mark.parametrize("target", ["stratum", "cell"])
    def test_law_of_the_drawn_treatments(self, target):
        """Whatever is shared, each cell draws from the empirical law of the treatments other than its own."""
        plan = make_plan()
        plan.module.distribution_target = target
        counts, frequency = np.zeros((3, 3)), np.asarray(plan.frequency)
        for _ in range(3000):
            batch = make_batch(12)
            plan._draw(batch)
            np.add.at(counts, (batch[KEYS.TREATMENT].ravel(), batch["counterfactual_condition"]), 1)
        for own in range(3):
            expected = np.where(np.arange(3) == own, 0, frequency) / (frequency.sum() - frequency[own])
            np.testing.assert_allclose(counts[own] / counts[own].sum(), expected, atol=0.04)

    def test_cells_of_a_stratum_share_a_treatment(self):
        plan, batch = make_plan(), make_batch()
        plan._draw(batch)
        for stratum in range(2):
            inside = (batch[KEYS.STRATUM] == stratum).ravel()
            drawn, own = batch["counterfactual_condition"][inside], batch[KEYS.TREATMENT].ravel()[inside]
            shared = [t for t in range(3) if (drawn[own != t] == t).all()]
            assert len(shared) == 1

    def test_control_is_drawn_unless_told_otherwise(self):
        for draw_control in (True, False):
            plan, drawn = make_plan(draw_control=draw_control), []
            for _ in range(30):
                batch = make_batch(50)
                plan._draw(batch)
                drawn.append(batch["counterfactual_condition"])
            assert (torch.cat(drawn) == 0).any() == draw_control

    @pytest.mark.parametrize("hold", [True, False])
    def test_targets_look_up_no_row_for_a_pair_never_observed(self, hold):
        """Cells whose pair has no moments must not read those of another row."""
        losses = []
        for change in (0.0, 100.0):
            plan, batch = make_plan(hold_unobserved=hold), make_batch()
            batch = {key: value[(batch[KEYS.STRATUM] == 1).ravel()] for key, value in batch.items()}
            plan.target_mean[ROW[0, [0, 1, 2]]] += change  # the rows of the other stratum, where no cell is
            torch.manual_seed(0)
            losses.append(plan._step(batch)[1].loss.item())
            known = batch["target_known"]
            assert known.any()
            assert known.all() == hold
        assert losses[0] == losses[1]

    def test_without_a_baseline_nothing_holds_pairs_never_observed(self):
        small = {"n_hidden": 8, "n_latent": 3, "distribution_target": "cell"}
        module = GraphVCIModule(N_GENES, DESIGN, np.array([[0], [1]]), [2], baseline=False, **small)
        plan, batch = CounterfactualPlan(module, moments=make_moments()), make_batch()
        plan._draw(batch)
        assert not batch["target_known"].all()
        with pytest.raises(ValueError, match="no baseline"):
            module.baseline_mean(batch["counterfactual_treatment"], torch.zeros(400, 1, dtype=torch.long))

    def test_moments_are_no_part_of_the_state(self):
        plan = make_plan(frozen_encoder=True)
        plan._frozen_encoder[:] = [copy.deepcopy(plan.module.encoder)]
        plan._last_good[:] = [plan.module.state_dict()]
        assert {key.split(".")[0] for key in plan.state_dict()} == {"module"}
        assert len(list(plan.parameters())) == len(list(plan.module.parameters()))


class Watcher(Callback):
    """Notes batches, draws and weights while a model trains."""

    def __init__(self):
        self.first_cells, self.validation, self.epoch_weights, self.frozen = [], [], [], []

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if batch_idx == 0:
            self.first_cells.append(batch[KEYS.OUTCOME].clone())
            self.frozen.append(copy.deepcopy(plan._frozen_encoder))
            self.epoch_weights.append(copy.deepcopy(plan.module.state_dict()))

    def on_validation_batch_end(self, trainer, plan, outputs, batch, batch_idx, dataloader_idx=0):
        self.validation.append((trainer.current_epoch, batch["counterfactual_condition"].clone()))


class TestTraining:
    def test_logged_terms_add_up_to_the_loss(self, screen):
        model = train(make_model(screen, individual_weight=0.6, covariate_weight=1.7, divergence_weight=0.9), 3)
        history = model.history
        for mode, loss in (("train", "train_loss"), ("validation", "validation_loss")):
            terms = [history[f"{term}_{mode}"].to_numpy(dtype=float) for term in TERMS]
            expected = 0.6 * terms[0] + 1.7 * terms[1] + 0.9 * terms[2]
            np.testing.assert_allclose(history[loss].to_numpy(dtype=float), expected, rtol=1e-5)
            assert len(expected) == 3

    def test_learning_rate(self, screen):
        rates = {}
        for schedule in ("cosine", "constant"):
            model = train(make_model(screen), 4, plan_kwargs={"lr": 0.01, "lr_schedule": schedule})
            rates[schedule] = model.history["lr"].to_numpy(dtype=float).ravel()
        np.testing.assert_allclose(rates["constant"], 0.01, rtol=1e-6)
        assert (np.diff(rates["cosine"]) < 0).all()
        per_epoch = model.trainer.num_training_batches
        steps = np.arange(4 * per_epoch).reshape(4, per_epoch)
        expected = 0.005 * (1 + np.cos(np.pi * steps / steps.size)).mean(axis=1)
        np.testing.assert_allclose(rates["cosine"], expected, rtol=0.1)

    def test_validation_metrics_compare_means_of_counterfactuals_with_those_of_validation_cells(self, trained):
        """Validate once more with the final weights and score with numpy and a loop over pairs."""
        splitter = SplitByColumn(trained.adata_manager, batch_size=128)
        splitter.setup()
        plan = CounterfactualPlan(
            trained.module, moments=trained._moments(trained._registered_cells(), splitter.train_idx)
        )
        predicted, pairs = [], []
        batches = iter(splitter.val_dataloader())  # which draws a number itself, hence before seeding
        torch.manual_seed(mix_seed(0, 2**31, 0))
        with torch.no_grad():
            for batch in batches:
                encoded, _ = plan._step(batch)
                condition = draw_counterfactual(batch[KEYS.TREATMENT].long().ravel(), plan.frequency)
                cells = plan.module.unpack(batch)
                treatment = plan.module.design[condition]
                latent = encoded["qz"].mean
                predicted.append(plan.module.decode(latent, treatment, cells["levels"], encoded["genes"])[0])
                pairs.append(torch.stack([batch[KEYS.STRATUM].ravel(), condition], dim=1))
        predicted, pairs = torch.cat(predicted).numpy(), torch.cat(pairs).numpy().astype(int)
        manager, observed = trained.adata_manager, trained.adata.X[splitter.val_idx].toarray()
        code = [np.ravel(manager.get_from_registry(key))[splitter.val_idx] for key in (KEYS.STRATUM, KEYS.TREATMENT)]
        scores = []
        for x, t in np.unique(pairs, axis=0):
            cells, control = (code[0] == x) & (code[1] == t), (code[0] == x) & (code[1] == 0)
            if t > 0 and cells.sum() >= 5 and control.any():
                mean = predicted[(pairs == [x, t]).all(axis=1)].mean(axis=0)
                true, reference = observed[cells].mean(axis=0), observed[control].mean(axis=0)
                scores.append((r2(true, mean), pearson_shift(true, mean, reference)))
        found = [trained.history[name].iloc[-1].item() for name in ("r2_validation", "pearson_shift_validation")]
        assert len(scores) > 1
        np.testing.assert_allclose(found, np.mean(scores, axis=0), rtol=1e-4)

    def test_epochs_shuffle_anew_and_validations_agree(self, screen):
        watcher = Watcher()
        train(make_model(screen), 3, callbacks=[watcher])
        first, second, third = watcher.first_cells
        assert not torch.equal(first, second)
        assert not torch.equal(second, third)
        draws = [torch.cat([drawn for at, drawn in watcher.validation if at == epoch]) for epoch in range(3)]
        assert torch.equal(draws[0], draws[1])
        assert torch.equal(draws[1], draws[2])

    def test_same_seed_same_weights(self, make_screen):
        results = []
        for seed in (1, 1, 2):
            scvi.settings.seed = seed
            results.append(weights(train(make_model(make_screen()))))
        assert equal(results[0], results[1])
        assert not equal(results[0], results[2])

    def test_draws_and_order_of_cells_do_not_depend_on_earlier_random_numbers(self, make_screen):
        results = []
        for earlier in (1, 2):
            scvi.settings.seed = 0
            model = make_model(make_screen())
            torch.manual_seed(earlier)
            results.append(weights(train(model)))
        assert equal(*results)

    def test_the_loss_falls(self, screen):
        model = train(make_model(screen), 15, plan_kwargs={"lr": 1e-2})
        loss = model.history["train_loss"].to_numpy(dtype=float).ravel()
        assert loss[-1] < loss[0]

    def test_frozen_encoder_is_a_copy_refreshed_each_epoch(self, screen):
        watcher = Watcher()
        train(make_model(screen), 2, callbacks=[watcher], plan_kwargs={"frozen_encoder": True})
        for (frozen,), start in zip(watcher.frozen, watcher.epoch_weights, strict=True):
            assert not any(parameter.requires_grad for parameter in frozen.parameters())
            for name, value in frozen.state_dict().items():
                assert torch.equal(value, start[f"encoder.{name}"])
        assert not equal(watcher.epoch_weights[0], watcher.epoch_weights[1])

    def test_without_baseline(self, screen):
        model = train(make_model(screen, baseline=False), 15, plan_kwargs={"lr": 1e-2})
        loss = model.history["train_loss"].to_numpy(dtype=float).ravel()
        assert loss[-1] < loss[0]
        assert not any(name.startswith(("baseline", "gain")) for name in weights(model))

    def test_the_baseline_stays_and_the_gain_learns(self, screen):
        watcher = Watcher()
        model = train(make_model(screen), 3, callbacks=[watcher])
        start, end = watcher.epoch_weights[0], weights(model)
        fixed = [name for name in end if name.startswith("baseline.")]
        assert start["baseline.shift"].any()
        assert all(torch.equal(start[name], end[name]) for name in fixed)
        assert not start["gain.weight"].any()
        assert end["gain.weight"].any()

    @pytest.mark.parametrize("keep_best", [True, False])
    def test_ends_with_the_weights_of_the_lowest_validation_loss(self, screen, keep_best):
        class Keeper(Callback):
            def on_validation_end(self, trainer, plan):
                if not trainer.sanity_checking:
                    kept.append((float(trainer.callback_metrics["validation_loss"]), weights(plan)))

        kept = []
        model = make_model(screen)
        train(
            model, 8, callbacks=[Keeper()], plan_kwargs={"keep_best": keep_best, "lr": 0.05, "lr_schedule": "constant"}
        )
        losses = [loss for loss, _ in kept]
        best = int(np.argmin(losses))
        assert best < len(losses) - 1  # so large a learning rate does not end at its best
        assert equal(weights(model), kept[best if keep_best else -1][1])

    def test_without_validation_cells(self, screen):
        screen.obs["split"] = np.where(screen.obs["split"] == "ood", "ood", "train")
        model = train(make_model(screen))
        assert "validation_loss" not in model.history
        assert len(model.history["train_loss"]) == 2

    def test_only_the_distribution_loss_in_use_reads_moments(self, screen):
        watcher = Watcher()
        model = train(make_model(screen, distribution_loss="gaussian"), 1, callbacks=[watcher])
        assert np.isfinite(model.history["distribution_loss_train"].to_numpy(dtype=float)).all()

    def test_learning_rate_falls_on_a_plateau_of_validations_that_are_not_every_epoch(self, screen):
        plateau = {"reduce_lr_on_plateau": True, "lr": 1e-3, "lr_patience": 0, "lr_threshold": 1e6, "lr_factor": 0.5}
        model = train(make_model(screen), 9, check_val_every_n_epoch=3, plan_kwargs=plateau)
        lr = model.history["lr"].to_numpy(dtype=float).ravel()
        np.testing.assert_allclose(lr[:5], 1e-3, rtol=1e-6)
        assert lr[-1] < 0.9e-3

    @pytest.mark.parametrize("hold", [True, False])
    def test_mean_features_of_observed_pairs_are_looked_up(self, screen, hold):
        seen = []

        class Looker(Callback):
            def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
                pairs = batch[KEYS.STRATUM].long().flatten(), batch["counterfactual_condition"]
                seen.append((batch, plan.target_row[pairs], plan.target_embedding))

        train(
            make_model(screen, distribution_loss="mmd"), 1, callbacks=[Looker()], plan_kwargs={"hold_unobserved": hold}
        )
        observed = torch.cat([batch["target_observed"] for batch, _, _ in seen])
        assert 0 < observed.sum() < len(observed)
        for batch, row, table in seen:
            assert torch.equal(batch["target_observed"], row >= 0)
            assert torch.equal(batch["target_known"], torch.ones_like(row >= 0) if hold else row >= 0)
            assert torch.equal(batch["target_embedding"][row >= 0], table[row[row >= 0]])


class TestNonFiniteLoss:
    N_STEPS = 3  # of an epoch

    def spoil(self, monkeypatch, name, at_step, value=np.nan, *, gradient=False):
        """Multiply a function of the objective by `value` in one training step, or its gradient."""
        function, calls = getattr(_objective, name), []

        def spoilt(*args):
            result = function(*args)
            calls.append(result.requires_grad)
            if sum(calls) != at_step or not result.requires_grad:
                return result
            if not gradient:
                return result * value
            result.register_hook(lambda grad: grad * value)
            return result

        monkeypatch.setattr(_objective, name, spoilt)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize(
        ("function", "term"), [("latent_divergence", "divergence"), ("kernel_distance", "distribution_loss")]
    )
    def test_names_epoch_and_term_and_keeps_the_last_epoch(self, screen, monkeypatch, function, term, value):
        model, watcher = make_model(screen), Watcher()
        self.spoil(monkeypatch, function, 2 * self.N_STEPS + 2, value)
        match = rf"The loss became {value} in epoch 2 \(term: {term}\); the weights at the start of epoch 2 are kept"
        with pytest.raises(FloatingPointError, match=match):
            train(model, 5, callbacks=[watcher])
        assert equal(weights(model), watcher.epoch_weights[2])
        assert not equal(weights(model), watcher.epoch_weights[1])

    def test_weights_whose_first_loss_is_not_finite_are_not_kept(self, screen, monkeypatch):
        model, watcher = make_model(screen), Watcher()
        self.spoil(monkeypatch, "latent_divergence", 2 * self.N_STEPS + 1)
        with pytest.raises(FloatingPointError, match="in epoch 2 .* the weights at the start of epoch 1 are kept"):
            train(model, 5, callbacks=[watcher])
        assert equal(weights(model), watcher.epoch_weights[1])

    def test_in_the_first_epoch_keeps_the_weights_before_training(self, screen, monkeypatch):
        model, watcher = make_model(screen), Watcher()
        self.spoil(monkeypatch, "latent_divergence", 2)
        with pytest.raises(FloatingPointError, match=r"in epoch 0 \(term: divergence\); the weights before training"):
            train(model, 5, callbacks=[watcher])
        assert equal(weights(model), watcher.epoch_weights[0])
        assert not model.is_trained

    def test_a_gradient_that_is_not_finite_in_the_last_step(self, screen, monkeypatch):
        model, watcher = make_model(screen), Watcher()
        self.spoil(monkeypatch, "latent_divergence", 2 * self.N_STEPS, gradient=True)
        with pytest.raises(FloatingPointError, match=r"weights became NaN or infinite in epoch 1 \(term: gradient\)"):
            train(model, 2, callbacks=[watcher])
        assert equal(weights(model), watcher.epoch_weights[1])

    def test_too_large_a_learning_rate_is_caught(self, screen):
        model = make_model(screen)
        with pytest.raises(FloatingPointError, match="Lower the learning rate"):
            train(model, 30, plan_kwargs={"lr": 1e20})
        assert all(torch.isfinite(value).all() for value in weights(model).values())
