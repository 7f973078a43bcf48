from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse

from scgraphvci._constants import KEYS
from scgraphvci.data._edge_posterior import edge_posterior
from scgraphvci.data._refine_statistics import RIDGE, refine_statistics
from scgraphvci.module._refine import RefineModule

N, CELLS = 12, 300
PRIOR = np.array([[0, 0, 1, 2, 1, 2, 0], [5, 6, 6, 7, 2, 8, 1]])
STRATA = np.array([[0, 0], [0, 1], [1, 0]])


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    stratum = rng.integers(3, size=CELLS)
    expression = rng.normal(size=(CELLS, N)) + rng.normal(size=(3, N))[stratum] + rng.normal(size=(CELLS, 1))
    expression[:, 6] -= 0.8 * expression[:, 1]
    return expression.astype(np.float32), stratum


def statistics(module: RefineModule, matrix, stratum: np.ndarray, cells: np.ndarray | None = None):
    return refine_statistics(
        matrix,
        stratum=stratum,
        cells=np.arange(CELLS) if cells is None else cells,
        n_strata=3,
        sources=module.candidates.sources.numpy(),
        regulators=module.regulators.numpy(),
        n_features=module.features.shape[1],
        evidence=module.log_odds is not None,
    )


def make(**kwargs) -> RefineModule:
    torch.manual_seed(0)
    options = {
        "sources": np.arange(N),
        "strata": STRATA,
        "n_levels": [2, 2],
        "features": 3,
        "evidence": False,
        **kwargs,
    }
    return RefineModule(N, PRIOR, **options)


def ready(**kwargs) -> tuple[RefineModule, dict[str, torch.Tensor]]:
    module = make(**kwargs)
    expression, stratum = data()
    module.initialise(statistics(module, expression, stratum))
    batch = {KEYS.OUTCOME: torch.as_tensor(expression[:20]), KEYS.STRATUM: torch.as_tensor(stratum[:20, None]).float()}
    return module, batch


def residuals(expression: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    z = expression.astype(np.float64)
    for s in range(3):
        z[stratum == s] -= z[stratum == s].mean(axis=0)
    return z / z.std(axis=0)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_statistics_equal_naive(form) -> None:
    expression, stratum = data()
    module = make()
    found = statistics(module, form(expression), stratum)
    z = residuals(expression, stratum)
    for s in range(3):
        np.testing.assert_allclose(found.mean[s], expression[stratum == s].mean(axis=0), atol=1e-5)
    covariance = np.zeros((N, N))
    for target in range(N):
        for source in range(N):
            # Message of a regulator: its residual from ridge regression on all others but the target.
            message = z[:, source].copy()
            if source in (0, 1, 2):
                others = [r for r in (0, 1, 2) if r not in (source, target)]
                gram = z[:, others].T @ z[:, others] / CELLS + RIDGE * np.eye(len(others))
                message -= z[:, others] @ np.linalg.solve(gram, z[:, others].T @ z[:, source] / CELLS)
            if target != source:
                covariance[target, source] = message @ z[:, target] / CELLS
                correlation = covariance[target, source] / message.std()
                # Messages to other regulators keep the unit of those to all genes.
                if not (source in (0, 1, 2) and target in (0, 1, 2)):
                    covariance[target, source] = correlation
    off = ~np.eye(N, dtype=bool)
    among = np.zeros((N, N), dtype=bool)
    among[:3, :3] = True
    np.testing.assert_allclose(found.covariance[off & ~among], covariance[off & ~among], atol=1e-5)
    np.testing.assert_array_equal(np.sign(found.covariance[off]), np.sign(covariance[off]))
    assert found.covariance[6, 1] < -0.3
    np.testing.assert_allclose(found.features.std(axis=0), 1, atol=1e-5)


def test_statistics_of_a_stratum_without_cells() -> None:
    expression, stratum = data()
    cells = np.flatnonzero(stratum != 2)
    found = statistics(make(), expression, stratum, cells)
    np.testing.assert_allclose(found.mean[2], expression[cells].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("null_slot", [True, False])
def test_one_layer_equals_dense(signed: bool, adjust: bool, null_slot: bool) -> None:
    module, batch = ready(signed=signed, adjust_regulators=adjust, null_slot=null_slot)
    module.logit[module.candidates.absent(torch.arange(module.candidates.n_absent))] += 3 * torch.rand(N * N - N - 7)
    edges = module.candidates.sample(0.9, 0.3, torch.Generator().manual_seed(0))
    inference, generative, output = module(batch, generative_kwargs={"edges": edges})

    z = inference["residual"].double().numpy().T
    logit = np.full((N, N), -np.inf)
    logit[edges.target, edges.source] = module.logit[edges.position]
    exponential = np.exp(logit)
    total = exponential.sum(axis=1, keepdims=True) + (1.0 if null_slot else 0.0)
    weight = np.divide(exponential, total, out=np.zeros_like(exponential), where=total > 0)
    sign = module.sign.numpy().reshape(N, N) if signed else np.ones((N, N))
    precision = module.precision.double().numpy()
    regulators = [0, 1, 2] if adjust else []
    expression = np.zeros((len(z), N))
    for i in range(N):
        for j in range(N):
            message = z[:, j]
            if j in regulators:
                theta = precision
                if i in regulators and i != j:  # the precision of all regulators but i
                    theta = precision - np.outer(precision[:, i], precision[i]) / precision[i, i]
                message = z[:, regulators] @ theta[j] / float(module.own_scale[j])
            expression[:, i] += weight[i, j] * sign[i, j] * message
    row = (lambda m: F.normalize(m, dim=-1)) if null_slot else (lambda m: m)
    context = (row(module.context_weight) / math.sqrt(7)).detach().numpy()
    state = expression[..., None] * row(module.expression_weight).detach().numpy()[0]
    state = state + ((weight @ module.features.numpy()) @ context[:3])[None]
    covariates = inference["covariates"].numpy() @ context[3:]
    state = state + weight.sum(axis=1)[None, :, None] * covariates[:, None, :]
    state = np.where(state > 0, state, np.expm1(state))
    prediction = state @ row(module.readout).detach().numpy()[0] * (module.target_gain.numpy() if null_slot else 1.0)
    np.testing.assert_allclose(generative["prediction"].detach().numpy().T, prediction, atol=1e-5)
    np.testing.assert_allclose(output.loss.item(), ((prediction - z) ** 2).mean(), rtol=1e-5)


@pytest.mark.parametrize("null_slot", [True, False])
def test_several_layers_equal_dense(null_slot: bool) -> None:
    module, batch = ready(n_layers=3, null_slot=null_slot, signed=False, adjust_regulators=False, hide_self=False)
    with torch.no_grad():
        for matrix in module.hidden_weights:
            matrix += 0.3 * torch.randn_like(matrix)
    edges = module.candidates.sample(0.9, 0.3, torch.Generator().manual_seed(0))
    inference, generative, _ = module(batch, generative_kwargs={"edges": edges})
    logit = torch.full((N, N), -torch.inf)
    logit[edges.target, edges.source] = module.logit[edges.position]
    share = torch.softmax(F.pad(logit, (1, 0)) if null_slot else logit, dim=1)
    share = share[:, 1:] if null_slot else share.nan_to_num()
    row = (lambda m: F.normalize(m, dim=-1)) if null_slot else (lambda m: m)
    z, covariates = inference["residual"], inference["covariates"]
    cells = len(covariates)
    inputs = [z[:, :, None], module.features[:, None].expand(-1, cells, -1), covariates.expand(N, -1, -1)]
    weights = torch.cat([row(module.expression_weight), row(module.context_weight) / math.sqrt(7)])
    state = torch.cat(inputs, dim=2)
    for matrix in (weights, *(row(m) for m in module.hidden_weights)):
        state = F.elu(torch.einsum("ij,jcf,fh->ich", share, state, matrix))
    prediction = (state @ row(module.readout)[0]) * (module.target_gain[:, None] if null_slot else 1.0)
    torch.testing.assert_close(generative["prediction"], prediction, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("options", "more"), [({}, set()), ({"evidence": True}, {"log_odds"}),
                                               ({"n_layers": 2}, {"hidden_weights.0"})])  # fmt: skip
def test_names_of_weights(options: dict, more: set) -> None:
    """Names are a file format: a change here breaks saved refiners."""
    names = {"logit", "sign", "edge_penalty", "absent_penalty", "target_gain", "stratum_mean", "scale", "features"}
    names |= {"precision", "own_scale", "expression_weight", "context_weight", "readout", "gene_bias"}
    assert set(make(**options).state_dict()) == names | more


@pytest.mark.parametrize("adjust", [True, False])
def test_hidden_self_does_not_reach_its_own_prediction(adjust: bool) -> None:
    module, batch = ready(adjust_regulators=adjust, edge_penalty=0.0)
    module.logit[module.candidates.absent(torch.arange(module.candidates.n_absent))] = 1.0
    residual = module.inference(batch[KEYS.OUTCOME], batch[KEYS.STRATUM])["residual"].requires_grad_()
    covariates = module.covariates[batch[KEYS.STRATUM].long().flatten()]
    for gene in range(N):
        prediction = module.generative(residual, covariates)["prediction"][gene].sum()
        (gradient,) = torch.autograd.grad(prediction, residual)
        assert gradient[gene].abs().max() < 1e-6
        assert gradient.abs().max() > 1e-4


def test_several_layers_hide_expression_at_random() -> None:
    module, batch = ready(n_layers=3)
    generator = torch.Generator().manual_seed(0)
    inference, generative, output = module(batch, generative_kwargs={"generator": generator})
    scored = generative["scored"]
    assert 0.1 < scored.float().mean() < 0.3
    squared = (generative["prediction"] - inference["residual"]) ** 2 * scored
    error = squared.sum(dim=0) / scored.sum(dim=0).clamp(min=1)  # a cell without hidden genes counts 0
    torch.testing.assert_close(output.loss, error.mean())


def test_direction_of_edges() -> None:
    torch.manual_seed(0)
    module = RefineModule(2, np.array([[0], [1]]), np.array([0]), features=0)
    residual, covariates = torch.randn(2, 5), torch.zeros(5, 0)
    base = module.generative(residual, covariates)["prediction"]
    changed = torch.stack([residual[0] + 1, residual[1]])
    source_moved = module.generative(changed, covariates)["prediction"]
    assert torch.all(source_moved[1] != base[1]) and torch.all(source_moved[0] == base[0])
    changed = torch.stack([residual[0], residual[1] + 1])
    torch.testing.assert_close(module.generative(changed, covariates)["prediction"], base)


def test_scale_of_later_weights_is_fixed() -> None:
    module, batch = ready()
    before = module(batch)[1]["prediction"]
    with torch.no_grad():
        for weight in (module.expression_weight, module.context_weight, module.readout):
            weight *= 7.0
    torch.testing.assert_close(module(batch)[1]["prediction"], before)


def test_logit_steps_are_those_of_the_objective() -> None:
    """Averaged over masks, a step is gradient descent on the loss plus penalty, for rare edges as for frequent ones."""
    module, _ = ready(edge_penalty=0.3, absent_penalty=0.2)
    start = module.logit.clone()
    generator = torch.Generator().manual_seed(0)
    gradient = torch.linspace(-0.01, 0.01, module.candidates.size)
    draws, moved = 3000, torch.zeros_like(start)
    module.p_keep, module.p_add = 0.9, 0.2
    for _ in range(draws):
        edges = module.sample_edges(generator)
        module.step_logits(edges, gradient[edges.position], lr=0.1)
        moved += start - module.logit
        module.logit.copy_(start)
    confidence = torch.sigmoid(start)
    penalty = torch.full_like(start, 0.2)
    penalty[module.candidates.prior] = 0.3
    expected = 0.1 * (N * gradient + penalty * confidence * (1 - confidence))
    expected[module.candidates.excluded] = 0
    torch.testing.assert_close(moved / draws, expected, atol=2e-3, rtol=0.1)
    assert torch.isclose(module.penalty(), (penalty * torch.sigmoid(start)).sum() / N, rtol=1e-3)


@pytest.mark.parametrize("pairs", [None, np.array([[0, 2, 4, 5], [9, 9, 10, 11]])])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_logits_start_at_the_log_odds(pairs, n_layers: int) -> None:
    module, _ = ready(evidence=True, pairs=pairs, n_layers=n_layers)
    expression, stratum = data()
    evidence = statistics(module, expression, stratum).evidence
    target, source = (genes.numpy() for genes in module.candidates.genes(torch.arange(module.candidates.size)))
    found = evidence[target, np.searchsorted(module.candidates.sources, source)]
    off = target != source
    in_prior = np.isin(target * N + source, PRIOR[1] * N + PRIOR[0])
    assert in_prior.sum() == PRIOR.shape[1]
    posterior = edge_posterior(found[in_prior], found[off & ~in_prior])  # self-loops teach nothing
    expected = np.clip(posterior.slope * found + np.where(in_prior, posterior.within, posterior.outside), -12, 12)
    np.testing.assert_allclose(module.log_odds[off], expected[off], atol=1e-4)
    torch.testing.assert_close(module.logit, module.log_odds)
    if n_layers == 1:
        assert torch.all(module.logit[torch.as_tensor(~off)] == -12)


def test_pull_is_that_of_the_dense_cost_under_gradient_descent() -> None:
    module, _ = ready(evidence=True, evidence_weight=0.05)
    module.logit += torch.randn(module.candidates.size, generator=torch.Generator().manual_seed(1))
    module.p_keep, module.p_add = 0.7, 0.2
    dense, lr, generator = module.logit.double(), 2.0, torch.Generator().manual_seed(0)
    in_prior = torch.zeros(module.candidates.size, dtype=torch.bool)
    in_prior[module.candidates.prior] = True
    rate = torch.where(in_prior, 0.7, 0.2).double()
    for _ in range(50):
        edges = module.sample_edges(generator)
        module.pull_logits(edges.position, lr)
        np.testing.assert_allclose(module.logit[edges.position], dense[edges.position], atol=1e-4)
        gradient = 0.002 * torch.sin(module.logit[edges.position])
        module.step_logits(edges, gradient, lr)
        loss = torch.zeros_like(dense)
        loss[edges.position] = N * gradient.double() / rate[edges.position]
        dense = dense - lr * (loss + 0.05 * (dense - module.log_odds.double()))
    assert (module.logit - dense).abs().max() > 1e-3  # some were not touched of late
    module.settle_logits(lr)
    np.testing.assert_allclose(module.logit, dense, atol=1e-4)
    cost = 0.05 / 2 * ((dense - module.log_odds) ** 2).sum() / N
    torch.testing.assert_close(module.penalty().double(), cost, rtol=1e-3, atol=1e-8)


def test_log_odds_need_evidence() -> None:
    module = make(evidence=True)
    expression, stratum = data()
    without = dataclasses.replace(statistics(module, expression, stratum), evidence=None)
    with pytest.raises(ValueError, match="Log odds need evidence"):
        module.initialise(without)


def test_gains_and_penalties_follow_what_chance_gives() -> None:
    module, _ = ready()
    expression, stratum = data()
    covariance = np.abs(statistics(module, expression, stratum).covariance)
    floor = np.full((N, N), math.sqrt(2 * math.log(module.candidates.n_absent) / CELLS))
    floor[PRIOR[1], PRIOR[0]] = math.sqrt(2 / CELLS)
    np.fill_diagonal(floor, np.inf)
    gain = np.clip(np.where(covariance > floor, covariance, 0).sum(axis=1), 0.2, 1.0)
    assert gain.max() == 1 and gain.min() < 1
    np.testing.assert_allclose(module.target_gain, gain, rtol=1e-4)
    np.testing.assert_allclose(module.edge_penalty, 2 * gain * math.sqrt(2 / CELLS), rtol=1e-4)
    np.testing.assert_allclose(module.absent_penalty, 2 * gain * floor[0, 11], rtol=1e-4)

    module, _ = ready(edge_penalty=0.02, absent_penalty=0.01)
    assert torch.all(module.edge_penalty == 0.02) and torch.all(module.absent_penalty == 0.01)


def test_active_edges() -> None:
    module, _ = ready()
    position = module.candidates.absent(torch.tensor([4]))
    module.logit[position] = 0.0
    assert set(module.active_edges().position.tolist()) == {*module.candidates.prior.tolist(), int(position)}


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"n_layers": 0}, "n_layers=0"),
        ({"p_add": 0.0}, "p_add=0.0"),
        ({"p_keep": 1.5}, "p_keep=1.5"),
        ({"edge_penalty": -1.0}, "edge_penalty=-1.0"),
        ({"evidence_weight": -1.0}, "evidence_weight=-1.0"),
        ({"gain": 0.0}, "gain=0.0"),
    ],
)
def test_bad_options(option: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(**option)
