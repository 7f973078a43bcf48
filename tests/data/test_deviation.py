"""A linear structural model: effects travel along edges, half of which are off in each level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy import sparse

from scgraphvci.data import Network, cell_residuals, stratum_moments
from scgraphvci.data import _deviation as module
from scgraphvci.data._coexpression import Coexpression, Residuals
from scgraphvci.data._deviation import fit_deviation
from scgraphvci.data._gene_regression import RIDGE
from scgraphvci.data._kriging import Kriging, Pairs, Variances, split_blocks
from scgraphvci.data._mean_model import fit_mean_model

N_GENES, N_LEVELS, N_PERTURBATIONS, N_EACH = 30, 4, 8, 60
DESIGN = np.eye(N_PERTURBATIONS + 1)[:, 1:]
HELD_OUT = [(0, 1), (1, 2), (2, 3), (3, 4)]  # level and treatment vector
VARIANCES = Variances(0.0, 0.1)


class Screen(NamedTuple):
    """Cells of all levels and treatments but the held-out ones, and the true responses."""

    values: np.ndarray
    stratum: np.ndarray
    condition: np.ndarray
    response: np.ndarray  # (n_levels, n_conditions, n_genes)
    network: Network

    @property
    def strata(self):
        return np.arange(len(self.response))[:, None]

    def fit(self, *, deviations=True, routes=(None,), design=DESIGN, strata=None, n_levels=None):
        """The mean model."""
        strata = self.strata if strata is None else strata
        cells = np.arange(len(self.values))
        where = (self.values, self.stratum, self.condition)
        moments = stratum_moments(*where, len(strata), len(design), cells)
        residuals = cell_residuals(*where, moments, cells) if deviations else None
        n_levels = [len(strata)] if n_levels is None else n_levels
        return fit_mean_model(moments, design, strata, n_levels, residuals, routes, log=False)


def draw(seed=0, *, off=0.5, design=DESIGN, held_out=HELD_OUT, n_levels=N_LEVELS, alike=False, noise=0.0, spread=0.0):
    """A screen of direct effects d (knock-downs of single genes) on r = d (I - A_x)^-1.

    With `noise`, responses also differ between levels in ways that no coexpression foretells; with `spread`, cells
    respond more or less strongly, so that their own residuals tell of the response.
    """
    rng = np.random.default_rng(seed)
    edge = np.triu(rng.random((N_GENES, N_GENES)) < 0.25, 1)
    weight = edge * rng.choice([-0.6, 0.6], edge.shape)
    direct = np.zeros((design.shape[1], N_GENES))
    direct[np.arange(design.shape[1]), np.arange(design.shape[1])] = -3
    of_level = [weight * (rng.random(edge.shape) >= off) for _ in range(n_levels)]
    travel = np.stack([np.linalg.inv(np.eye(N_GENES) - a) for a in ([weight] * n_levels if alike else of_level)])
    response = design @ direct @ travel
    response[:, 1:] += noise * rng.normal(size=response[:, 1:].shape)
    values, stratum, condition = [], [], []
    for x in range(n_levels):
        for t in range(len(design)):
            if (x, t) not in held_out:
                strength = 1 + spread * rng.normal(size=(N_EACH, 1))
                values.append(strength * response[x, t] + rng.normal(size=(N_EACH, N_GENES)) @ travel[x])
                stratum += [x] * N_EACH
                condition += [t] * N_EACH
    network = Network(np.stack(np.nonzero(edge)), np.ones(edge.sum()))
    return Screen(np.concatenate(values), np.array(stratum), np.array(condition), response, network)


def error(model, screen, design=DESIGN, pairs=HELD_OUT):
    """Mean squared error of held-out responses."""
    x, t = np.array(pairs).T
    return np.mean((model.response(design[t], screen.strata[x]) - screen.response[x, t]) ** 2)


def ingredients(screen, strata=None, design=DESIGN):
    """Arguments of `fit_deviation`: a kriging without features, variances, strata, and residuals."""
    strata = screen.strata if strata is None else strata
    cells = np.arange(len(screen.values))
    where = (screen.values, screen.stratum, screen.condition)
    moments = stratum_moments(*where, len(strata), len(design), cells)
    stratum, condition = np.nonzero(moments.row[:, 1:] >= 0)
    condition = condition + 1
    row, control = moments.row[stratum, condition], moments.row[stratum, 0]
    shift = (moments.mean[row] - moments.mean[control]) / np.sqrt(moments.within_variance)
    noise = 1 / moments.n_cells[row] + 1 / moments.n_cells[control]
    pairs = Pairs(stratum, condition, shift.astype(np.float64), noise)
    kriging = Kriging(pairs, split_blocks(sparse.csr_array(design), condition), np.zeros((len(strata), 0)))
    return kriging, strata, cell_residuals(*where, moments, cells)


class TestStructuralModel:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    @pytest.mark.parametrize("along", ["coexpression", "graph"])
    def test_held_out_responses_are_predicted_better(self, seed, along):
        screen = draw(seed)
        routes = [screen.network if along == "graph" else None]
        without, model = screen.fit(deviations=False), screen.fit(routes=routes)
        assert model.deviation.shape == (N_LEVELS, N_PERTURBATIONS, N_GENES)
        assert without.deviation.shape == (0, N_PERTURBATIONS, N_GENES)
        assert error(model, screen) < 0.7 * error(without, screen)
        assert model.heterogeneity[1].mean() < 0.8 * without.heterogeneity[1].mean()

    def test_a_wrong_network_says_little(self):
        screen = draw(0)
        rng = np.random.default_rng(0)
        edges = screen.network.edge_index
        wrong = Network(np.stack([rng.permutation(edges[0]), edges[1]]), screen.network.edge_weight)
        errors = [error(screen.fit(routes=[network]), screen) for network in (screen.network, wrong)]
        assert errors[0] < 0.8 * errors[1]

    def test_seen_pairs_are_not_moved_away(self):
        """What deviations add where the pooled response was fitted is taken off it."""
        screen = draw(0)
        seen = [(x, t) for x in range(N_LEVELS) for t in range(1, 9) if (x, t) not in HELD_OUT]
        without, model = screen.fit(deviations=False), screen.fit()
        assert error(model, screen, pairs=seen) < error(without, screen, pairs=seen)

    def test_levels_alike_lose_nothing(self):
        """Where hardly any error is left, noise may pass for 2 % of it: what is then added must do no harm."""
        screens = [draw(seed, alike=True) for seed in range(6)]
        models = [screen.fit() for screen in screens]
        assert sum(model.deviation.shape[0] > 0 for model in models) <= 1
        for screen, model in zip(screens, models, strict=True):
            assert error(model, screen) < 1.02 * error(screen.fit(deviations=False), screen)

    def test_one_treatment_tells_nothing_of_others(self):
        design = DESIGN[:, :2][:3]
        assert draw(0, design=design, held_out=[(0, 1)]).fit(design=design).deviation.shape[0] == 0

    @pytest.mark.parametrize("spread", [0.0, 0.7])
    def test_nothing_is_chosen_where_coexpression_says_nothing(self, spread):
        """Responses differ between levels at random: leave-out must not be fooled by the cells of a pair itself."""
        for seed in range(4):
            screen = draw(seed, alike=True, noise=0.5, spread=spread)
            for routes in ([None], [screen.network], [None, screen.network]):
                assert screen.fit(routes=routes).deviation.shape[0] == 0, (seed, routes)

    def test_a_network_beside_coexpression_helps_if_it_is_true(self):
        totals = np.zeros(4)
        for seed in range(4):
            screen = draw(seed)
            edges = screen.network.edge_index
            shuffled = np.stack([np.random.default_rng(seed).permutation(edges[0]), edges[1]])
            wrong = Network(shuffled, screen.network.edge_weight)
            ways = ([None], [screen.network], [None, screen.network], [None, wrong])
            totals += [error(screen.fit(routes=routes), screen) for routes in ways]
        alone, true, beside_true, beside_wrong = totals
        assert beside_true < 0.9 * min(alone, true)
        assert beside_wrong < 1.02 * alone

    def test_the_covariate_whose_levels_differ_is_chosen(self):
        """Two donors in each of three cell types; only the second covariate has edges of its own."""
        screen = draw(1, n_levels=3, held_out=[])
        rng = np.random.default_rng(0)
        donor = rng.integers(2, size=len(screen.values))
        strata = np.array([[d, x] for x in range(3) for d in range(2)])
        both = screen._replace(stratum=2 * screen.stratum + donor)
        model = both.fit(strata=strata, n_levels=[2, 3])
        assert model.deviation_covariate == 1
        assert model.deviation.shape[0] == 3

    def test_combinations_and_doses(self):
        design = np.zeros((7, 4))
        design[[1, 2, 3], [0, 1, 2]] = 1
        design[4, [0, 1]] = 1
        design[5, [1, 2]] = [1, 0.5]
        held_out = [(0, 4), (1, 5), (2, 1)]
        screen = draw(0, design=design, held_out=held_out)
        without, model = (screen.fit(deviations=deviations, design=design) for deviations in (False, True))
        assert error(model, screen, design, held_out) < 0.8 * error(without, screen, design, held_out)
        assert not model.deviation[:, 3].any()  # never seen
        assert not model.response(np.eye(4)[[3]], screen.strata[:1]).any()


class TestFit:
    def test_equals_a_naive_computation(self):
        """beta times the regression of the level on the mean response of levels, and what that adds elsewhere."""
        screen = draw(2)
        kriging, strata, residuals = ingredients(screen)
        found = fit_deviation(kriging, VARIANCES, strata, [N_LEVELS], N_PERTURBATIONS, residuals)
        pairs, coexpression = kriging.pairs, Coexpression(residuals, np.arange(N_LEVELS))
        weight = 1 / (pairs.noise + VARIANCES.heterogeneity)

        def pooled(t, rows, values):
            rows = rows[pairs.condition[rows] == t]
            return np.average(values[rows], axis=0, weights=weight[rows])

        # Leave out each level in turn, for every penalty.
        products, squares, total = np.zeros(len(RIDGE)), np.zeros(len(RIDGE)), 0.0
        for x in range(N_LEVELS):
            rest = np.flatnonzero(pairs.stratum != x)
            for i in np.flatnonzero(pairs.stratum == x):
                t = pairs.condition[i]
                response = pooled(t, rest, pairs.shift)
                miss = pairs.shift[i] - response
                total += weight[i] * miss @ miss
                for k, penalty in enumerate(RIDGE):
                    told = np.zeros_like(pairs.shift)
                    for j in np.append(rest, i):
                        if pairs.condition[j] == t:
                            regression = coexpression.regressions(pairs.stratum[j], without=t)[0]
                            told[j] = regression.predict(response[None], penalty)[0]
                    feature = told[i] - pooled(t, rest, told)
                    products[k] += weight[i] * miss @ feature
                    squares[k] += weight[i] * feature @ feature
        best = np.argmax(products**2 / squares)
        beta = products[best] / squares[best]
        assert products[best] ** 2 / squares[best] / total > module.WORTH

        every = np.arange(pairs.stratum.size)
        for t in range(1, N_PERTURBATIONS + 1):
            response = pooled(t, every, pairs.shift)
            for x in range(N_LEVELS):
                expected = beta * coexpression.regressions(x)[0].predict(response[None], RIDGE[best])[0]
                np.testing.assert_allclose(found.table[x, t - 1], expected, rtol=2e-3, atol=1e-4)
            mine = np.flatnonzero(pairs.condition == t)
            for i in mine:
                own = coexpression.regressions(pairs.stratum[i], without=t)[0]
                expected = beta * own.predict(response[None], RIDGE[best])[0]
                np.testing.assert_allclose(found.fitted[i], expected, rtol=2e-3, atol=1e-4)
            # Blocks are single perturbations here.
            np.testing.assert_allclose(found.correction[t - 1][0], pooled(t, every, found.fitted), rtol=2e-3, atol=1e-4)

    def test_two_regressions_are_weighted_as_least_squares_does(self):
        rng = np.random.default_rng(0)
        features = rng.normal(size=(4, 500))
        features[1] = features[0]  # the same prediction with another penalty
        error = 0.7 * features[0] + 0.3 * features[3] + rng.normal(size=500)
        units = [module._Term(route, penalty, 1.0) for route in (0, 1) for penalty in (1.0, 3.0)]
        arguments = (units, features @ error, features @ features.T, float(error @ error))
        found = module._choose(0, *arguments)
        expected, rest, *_ = np.linalg.lstsq(features[[0, 3]].T, error, rcond=None)
        assert [(term.route, term.penalty) for term in found.terms] == [(0, 1.0), (1, 3.0)]
        np.testing.assert_allclose([term.beta for term in found.terms], expected)
        np.testing.assert_allclose(found.explained, 1 - rest[0] / (error @ error))
        np.testing.assert_array_less(0, [term.beta for term in found.terms])

    def test_a_regression_that_points_the_wrong_way_is_not_used(self):
        unit = [module._Term(0, 1.0, 1.0)]
        assert module._choose(0, unit, np.array([-2.0]), np.eye(1), 10.0).terms == ()

    def test_nothing_without_another_level(self):
        screen = draw(0, n_levels=1, held_out=[])
        kriging, strata, residuals = ingredients(screen)
        assert fit_deviation(kriging, VARIANCES, strata, [1], N_PERTURBATIONS, residuals) is None
        assert screen.fit().deviation.shape[0] == 0

    def test_nothing_without_cells(self):
        kriging, strata, residuals = ingredients(draw(0))
        none = Residuals(residuals.axes, residuals.score[:0], residuals.stratum[:0], residuals.condition[:0])
        assert fit_deviation(kriging, VARIANCES, strata, [N_LEVELS], N_PERTURBATIONS, none) is None

    def test_perturbations_never_seen_have_none(self):
        design = np.concatenate([DESIGN, np.zeros((9, 2))], axis=1)
        kriging, strata, residuals = ingredients(draw(0), design=design)
        table = fit_deviation(kriging, VARIANCES, strata, [N_LEVELS], 10, residuals).table
        assert table.shape == (N_LEVELS, 10, N_GENES)
        assert not table[:, 8:].any()
        assert np.abs(table[:, :8]).max(axis=(0, 2)).min() > 0

    def test_levels_beyond_those_observed_have_room(self):
        kriging, strata, residuals = ingredients(draw(0))
        table = fit_deviation(kriging, VARIANCES, strata, [N_LEVELS + 1], N_PERTURBATIONS, residuals).table
        assert table.shape[0] == N_LEVELS + 1
        np.testing.assert_allclose(table[-1], 0, atol=1e-6)

    def test_a_table_too_large_is_not_made(self, monkeypatch, caplog):
        monkeypatch.setattr(module, "MAX_VALUES", 100)
        kriging, strata, residuals = ingredients(draw(0))
        with caplog.at_level("WARNING"):
            assert fit_deviation(kriging, VARIANCES, strata, [N_LEVELS], N_PERTURBATIONS, residuals) is None
        assert "Covariate 0" in caplog.text
