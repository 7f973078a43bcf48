"""Foretold responses against refits that leave a treatment out, and against known truths."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from scgraphvci.data import Network, Residuals
from scgraphvci.data._treatment_kernel import TreatmentKernel, descriptor_relevance
from scgraphvci.data._unseen import Genes, Seen, UnseenModel, knockdown
from scgraphvci.data._unseen_fit import KERNEL_SHARE, PENALTY, _assess, _Process, _processes, _start, fit_unseen

N_GENES, N = 15, 14


def cells(n_genes, score=None):
    """Residuals of control cells along single genes."""
    score = np.random.default_rng(1).normal(size=(80, n_genes)) if score is None else score
    return Residuals(np.eye(n_genes), score, np.zeros(len(score), int), np.zeros(len(score), int))


@pytest.fixture
def problem():
    """Responses to treatments of the first genes, with descriptors."""
    rng = np.random.default_rng(0)
    seen = Seen(
        rng.normal(size=(N, N_GENES)), rng.uniform(0.05, 0.3, N), np.arange(N), np.zeros(N), rng.normal(size=(N, 3))
    )
    genes = Genes(rng.uniform(1, 2, N_GENES), rng.uniform(1, 2, N_GENES), cells(N_GENES), None)
    return seen, genes


def linear_screen(n_genes=40, n=25, seed=0):
    """Responses that travel along a network: r = d + r A, with a chain of regulators above all other genes."""
    rng = np.random.default_rng(seed)
    source, target = np.divmod(rng.choice(30 * 10, 120, replace=False), 10)
    edges = np.concatenate([np.stack([source, target + 30]), np.stack([np.arange(29), np.arange(1, 30)])], axis=1)
    weight = np.zeros((n_genes, n_genes))
    weight[tuple(edges)] = rng.normal(size=edges.shape[1]) * 0.7
    total = np.linalg.inv(np.eye(n_genes) - weight)
    level = rng.uniform(1, 3, n_genes)
    response = -(level - np.log1p(0.2 * np.expm1(level)))[:30, None] * total[:30]
    noise = 0.001
    observed = response + np.sqrt(noise) * rng.normal(size=response.shape)
    controls = cells(n_genes, rng.normal(size=(300, n_genes)) @ total)
    genes = Genes(level, np.ones(n_genes), controls, Network(edges, np.ones(edges.shape[1])))
    gene = np.arange(30)
    order = rng.permutation(30)
    seen = Seen(observed[order[:n]], np.full(n, noise), gene[order[:n]], np.zeros(n))
    return SimpleNamespace(seen=seen, genes=genes, new=order[n:], truth=response, scale=np.full(n_genes, 2.0))


def left_out_error(seen, pairs, covariance, ridge):
    """Squared error of refits without each treatment: generalised least squares with a mean for each gene."""
    errors = []
    for t in range(N):
        rest = np.delete(np.arange(N), t)
        inverse = np.linalg.inv(covariance[np.ix_(rest, rest)])
        one = np.ones(N - 1)
        project = inverse - np.outer(inverse @ one, one @ inverse) / (one @ inverse @ one)
        f, y = pairs[rest], seen.response[rest]
        gram = np.einsum("agk,ab,bgl->kl", f, project, f) + ridge
        beta = np.linalg.solve(gram, np.einsum("agk,ab,bg->k", f, project, y))
        left = y - f @ beta
        mean = one @ inverse @ left / (one @ inverse @ one)
        guess = mean + pairs[t] @ beta + covariance[t, rest] @ inverse @ (left - mean)
        errors.append((seen.response[t] - guess) ** 2)
    return np.stack(errors)


@pytest.mark.parametrize("kind", [None, "linear", "radial"])
@pytest.mark.parametrize("n_pairs", [0, 1, 2])
def test_left_out_errors_are_those_of_refits(problem, kind, n_pairs):
    seen, genes = problem
    excess = 0.7
    kernel = None if kind is None else TreatmentKernel.of(seen.features, kind, 1.3)
    start = _start(seen, genes, np.ones(N_GENES), edges=None, falls=True)
    start = UnseenModel(**{**start.__dict__, "beta": np.ones(n_pairs)})
    model = _assess(start, seen, kernel and _Process(kernel, []), excess)
    covariance = np.diag(seen.noise + excess) + (0 if kernel is None else kernel.matrix)
    pairs = np.stack([start.pairs(g, 0.0) for g in seen.gene]) if n_pairs else np.zeros((N, N_GENES, 0))
    inverse = np.linalg.inv(covariance)
    project = inverse - np.outer(inverse.sum(axis=0), inverse.sum(axis=0)) / inverse.sum()
    gram = np.einsum("agk,ab,bgl->kl", pairs, project, pairs)
    errors = left_out_error(seen, pairs, covariance, PENALTY * np.diag(gram.diagonal() + 1e-6))
    expected = np.average(errors.mean(axis=1) - seen.noise, weights=1 / (seen.noise + excess))
    assert model.error == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["linear", "radial"])
def test_relevance_of_descriptors_is_left_out_with_the_treatment(problem, kind):
    seen, genes = problem
    seen = seen._replace(response=seen.response + seen.features @ np.ones((3, N_GENES)))
    excess = max(0.02, ((seen.response - seen.response.mean(axis=0)) ** 2).mean() - seen.noise.mean())
    processes = [p for p in _processes(seen, excess) if p.without and p.kernel.kind == kind]
    start = _start(seen, genes, np.ones(N_GENES), edges=None, falls=True)
    for share, process in zip(KERNEL_SHARE, processes, strict=True):
        errors = np.zeros((N, N_GENES))
        for t in range(N):
            rest = np.delete(np.arange(N), t)
            relevance = descriptor_relevance(seen.features[rest], seen.response[rest])
            kernel = TreatmentKernel.of(seen.features, kind, share * excess, relevance).matrix
            covariance = kernel + np.diag(seen.noise + excess)
            inverse = np.linalg.inv(covariance[np.ix_(rest, rest)])
            y = seen.response[rest]
            mean = inverse.sum(axis=0) @ y / inverse.sum()
            errors[t] = seen.response[t] - mean - covariance[t, rest] @ inverse @ (y - mean)
        squares = (errors**2).mean(axis=1) - seen.noise
        expected = np.average(squares, weights=1 / (seen.noise + excess))
        assert _assess(start, seen, process, excess).error == pytest.approx(expected)


def test_many_idle_descriptors_do_no_harm():
    rng = np.random.default_rng(0)
    told = rng.normal(size=(60, 2))
    response = told @ rng.normal(size=(2, 30)) + 0.3 * rng.normal(size=(60, 30))
    genes = Genes(np.ones(30), np.ones(30), cells(30), None)
    errors = []
    for x in (told, np.concatenate([told, rng.normal(size=(60, 60))], axis=1)):
        seen = Seen(response[:40], np.full(40, 0.01), np.full(40, -1), np.zeros(40), x[:40])
        model = fit_unseen(seen, genes, np.ones(30), log=False)
        guess = np.stack([model.predict(features=one).shift for one in x[40:]])
        errors.append(((guess - response[40:]) ** 2).mean())
    assert errors[1] < 2.5 * errors[0] < response[40:].var() / 2


def test_pairs_are_target_and_coexpression(problem):
    seen, genes = problem
    model = _start(seen, genes, np.ones(N_GENES), edges=None, falls=True)
    model = UnseenModel(**{**model.__dict__, "beta": np.ones(2)})
    pairs = model.pairs(3, 0.0)
    coexpression = genes.controls.score.T @ genes.controls.score
    mean = genes.level[3] / genes.unit[3]
    fall = (mean - np.log(1 + 0.2 * (np.exp(mean) - 1))) * genes.unit[3]
    expected = -fall * coexpression[3] / coexpression[3, 3]
    np.testing.assert_allclose(np.delete(pairs[:, 1], 3), np.delete(expected, 3))
    assert pairs[3, 0] == pytest.approx(-fall)
    assert np.count_nonzero(pairs[:, 0]) == 1
    np.testing.assert_allclose(model.pairs(3, 1.0), -pairs)
    assert not model.pairs(-1, 0.0).any()


def test_a_response_that_travels_along_the_network_is_foretold():
    screen = linear_screen()
    model = fit_unseen(screen.seen, screen.genes, screen.scale, log=False)
    assert model.falls
    guess = np.stack([model.predict(t).shift for t in screen.new]) / screen.scale
    truth = screen.truth[screen.new]
    mean = screen.seen.response.mean(axis=0)
    assert ((guess - truth) ** 2).sum() < 0.15 * ((mean - truth) ** 2).sum()
    assert model.error < 0.2 * model.mean_error


def test_descriptors_that_tell_are_used():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3))
    response = features @ rng.normal(size=(3, 20)) + 0.1 * rng.normal(size=(40, 20))
    genes = Genes(np.ones(20), np.ones(20), cells(20), None)
    seen = Seen(response[:30], np.full(30, 0.01), np.full(30, -1), np.zeros(30), features[:30])
    model = fit_unseen(seen, genes, np.ones(20), log=False)
    assert model.kernel is not None
    guess = np.stack([model.predict(features=f).shift for f in features[30:]])
    assert ((guess - response[30:]) ** 2).mean() < 0.1 * response[30:].var()
    near, far = model.predict(features=features[0]), model.predict(features=20 * features[0])
    assert near.nearest == 0
    assert near.distance == pytest.approx(0, abs=1e-6)
    assert far.distance > 5
    assert (far.sd > near.sd).all()


def test_what_tells_nothing_leaves_the_mean_over_treatments():
    used = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        seen = Seen(
            1 + rng.normal(size=(20, 60)),
            np.full(20, 0.05),
            rng.permutation(20),
            np.zeros(20),
            rng.normal(size=(20, 4)),
        )
        genes = Genes(np.ones(60), np.ones(60), cells(60), Network(rng.integers(60, size=(2, 150)), np.ones(150)))
        model = fit_unseen(seen, genes, np.ones(60), log=False)
        if model.beta.size or model.kernel is not None:
            used += 1
            assert model.error < model.mean_error
            continue
        np.testing.assert_allclose(model.predict(50, 0.0, np.zeros(4)).shift, seen.response.mean(axis=0))
        assert model.error == model.mean_error
    assert used <= 1


def test_knockdown_is_bounded():
    mean = np.array([0.0, 0.1, 1.0, 5.0, 800.0])
    genes = Genes(3 * mean, np.full(5, 3.0), cells(5), None)
    left = np.log1p(0.2 * np.expm1(mean[:4]))
    np.testing.assert_allclose(knockdown(genes)[:4], 3 * (mean[:4] - left), atol=1e-12)
    assert knockdown(genes)[4] == pytest.approx(3 * np.log(5))


def test_counts_have_no_level_to_fall_to():
    screen = linear_screen()
    assert not fit_unseen(screen.seen, screen.genes, screen.scale, log=True).falls


def test_intervals_cover_held_out_responses():
    inside = []
    for seed in range(12):
        screen = linear_screen(n=24, seed=seed)
        model = fit_unseen(screen.seen, screen.genes, screen.scale, log=False)
        for t in screen.new:
            effect = model.predict(t)
            error = np.abs(effect.shift - screen.truth[t] * screen.scale)
            inside.append((error <= model.margin(0.2) * effect.sd).mean())
    assert 0.74 < np.mean(inside) < 0.88


def test_margin_is_the_rank_of_scores():
    model = fit_unseen(linear_screen(n=19).seen, linear_screen().genes, np.ones(40), log=False)
    np.testing.assert_allclose(model.margin(0.05), model.errors.scores[-1])  # 19 of 20
    np.testing.assert_allclose(model.margin(0.1), model.errors.scores[-2])
    np.testing.assert_allclose(model.margin(0.075), model.errors.scores[-2:].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.049, 0.0, -1.0, 1.0, 2.0, np.nan])
def test_levels_beyond_the_number_of_seen_treatments_are_refused(alpha):
    model = fit_unseen(linear_screen(n=19).seen, linear_screen().genes, np.ones(40), log=False)
    with pytest.raises(ValueError, match=r"1 / \(n \+ 1\) = 0.05.*19 seen treatments"):
        model.margin(alpha)


def test_state_gives_the_same_model():
    rng = np.random.default_rng(0)
    screen = linear_screen()
    model = fit_unseen(screen.seen._replace(features=rng.normal(size=(25, 2))), screen.genes, screen.scale, log=False)
    again = UnseenModel.from_state(model.to_state())
    for one, other in zip(model.predict(3, 0.0, np.ones(2)), again.predict(3, 0.0, np.ones(2)), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again.margin(0.2), model.margin(0.2))
