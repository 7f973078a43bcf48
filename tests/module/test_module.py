from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scgraphvci._constants import KEYS
from scgraphvci.data import StratumMoments
from scgraphvci.data._mean_model import fit_mean_model
from scgraphvci.module import Discriminator, GraphVCIModule, _objective

N_CELLS, N_GENES, N_LATENT, N_HIDDEN = 9, 7, 3, 6
DESIGN = np.array([[0.0, 0], [1, 0], [0, 1], [0.5, 1]], np.float32)
STRATA = np.array([[0, 0], [1, 0], [1, 1]])
EDGES = np.array([[0, 0, 3, 4, 5], [1, 2, 1, 5, 6]])
WEIGHTS = np.array([1.0, -2.0, 0.5, 1.0, 3.0], np.float32)
FEATURES = np.random.default_rng(5).normal(size=(N_GENES, 2)).astype(np.float32)
GRAPH = {"edge_index": EDGES, "edge_weight": WEIGHTS, "gene_features": FEATURES}

CONFIGURATIONS = {
    "normal, attention, kernel": {**GRAPH, "decoder": "attention", "n_samples": 2},
    "normal, dot, gaussian, published network": {
        **GRAPH, "decoder": "dot", "distribution_loss": "gaussian", "dispersion": "gene-cell", "baseline": False,
        "graph_pooling": "sum",
    },
    "normal, no graph, fixed bandwidth": {
        "kernel_bandwidth": 0.5, "residual_input": False, "n_continuous": 1, "distribution_target": "cell",
    },
    "nb, dot, kernel": {**GRAPH, "likelihood": "nb", "n_continuous": 2},
    "nb, attention, gaussian": {
        **GRAPH, "likelihood": "nb", "decoder": "attention", "distribution_loss": "gaussian", "n_samples": 3,
        "dispersion": "gene-cell", "distribution_target": "cell",
    },
    "zinb, no graph": {"likelihood": "zinb", "baseline": False},
    "zinb, dot": {**GRAPH, "likelihood": "zinb"},
    "normal, no graph, no gain": {"response_gain": False},
}  # fmt: skip


def build(**options):
    """A module in float64 with weights, statistics, baseline and dispersions drawn at random."""
    torch.manual_seed(0)
    module = GraphVCIModule(
        N_GENES, DESIGN, STRATA, [2, 2], n_latent=N_LATENT, n_hidden=N_HIDDEN, n_treatment_embedding=4,
        n_covariate_embedding=2, n_graph_hidden=5, individual_weight=0.7, covariate_weight=1.3, divergence_weight=2.1,
        **options,
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if module.baseline is not None:
            module.baseline.deviation = module.baseline.shift.new_zeros(2, *module.baseline.shift.shape)
            module.baseline.deviation_covariate.fill_(1)
            for name, buffer in module.baseline.named_buffers():
                if buffer.is_floating_point() and name != "dose_response":
                    buffer.copy_(0.5 * torch.randn_like(buffer))
        module.library_size.fill_(12.0)
        module.input_mean.uniform_(0.2, 1.0)
        module.within_scale.uniform_(0.5, 2.0)
    return module


def draw_tensors(module, *, size_factor=False, seed=0):
    """A minibatch as the training plan hands it over."""
    rng = np.random.default_rng(seed)
    counts = module.likelihood != "normal"
    code, other = rng.integers(4, size=(2, N_CELLS))
    stratum = rng.integers(3, size=N_CELLS)
    pairs, member = np.unique(4 * stratum + other, return_inverse=True)
    tensors = {
        KEYS.OUTCOME: rng.poisson(2.0, (N_CELLS, N_GENES)) if counts else rng.normal(1, 1, (N_CELLS, N_GENES)),
        KEYS.TREATMENT: code[:, None],
        KEYS.STRATUM: stratum[:, None],
        "counterfactual_treatment": DESIGN[other],
        "target_mean": rng.gamma(2, 1, (len(pairs), N_GENES)),
        "target_variance": rng.gamma(2, 0.5, (len(pairs), N_GENES)),
        "target_set": member,
        "target_known": member % 3 > 0,
    }
    n_continuous = module.covariates.n_out - 4
    if n_continuous:
        tensors[KEYS.CONTINUOUS] = rng.normal(size=(N_CELLS, n_continuous))
    if size_factor:
        tensors[KEYS.SIZE_FACTOR] = rng.uniform(5, 30, (N_CELLS, 1))
    codes = (KEYS.TREATMENT, KEYS.STRATUM, "target_set", "target_known")
    tensors = {key: torch.from_numpy(value) for key, value in tensors.items()}
    return {key: value if key in codes else value.double() for key, value in tensors.items()}


class NaiveLoss:
    """The objective written a second time: numpy, one cell and one gene at a time, dense graph, naive softmax."""

    def __init__(self, module, options):
        self.weights = {key: value.detach().numpy() for key, value in module.state_dict().items()}
        self.likelihood = options.get("likelihood", "normal")
        self.options = options
        self.has_baseline = options.get("baseline", True)
        self.has_gain = options.get("response_gain", True) and self.has_baseline
        self.residual = options.get("residual_input", True) and self.has_baseline
        self.genes = self.embed_genes() if "edge_index" in options else None

    def linear(self, name, value):
        return self.weights[f"{name}.weight"] @ value + self.weights.get(f"{name}.bias", 0.0)

    def mlp(self, name, value):
        for layer in range(2):
            value = self.linear(f"{name}.fc_layers.Layer {layer}.0", value)
            value = np.maximum((value - value.mean()) / np.sqrt(value.var() + 1e-5), 0)
        return value

    def embed_genes(self):
        adjacency = np.zeros((N_GENES, N_GENES))
        for source, target, weight in zip(*EDGES, WEIGHTS, strict=True):
            adjacency[source, target] = weight / np.abs(WEIGHTS).mean()
        adjacency += np.eye(N_GENES)
        out_degree, in_degree = np.abs(adjacency).sum(1), np.abs(adjacency).sum(0)
        state = self.weights["graph.embedding"] + FEATURES @ self.weights["graph.project.weight"].T
        message = np.zeros_like(state)
        for source in range(N_GENES):
            for target in range(N_GENES):
                share = np.float32(adjacency[source, target] / np.sqrt(out_degree[source] * in_degree[target]))
                message[target] += share * (self.weights["graph.convolutions.0.lin.weight"] @ state[source])
        return state + self.weights["graph.gates"][0] * np.maximum(
            message + self.weights["graph.convolutions.0.bias"], 0
        )

    def response(self, treatment, levels):
        """A perturbation's shift is the pooled one, a level's deviation and what each feature of the stratum adds."""
        features = sum(self.weights[f"baseline.features_{j}"][level] for j, level in enumerate(levels))
        deviation = self.weights["baseline.deviation"][levels[self.weights["baseline.deviation_covariate"]]]
        total = np.zeros(N_GENES)
        for p, dose in enumerate(treatment):
            total += dose * (self.weights["baseline.shift"][p] + deviation[p])
            for k, feature in enumerate(features):
                total += dose * feature * self.weights["baseline.interaction"][p, k]
        return total

    def level(self, levels):
        offsets = [self.weights[f"baseline.offset_{j}"][level] for j, level in enumerate(levels)]
        return self.weights["baseline.intercept"] + sum(offsets)

    def rate(self, log_rate):
        return np.exp(np.clip(log_rate, -15, 15))

    def encode(self, outcome, treatment, levels, continuous):
        value = outcome if self.likelihood == "normal" else np.log1p(outcome)
        if not self.residual:
            value = value - self.weights["input_mean"]
        elif self.likelihood == "normal":
            value = value - (self.weights["baseline.intercept"] + self.response(treatment, levels))
        else:
            log_rate = self.weights["baseline.intercept"] + self.response(treatment, levels)
            value = value - np.log1p(self.rate(log_rate))
        covariates = [self.weights[f"covariates.embeddings.{j}.weight"][level] for j, level in enumerate(levels)]
        embedded = self.linear("treatment_embedding", treatment)
        hidden = self.mlp(
            "encoder.mlp", np.concatenate([self.linear("encoder.outcome", value), embedded, *covariates, continuous])
        )
        if self.genes is not None:
            pooled = self.genes.sum(0) if self.options.get("graph_pooling") == "sum" else self.genes.mean(0)
            hidden = np.concatenate([hidden, pooled])
        return self.linear("encoder.mean", hidden), np.logaddexp(self.linear("encoder.scale", hidden), 0) + 1e-3

    def decode(self, latent, treatment, levels):
        u = self.mlp("decoder.mlp", np.concatenate([latent, self.linear("treatment_embedding", treatment)]))
        n_heads = len({key.split(".")[2] for key in self.weights if key.startswith("decoder.heads.")})
        outputs = []
        for h in range(n_heads):
            name = f"decoder.heads.{h}"
            if self.genes is None:
                outputs.append(self.linear(f"{name}.map", u))
            elif self.options.get("decoder", "dot") == "dot":
                outputs.append(np.array([u @ self.linear(f"{name}.gene_score", gene) for gene in self.genes]))
            else:
                score = 20 * np.tanh(self.linear(f"{name}.cell_score", u) / 20)
                scores = [score + 20 * np.tanh(self.linear(f"{name}.gene_score", gene) / 20) for gene in self.genes]
                outputs.append(np.array([u @ special.softmax(s) for s in scores]))
        if self.has_baseline:
            gain = self.linear("gain", latent) if self.has_gain else 0.0
            outputs[0] = outputs[0] + self.level(levels) + (1 + gain) * self.response(treatment, levels)
        if self.likelihood == "zinb":
            outputs[1] = outputs[1] - 3
        return outputs

    def log_prob(self, outcome, parameters, library):
        log_dispersion = parameters[-1] if "gene_dispersion" not in self.weights else self.weights["gene_dispersion"]
        if self.likelihood == "normal":
            return stats.norm.logpdf(outcome, parameters[0], np.exp(log_dispersion) + 1e-2)
        theta, mean = np.exp(log_dispersion), self.rate(parameters[0]) * library
        log_pmf = stats.nbinom.logpmf(outcome, theta, theta / (theta + mean))
        if self.likelihood == "nb":
            return log_pmf
        dropout = special.expit(parameters[1])
        return np.log(dropout * (outcome == 0) + (1 - dropout) * np.exp(log_pmf))

    def mean(self, parameters):
        if self.likelihood == "normal":
            return parameters[0]
        return self.rate(parameters[0]) * (special.expit(-parameters[1]) if self.likelihood == "zinb" else 1.0)

    def distance(self, predicted, mean, variance):
        if self.options.get("distribution_loss") == "gaussian":
            return -stats.norm.logpdf(predicted, mean, np.sqrt(variance)).mean()
        bandwidth = self.options.get("kernel_bandwidth", self.weights["within_scale"])
        return (((predicted - mean) ** 2 + variance) / (2 * bandwidth**2)).mean()

    def __call__(self, tensors, noise):
        tensors = {key: value.numpy() for key, value in tensors.items()}
        reconstruction, divergence = np.zeros((2, N_CELLS))
        predictions = np.zeros((N_CELLS, N_GENES))
        for i in range(N_CELLS):
            outcome, library = tensors[KEYS.OUTCOME][i], 1.0
            if self.likelihood != "normal":
                size = tensors[KEYS.SIZE_FACTOR][i, 0] if KEYS.SIZE_FACTOR in tensors else max(outcome.sum(), 1)
                library = size / self.weights["library_size"]
            treatment = DESIGN[tensors[KEYS.TREATMENT][i, 0]].astype(np.float64)
            levels = STRATA[tensors[KEYS.STRATUM][i, 0]]
            continuous = tensors[KEYS.CONTINUOUS][i] if KEYS.CONTINUOUS in tensors else np.empty(0)
            mean, scale = self.encode(outcome / library, treatment, levels, continuous)
            latents = mean + scale * noise[:, i]
            for latent in latents:
                log_prob = self.log_prob(outcome, self.decode(latent, treatment, levels), library)
                reconstruction[i] -= log_prob.mean() / len(latents)
            other = tensors["counterfactual_treatment"][i]
            predictions[i] = self.mean(self.decode(latents[0], other, levels))
            m, s = self.encode(predictions[i], other, levels, continuous)
            divergence[i] = (np.log(s / scale) + (scale**2 + (mean - m) ** 2) / (2 * s**2) - 0.5).sum() / N_GENES
        distances = []
        for i, target in enumerate(tensors["target_set"]):
            by_cell = self.options.get("distribution_target") == "cell"
            judged = predictions[i] if by_cell else predictions[tensors["target_set"] == target].mean(axis=0)
            if tensors["target_known"][i]:
                distances.append(
                    self.distance(judged, tensors["target_mean"][target], tensors["target_variance"][target])
                )
        terms = reconstruction.mean(), np.mean(distances), divergence.mean()
        return np.dot([0.7, 1.3, 2.1], terms), reconstruction, terms[1], divergence


def loss_of(module, tensors, seed=0, **loss_kwargs):
    torch.manual_seed(seed)
    return module(dict(tensors), loss_kwargs=loss_kwargs)[2]


@pytest.mark.parametrize("size_factor", [False, True])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_loss_equals_the_naive_one(name, size_factor):
    options = CONFIGURATIONS[name]
    module = build(**options)
    tensors = draw_tensors(module, size_factor=size_factor)
    output = loss_of(module, tensors)
    torch.manual_seed(0)
    noise = torch.empty(module.n_samples, N_CELLS, N_LATENT, dtype=torch.float64).normal_().numpy()
    total, reconstruction, distance, divergence = NaiveLoss(module, options)(tensors, noise)
    tolerance = {"rtol": 1e-6 if module.likelihood == "normal" else 1e-5}
    np.testing.assert_allclose(output.reconstruction_loss["reconstruction_loss"].detach(), reconstruction, **tolerance)
    np.testing.assert_allclose(output.extra_metrics["distribution_loss"], distance, **tolerance)
    np.testing.assert_allclose(output.kl_local["kl_local"].detach(), divergence, **tolerance)
    assert output.loss.item() == pytest.approx(total, rel=tolerance["rtol"])


@pytest.mark.parametrize("name", ["normal, attention, kernel", "nb, attention, gaussian", "zinb, no graph"])
def test_gradient_of_the_loss_equals_finite_differences(name):
    module = build(**CONFIGURATIONS[name])
    tensors = draw_tensors(module)
    loss_of(module, tensors).loss.backward()
    rng = np.random.default_rng(0)
    parameters = dict(module.named_parameters())
    for key, parameter in parameters.items():
        step = 1e-5
        direction = torch.from_numpy(rng.normal(size=tuple(parameter.shape)))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                values.append(loss_of(module, tensors).loss.item())
                parameter.sub_(sign * step * direction)
        slope = (values[0] - values[1]) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-7), key


class TestDistributionTerm:
    def test_strata_never_observed_are_masked(self):
        module = build(**GRAPH)
        tensors = draw_tensors(module)
        known = tensors["target_known"]
        assert known.any()
        assert not known.all()
        before = loss_of(module, tensors)
        for key in ("target_mean", "target_variance"):
            tensors[key][tensors["target_set"][~known]] = 1e6
        assert loss_of(module, tensors).loss.item() == before.loss.item()
        tensors["target_mean"][tensors["target_set"][known]] += 1
        assert loss_of(module, tensors).loss.item() != before.loss.item()

    @pytest.mark.parametrize("likelihood", ["normal", "nb"])
    def test_discrepancy_where_observed_and_distance_to_the_baseline_elsewhere(self, likelihood, monkeypatch):
        parts = {}
        for name in ("kernel_distance", "squared_discrepancy"):
            function = getattr(_objective, name)
            monkeypatch.setattr(
                _objective, name, lambda *args, n=name, f=function: parts.setdefault(n, (args, f(*args)))[1]
            )
        module = build(distribution_loss="mmd", likelihood=likelihood)
        tensors = draw_tensors(module)
        tensors["target_embedding"] = torch.randn(N_CELLS, module.fourier.phase.numel(), dtype=torch.float64) / 10
        tensors["target_observed"] = torch.arange(N_CELLS) % 2 == 0
        output = loss_of(module, tensors)
        (features, target_mean, target), discrepancy = parts["squared_discrepancy"]
        assert torch.equal(target_mean, tensors["target_embedding"])
        assert torch.equal(target, tensors["target_set"])
        np.testing.assert_allclose(features.square().sum(dim=1).detach(), 1, atol=0.3)  # a cell with itself
        expected = torch.where(tensors["target_observed"], discrepancy, parts["kernel_distance"][1][target])
        known = tensors["target_known"]
        np.testing.assert_allclose(
            output.extra_metrics["distribution_loss"], expected[known].mean().detach(), rtol=1e-6
        )

    @pytest.mark.parametrize("options", [{}, {"distribution_loss": "gaussian", "distribution_target": "cell"}])
    def test_nothing_observed_leaves_the_other_terms(self, options):
        module = build(**GRAPH, **options)
        tensors = draw_tensors(module)
        tensors["target_known"][:] = False
        output = loss_of(module, tensors)
        output.loss.backward()
        assert torch.isfinite(output.loss)
        assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())
        assert output.extra_metrics["distribution_loss"] == 0
        rest = 0.7 * output.reconstruction_loss["reconstruction_loss"].mean() + 2.1 * output.kl_local["kl_local"].mean()
        torch.testing.assert_close(output.loss, rest)

    def test_gradient_flows_through_the_counterfactual_to_decoder_and_encoder(self):
        module = build(**GRAPH)
        module.individual_weight = module.divergence_weight = 0.0
        loss_of(module, draw_tensors(module)).loss.backward()
        head = module.decoder.heads[0].gene_score
        for part in (module.encoder.mean, module.encoder.outcome, head, module.gain, module.graph):
            assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())
        assert not module.gene_dispersion.grad.any()  # the constructed outcome is a mean, not a draw

    def test_adversarial_needs_a_discriminator(self):
        module = build(**GRAPH, distribution_loss="adversarial")
        with pytest.raises(ValueError, match="needs a discriminator"):
            loss_of(module, draw_tensors(module))

    def test_adversarial_is_minus_log_d(self):
        module = build(**GRAPH, distribution_loss="adversarial")
        discriminator = Discriminator(N_GENES, 2, module.covariates.n_out, n_hidden=4).double()
        with torch.no_grad():
            discriminator.logit.weight.zero_()
            discriminator.logit.bias.fill_(0.4)
        output = loss_of(module, draw_tensors(module), discriminator=discriminator)
        assert output.extra_metrics["distribution_loss"].item() == pytest.approx(-np.log(special.expit(0.4)))


class TestResponseGain:
    LATENT = torch.from_numpy(np.random.default_rng(3).normal(size=(N_CELLS, N_LATENT)))

    def decode(self, module):
        rng = np.random.default_rng(4)
        treatment, levels = (torch.from_numpy(a[rng.integers(len(a), size=N_CELLS)]) for a in (DESIGN, STRATA))
        parameters = module.decode(self.LATENT, treatment.double(), levels, module.embed_genes())
        return parameters[0].detach(), module.baseline.response(treatment.double(), levels)

    def test_starts_at_zero(self):
        options = {"n_latent": N_LATENT, "n_hidden": N_HIDDEN}
        module = GraphVCIModule(N_GENES, DESIGN, STRATA, [2, 2], **options)
        assert module.gain.weight.shape == (N_GENES, N_LATENT)
        assert not module.gain.weight.any()

    @pytest.mark.parametrize("likelihood", ["normal", "nb", "zinb"])
    def test_adds_the_gain_times_the_response_to_the_mean(self, likelihood):
        module = build(**GRAPH, likelihood=likelihood)
        weight = module.gain.weight.detach().clone()
        with torch.no_grad():
            module.gain.weight.zero_()
        without, response = self.decode(module)
        with torch.no_grad():
            module.gain.weight.copy_(weight)
        found, _ = self.decode(module)
        expected = np.array(
            [[(weight[g] @ self.LATENT[i]) * response[i, g] for g in range(N_GENES)] for i in range(N_CELLS)]
        )
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found - without, expected, atol=1e-12)

    def test_leaves_control_cells_alone(self):
        module = build()
        control, levels = torch.zeros(3, 2, dtype=torch.float64), torch.from_numpy(STRATA)
        without_gain = build(response_gain=False)
        without_gain.load_state_dict(module.state_dict(), strict=False)
        for treatment, equal in ((control, True), (control + 1, False)):
            found = module.decode(self.LATENT[:3], treatment, levels, None)[0]
            expected = without_gain.decode(self.LATENT[:3], treatment, levels, None)[0]
            assert torch.equal(found, expected) == equal

    @pytest.mark.parametrize("options", [{"response_gain": False}, {"baseline": False}])
    def test_there_is_none_without_a_response_to_scale(self, options):
        module = build(**options)
        assert module.gain is None
        assert not any(name.startswith("gain") for name in module.state_dict())


def test_frozen_encoder_serves_the_second_pass_only():
    module, other = build(**GRAPH), build(**GRAPH)
    with torch.no_grad():
        other.encoder.mean.weight.add_(1.0)
    tensors = draw_tensors(module)
    live, frozen = loss_of(module, tensors), loss_of(module, tensors, frozen_encoder=other.encoder)
    assert (live.kl_local["kl_local"] != frozen.kl_local["kl_local"]).all()
    torch.testing.assert_close(live.reconstruction_loss, frozen.reconstruction_loss)
    same = loss_of(module, tensors, frozen_encoder=build(**GRAPH).encoder)
    torch.testing.assert_close(live.loss, same.loss)


def test_graph_is_encoded_once_per_step():
    module = build(**GRAPH, n_samples=3)
    calls = []
    module.graph.register_forward_hook(lambda *_: calls.append(1))
    loss_of(module, draw_tensors(module)).loss.backward()
    assert len(calls) == 1


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation returns; of sparse ones, the values they store."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        sizes = [leaf.numel() if leaf.layout == torch.strided else leaf._nnz() for leaf in tensors]
        self.size = max(self.size, *sizes, 0)
        return result


def test_no_tensor_of_cells_genes_and_features():
    n_genes, n_hidden, n_samples = 60, 16, 2
    edges = np.stack([np.arange(n_genes), np.roll(np.arange(n_genes), 1)])
    module = GraphVCIModule(
        n_genes, DESIGN, STRATA, [2, 2], edge_index=edges, edge_weight=np.ones(n_genes, np.float32), n_hidden=n_hidden,
        n_outcome_embedding=n_hidden,
        decoder="attention", n_latent=4, n_graph_hidden=8, n_samples=n_samples, n_covariate_embedding=2,
    )  # fmt: skip
    tensors = draw_tensors(module)
    for key in (KEYS.OUTCOME, "target_mean", "target_variance"):
        tensors[key] = torch.rand(len(tensors[key]), n_genes)
    tensors["counterfactual_treatment"] = tensors["counterfactual_treatment"].float()
    with LargestTensor() as largest:
        loss_of(module, tensors).loss.backward()
    assert largest.size <= (n_samples + 1) * N_CELLS * n_genes < N_CELLS * n_genes * n_hidden


class TestInitialise:
    MOMENTS = StratumMoments(
        row=np.array([[0, 1, -1, -1], [2, -1, -1, -1], [-1, -1, -1, -1]]),
        n_cells=np.array([4, 4, 8]),
        mean=np.random.default_rng(0).uniform(1, 3, (3, N_GENES)).astype(np.float32),
        variance=np.random.default_rng(1).uniform(4, 8, (3, N_GENES)).astype(np.float32),
        input_mean=np.linspace(0, 1, N_GENES, dtype=np.float32),
        library_size=30.0,
    )

    @pytest.mark.parametrize("likelihood", ["normal", "nb"])
    def test_statistics_of_training_cells(self, likelihood):
        module = build(likelihood=likelihood)
        gain = module.gain.weight.detach().clone()
        module.initialise(self.MOMENTS)
        weights = np.array([0.25, 0.25, 0.5])
        mean, variance = weights @ self.MOMENTS.mean, weights @ self.MOMENTS.variance
        assert module.library_size == 30
        np.testing.assert_allclose(module.input_mean, self.MOMENTS.input_mean, rtol=1e-5)
        np.testing.assert_allclose(module.within_scale, np.sqrt(variance), rtol=0.02)
        parameter = torch.from_numpy(mean if likelihood == "normal" else np.log(mean)).expand(1, -1)
        np.testing.assert_allclose(module.outcome_distribution([parameter]).variance[0].detach(), variance, rtol=0.02)
        assert torch.equal(module.gain.weight, gain)
        fit = fit_mean_model(self.MOMENTS, DESIGN, STRATA, [2, 2], log=likelihood == "nb")
        treatment, levels = DESIGN[[0, 1, 2]].astype(np.float64), STRATA
        found = module.baseline(torch.from_numpy(treatment), torch.from_numpy(levels))
        np.testing.assert_allclose(found, fit.level(levels) + fit.response(treatment, levels), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("propagation", "graph"),
        [("coexpression", GRAPH), ("coexpression", {}), ("graph", GRAPH), ("none", GRAPH), ("none", {})],
    )
    def test_deviations_by_level(self, propagation, graph, monkeypatch):
        """All genes and the registered network are what the mean model gets."""
        seen = {}

        def fit(*args, **kwargs):
            seen["routes"] = args[5]
            return fit_mean_model(*args, **kwargs)

        monkeypatch.setattr("scgraphvci.module._module.fit_mean_model", fit)
        module = build(**graph, propagation=propagation)
        module.initialise(self.MOMENTS)
        everywhere = [route for route in seen["routes"] if route is None]
        networks = [route for route in seen["routes"] if route is not None]
        assert len(everywhere) == (propagation == "coexpression")
        assert len(networks) == (bool(graph) and propagation != "none")
        for network in networks:
            np.testing.assert_array_equal(network.edge_index, EDGES)
            np.testing.assert_array_equal(network.edge_weight, WEIGHTS)

    @pytest.mark.parametrize(
        ("n_perturbations", "n_levels", "options", "needed"),
        [
            (3, [2], {}, True),
            (3, [2], {"propagation": "none"}, False),
            (3, [2], {"baseline": False}, False),
            (3, [], {}, False),
            (2, [2], {}, False),  # too few to tell whether deviations can be foretold
        ],
    )
    def test_residuals_are_asked_for_where_they_can_tell_something(self, n_perturbations, n_levels, options, needed):
        design = np.eye(n_perturbations + 1, dtype=np.float32)[:, 1:]
        strata = np.arange(2)[:, None][:, : len(n_levels)]
        assert GraphVCIModule(N_GENES, design, strata, n_levels, **options).needs_residuals == needed

    @pytest.mark.parametrize("edges", [None, np.empty((2, 0), int), np.array([[1], [1]])])
    def test_propagation_along_a_graph_needs_one(self, edges):
        weight = None if edges is None else np.ones(edges.shape[1], np.float32)
        with pytest.raises(ValueError, match="propagation='graph' needs a network: name one with `grn_key`"):
            build(edge_index=edges, edge_weight=weight, propagation="graph")

    def test_published_network_has_no_baseline(self):
        module = build(baseline=False, dispersion="gene-cell")
        module.initialise(self.MOMENTS)
        assert not module.needs_residuals
        assert module.baseline is module.gene_dispersion is None


class TestInput:
    def test_deviation_from_gene_mean_and_response(self):
        """Levels of strata stay in: a control cell whose stratum is high reads high."""
        module = build()
        treatment, levels = module.design[[0, 1, 3]], module.strata
        outcome = torch.rand(3, N_GENES, dtype=torch.float64)
        expected = module.baseline.intercept + module.baseline.response(treatment, levels)
        torch.testing.assert_close(module.to_input(outcome, treatment, levels), outcome - expected)
        offsets = module.baseline(treatment, levels) - expected
        assert offsets.abs().max() > 0.1
        torch.testing.assert_close(module.to_input(expected + offsets, treatment, levels), offsets)

    @pytest.mark.parametrize("options", [{"residual_input": False}, {"baseline": False}])
    def test_expression_itself_less_its_mean(self, options):
        module = build(**options)
        outcome = torch.rand(2, N_GENES, dtype=torch.float64)
        found = module.to_input(outcome, module.design[[1, 3]], module.strata[:2])
        torch.testing.assert_close(found, outcome - module.input_mean)

    def test_library_is_relative_to_the_standard_one(self):
        module = build(likelihood="nb")
        tensors = draw_tensors(module)
        batch = module.unpack(tensors)
        size = tensors[KEYS.OUTCOME].sum(1, keepdim=True)
        torch.testing.assert_close(batch["library"], size / 12)
        torch.testing.assert_close(batch["outcome"].sum(1), torch.full((N_CELLS,), 12.0, dtype=torch.float64))
        with_size = draw_tensors(module, size_factor=True)
        torch.testing.assert_close(module.unpack(with_size)["library"], with_size[KEYS.SIZE_FACTOR] / 12)

    def test_new_data_bring_their_own_tables(self):
        module = build()
        tensors = draw_tensors(module)
        design, strata = torch.rand(4, 2), torch.tensor([[1, 1], [0, 1], [0, 0]])
        batch = module.unpack(tensors, design, strata)
        assert torch.equal(batch["treatment"], design[tensors[KEYS.TREATMENT].flatten()])
        assert torch.equal(batch["levels"], strata[tensors[KEYS.STRATUM].flatten()])


def test_saved_state_holds_what_was_learned_and_no_tables():
    saved = set(build(**GRAPH).state_dict())
    assert {"library_size", "input_mean", "within_scale", "graph.embedding", "baseline.shift", "gain.weight"} <= saved
    assert not {"design", "strata", "graph.edge_index", "graph.edge_weight", "graph.features"} & saved


def test_samples_are_reconstructions_and_seeded():
    module = build(**GRAPH, likelihood="nb")
    tensors = draw_tensors(module)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(module.sample(tensors, n_samples=3))
    assert draws[0].shape == (3, N_CELLS, N_GENES)
    assert (draws[0] == draws[0].round()).all()
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
