from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scgraphvci.data import StratumMoments
from scgraphvci.data._kriging import HETEROGENEITY
from scgraphvci.data._mean_model import LEVEL_CELLS, NULL_SHRINKAGE, MeanModel, fit_mean_model

N_GENES = 60


def moments_of(truth, n_cells, *, variance=1.0, seed=None):
    """Moments of strata with means (n_strata, n_conditions, n_genes) and cells (n_strata, n_conditions), 0: none.

    Means are exact, or with a seed those of normal cells.
    """
    n_cells = np.broadcast_to(n_cells, truth.shape[:2])
    seen = n_cells > 0
    row = np.where(seen, np.cumsum(seen).reshape(seen.shape) - 1, -1)
    mean, n = truth[seen], n_cells[seen]
    if seed is not None:
        mean = mean + np.random.default_rng(seed).normal(size=mean.shape) * np.sqrt(variance / n[:, None])
    return StratumMoments(row, n, mean, np.full_like(mean, variance), mean.mean(axis=0), 1.0)


def predict(model, design, strata):
    """Means of all strata under all treatment vectors, shape ``(n_strata, n_conditions, n_genes)``."""
    response = [model.response(design, np.tile(stratum, (len(design), 1))) for stratum in strata]
    return model.level(strata)[:, None] + np.stack(response)


def is_finite(model):
    arrays = [model.intercept, model.shift, model.interaction, model.heterogeneity, model.deviation]
    return all(np.isfinite(array).all() for array in [*arrays, *model.offsets, *model.level_features])


class TestAdditiveTruth:
    """Covariates of 3 and 2 levels, three perturbations; one in two doses, two also together, all but some pairs."""

    LEVELS = (3, 2)
    STRATA = np.array([[i, j] for i in range(3) for j in range(2)])
    DESIGN = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0, 0], [1, 1, 0], [0, 0, 1]], np.float32)

    def truth(self, scale=1.0):
        rng = np.random.default_rng(0)
        level = rng.normal(3, 0.2, N_GENES) + rng.normal(0, 0.5, (3, 1, N_GENES)) + rng.normal(0, 0.5, (2, N_GENES))
        shift = scale * rng.choice([-2, -1, 1, 2.0], (3, N_GENES))
        return level.reshape(6, 1, N_GENES) + self.DESIGN @ shift, shift

    @pytest.mark.parametrize("log", [False, True])
    def test_is_recovered_from_many_cells(self, log):
        means, shift = self.truth(0.5)
        n_cells = np.full((6, 6), 10_000)
        n_cells[4, 1] = n_cells[2, 2] = n_cells[:, 5] = 0  # the last perturbation was never seen
        moments = moments_of(np.exp(means) if log else means, n_cells, variance=1.0)
        model = fit_mean_model(moments, self.DESIGN, self.STRATA, self.LEVELS, log=log)
        # Offsets are shrunk as if by two more cells.
        np.testing.assert_allclose(predict(model, self.DESIGN[:5], self.STRATA), means[:, :5], atol=5e-3)
        np.testing.assert_allclose(model.shift[:2], shift[:2], atol=5e-3)
        np.testing.assert_array_equal(model.shift[2], 0)
        assert model.heterogeneity.max() < 1e-3

    def test_combinations_never_seen_add_up_and_doses_scale(self):
        means, shift = self.truth()
        n_cells = np.full((6, 6), 10_000)
        n_cells[:, [1, 4]] = 0  # the first perturbation at half dose only, never with the second
        model = fit_mean_model(moments_of(means, n_cells), self.DESIGN, self.STRATA, self.LEVELS, log=False)
        np.testing.assert_allclose(predict(model, self.DESIGN, self.STRATA), means, atol=0.02)
        np.testing.assert_allclose(model.shift[0], shift[0], atol=0.02)

    def test_members_of_a_combination_are_told_apart_by_other_combinations(self):
        design = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0]], np.float32)
        means, shift = self.truth()
        means = means[:, :1] + design @ shift
        n_cells = np.full((6, 5), 10_000)
        n_cells[:, 4] = 0  # none was given alone
        model = fit_mean_model(moments_of(means, n_cells), design, self.STRATA, self.LEVELS, log=False)
        np.testing.assert_allclose(predict(model, design, self.STRATA), means, atol=0.02)

    def test_where_treatments_were_given_does_not_bias_them(self):
        means, shift = self.truth()
        means[0] += 5  # a stratum far off, where alone the first perturbation was not given
        n_cells = np.full((6, 6), 10_000)
        n_cells[0, [1, 3, 4]] = 0
        model = fit_mean_model(moments_of(means, n_cells), self.DESIGN, self.STRATA, self.LEVELS, log=False)
        np.testing.assert_allclose(model.shift, shift, atol=1e-3)

    def test_strata_without_control_tell_nothing_of_shifts(self):
        n_cells = np.full((6, 6), 100)
        n_cells[:, 0] = 0
        moments = moments_of(self.truth()[0], n_cells)
        model = fit_mean_model(moments, self.DESIGN, self.STRATA, self.LEVELS, log=False)
        assert not model.response(self.DESIGN, self.STRATA).any()
        np.testing.assert_array_equal(model.heterogeneity, HETEROGENEITY[0])  # nothing tells how far off the model is
        assert is_finite(model)

    def test_a_stratum_without_control_tells_of_its_level(self):
        means, shift = self.truth()
        n_cells = np.full((6, 6), 10_000)
        n_cells[3, 0] = 0
        means[3, 1:] += 7 * self.DESIGN[1:].sum(axis=1, keepdims=True)  # no shifts: there is nothing to compare with
        model = fit_mean_model(moments_of(means, n_cells), self.DESIGN, self.STRATA, self.LEVELS, log=False)
        np.testing.assert_allclose(model.shift, shift, atol=1e-3)
        only = [[3, 0]]  # a level that is known through treated cells alone
        strata, means = np.concatenate([self.STRATA, only]), np.concatenate([means, means[:1] + 1])
        means[3, 1:] -= 7 * self.DESIGN[1:].sum(axis=1, keepdims=True)
        n_cells = np.full((7, 6), 10_000)
        n_cells[6, 0] = 0
        model = fit_mean_model(moments_of(means, n_cells), self.DESIGN, strata, (4, 2), log=False)
        np.testing.assert_allclose(model.level(np.array(only)), means[6, :1], atol=0.02)

    @pytest.mark.parametrize("levels", [[], [1]])
    def test_a_single_stratum(self, levels):
        means, shift = self.truth(3.0)
        moments = moments_of(means[:1], 1000)
        model = fit_mean_model(moments, self.DESIGN, np.zeros((1, len(levels)), int), levels, log=False)
        assert len(model.offsets) == len(model.level_features) == len(levels)
        strata = np.zeros((6, len(levels)), int)
        np.testing.assert_allclose(model.response(self.DESIGN, strata), self.DESIGN @ shift, atol=1e-3)
        np.testing.assert_allclose(model.level(strata[:1]), means[0, :1], atol=0.01)
        np.testing.assert_array_equal(model.heterogeneity[1], HETEROGENEITY[0])

    def test_order_of_strata_levels_and_perturbations_does_not_matter(self):
        rng = np.random.default_rng(1)
        means = self.truth()[0] + rng.normal(0, 0.7, (6, 6, N_GENES))
        n_cells = rng.integers(5, 60, (6, 6))
        n_cells[1, 2] = n_cells[5, 0] = n_cells[3, 1] = 0
        expected = predict(
            fit_mean_model(moments_of(means, n_cells), self.DESIGN, self.STRATA, self.LEVELS, log=False),
            self.DESIGN,
            self.STRATA,
        )
        order, relabel, columns = rng.permutation(6), np.array([2, 0, 1]), [2, 0, 1]
        strata = np.column_stack([self.STRATA[order, 1], relabel[self.STRATA[order, 0]]])
        conditions = np.array([0, 5, 3, 4, 1, 2])
        design = self.DESIGN[conditions][:, columns]
        moments = moments_of(means[order][:, conditions], n_cells[order][:, conditions])
        found = predict(fit_mean_model(moments, design, strata, (2, 3), log=False), design, strata)
        np.testing.assert_allclose(found, expected[order][:, conditions], rtol=1e-6, atol=1e-6)


class TestBorrowing:
    """Six cell types of two kinds; one of the second kind lacks the first of ten perturbations."""

    STRATA = np.arange(6)[:, None]
    DESIGN = np.eye(11)[:, 1:]
    KIND = np.array([0, 0, 0, 1, 1, 1])

    def fitted(self, alike, seed=0):
        """The model, and true responses (n_strata, n_perturbations, n_genes)."""
        rng = np.random.default_rng(seed)
        kind = rng.normal(0, 2, (2, N_GENES))[self.KIND]
        level = kind + rng.normal(0, 0.3, (6, N_GENES))
        response = rng.normal(0, 1, (10, N_GENES)) + np.zeros((6, 1, 1))
        if alike:
            response = response + rng.normal(0, 1, (2, 10, N_GENES))[self.KIND]
        else:
            response = response + rng.normal(0, 0.5, (6, 10, N_GENES))
        n_cells = np.full((6, 11), 100)
        n_cells[5, 1] = 0
        means = level[:, None] + np.concatenate([np.zeros((6, 1, N_GENES)), response], axis=1)
        return fit_mean_model(moments_of(means, n_cells, seed=seed), self.DESIGN, self.STRATA, [6], log=False), response

    def test_from_strata_that_resemble_it_where_responses_follow_resemblance(self):
        model, response = self.fitted(alike=True)
        assert model.interaction.shape[1] > 0
        found, pooled = model.response(self.DESIGN[[1]], self.STRATA[[5]])[0], response[:5, 0].mean(axis=0)
        same, other = response[3, 0], response[0, 0]
        # Between the kinds, where on average 3 strata of one and 2 of the other stand: 0 is the other kind, 1 its own.
        place = [((x - other) @ (same - other)) / ((same - other) @ (same - other)) for x in (pooled, found)]
        assert place[0] == pytest.approx(0.4)
        assert place[1] > 0.75
        assert ((found - same) ** 2).mean() < 0.3 * ((pooled - same) ** 2).mean()

    def test_from_all_where_they_do_not(self):
        model, response = self.fitted(alike=False)
        assert model.interaction.shape[1] == 0
        found = model.response(self.DESIGN[[1] * 6], self.STRATA)
        np.testing.assert_array_equal(found, found[[0] * 6])
        assert np.abs(found[0] - response[:5, 0].mean(axis=0)).mean() < 0.15

    def test_features_do_not_matter_without_similarity(self, monkeypatch):
        """Forced to a similarity of 0, a model of responses that do follow resemblance is that of the pooled ones."""
        monkeypatch.setattr("scgraphvci.data._kriging.SIMILARITY", (0.0,))
        model, _ = self.fitted(alike=True)
        assert [features.shape for features in model.level_features] == [(6, 0)]
        np.testing.assert_array_equal(model.response(self.DESIGN, np.full((11, 1), 2)), self.DESIGN @ model.shift)


class TestHeterogeneity:
    @pytest.mark.parametrize("variance", [0.05, 0.3])
    def test_of_responses(self, variance):
        """Ten strata: what nothing foretells, up to the uncertainty of what is learned from nine others."""
        rng = np.random.default_rng(0)
        response = rng.normal(0, 1, (8, 300)) + rng.normal(0, np.sqrt(variance), (10, 8, 300))
        means = rng.normal(0, 1, (10, 1, 300)) + np.concatenate([np.zeros((10, 1, 300)), response], axis=1)
        moments = moments_of(4 * means, 200, variance=16.0, seed=1)  # in units of the variance within strata
        model = fit_mean_model(moments, np.eye(9)[:, 1:], np.arange(10)[:, None], [10], log=False)
        assert model.heterogeneity[1].mean() == pytest.approx(variance * 10 / 9, rel=0.15)

    def test_of_responses_gene_by_gene(self):
        rng = np.random.default_rng(0)
        variance = np.where(np.arange(300) < 150, 0.0, 0.4)
        response = rng.normal(0, 1, (8, 300)) + rng.normal(size=(10, 8, 300)) * np.sqrt(variance)
        means = np.concatenate([np.zeros((10, 1, 300)), response], axis=1)
        found = fit_mean_model(
            moments_of(means, 200, seed=1), np.eye(9)[:, 1:], np.arange(10)[:, None], [10], log=False
        ).heterogeneity[1]
        # Half of each estimate is the mean over genes.
        assert found[:150].mean() == pytest.approx(0.1, abs=0.03)
        assert found[150:].mean() == pytest.approx(0.3 * 10 / 9, abs=0.04)

    def test_of_controls(self):
        """Eight levels by eight, whose strata deviate from the sum of offsets; 15 numbers fitted to 64 strata."""
        rng = np.random.default_rng(0)
        strata = np.array([[i, j] for i in range(8) for j in range(8)])
        sum_of_offsets = rng.normal(0, 1, (8, 1, 100)) + rng.normal(0, 1, (8, 100))
        means = sum_of_offsets.reshape(64, 1, 100) + rng.normal(0, 0.5, (64, 1, 100))
        model = fit_mean_model(moments_of(means, 100, seed=1), np.zeros((1, 0)), strata, [8, 8], log=False)
        assert model.heterogeneity[0].mean() == pytest.approx(0.25 * 49 / 64, rel=0.1)


class TestShrinkage:
    def fitted(self, shift, n=40):
        means = np.array([[0.0], [1.0]])[:, None] + np.concatenate([np.zeros((1, shift.shape[1])), shift])
        moments = moments_of(means, n, seed=0)
        model = fit_mean_model(moments, np.eye(3)[:, 1:], np.array([[0], [1]]), [2], log=False)
        rows = moments.row[:, 1:]
        return model.shift, (moments.mean[rows] - moments.mean[moments.row[:, :1]]).mean(axis=0)

    def test_takes_a_share_of_what_is_no_effect(self):
        """The first perturbation does nothing, the second a lot to a few genes. All strata have as many cells."""
        shift = np.zeros((2, 500))
        shift[1, :20] = 4.0
        found, observed = self.fitted(shift)
        np.testing.assert_allclose(found[0], (1 - NULL_SHRINKAGE) * observed[0], rtol=0.1)
        np.testing.assert_allclose(found[1, :20], observed[1, :20], rtol=1e-3)
        np.testing.assert_allclose(found[1, 20:], (1 - NULL_SHRINKAGE) * observed[1, 20:], rtol=0.1)

    def test_offsets_shrink_by_as_many_cells(self):
        """Two strata of controls; with enough of them, the mean of offsets is in the intercept."""
        means = np.array([[[2.0]], [[4.0]]])
        model = fit_mean_model(moments_of(means, 6), np.zeros((1, 0)), np.array([[0], [1]]), [2], log=False)
        assert model.intercept == pytest.approx(3)
        np.testing.assert_allclose(model.offsets[0][:, 0], np.array([-1, 1]) * 6 / (6 + LEVEL_CELLS))


class TestCounts:
    STRATA = np.array([[i] for i in range(4)])
    DESIGN = np.eye(4)[:, 1:]

    def counts(self, rate, n_cells, seed=0):
        """Moments of Poisson counts of rates (n_genes,) that no treatment changes."""
        n = np.broadcast_to(n_cells, (4, 4)).ravel()
        mean = np.random.default_rng(seed).poisson(rate * n[:, None], (16, len(rate))) / n[:, None]
        return StratumMoments(np.arange(16).reshape(4, 4), n, mean, np.tile(rate, (16, 1)), mean[0], 1.0)

    @pytest.mark.parametrize("rate", [0.002, 0.02, 0.2, 2.0])
    def test_few_cells_do_not_shift_rare_genes(self, rate):
        """Control has many cells and treatments few: on average over genes there is no effect all the same."""
        n_cells = np.where(np.arange(4) == 0, 2000, 10)
        model = fit_mean_model(self.counts(np.full(500, rate), n_cells), self.DESIGN, self.STRATA, [4], log=True)
        assert abs(model.shift.mean()) < 0.12
        assert np.abs(model.level(self.STRATA).mean() - np.log(rate)) < 0.15

    def test_genes_without_a_count_change_nothing(self):
        rate = np.full(50, 2.0)
        n_cells = np.random.default_rng(1).integers(3, 200, (4, 4))
        moments = self.counts(rate, n_cells)
        silent = StratumMoments(
            moments.row,
            moments.n_cells,
            np.concatenate([moments.mean, np.zeros((16, 1))], axis=1),
            np.concatenate([moments.variance, np.zeros((16, 1))], axis=1),
            moments.input_mean,
            1.0,
        )
        without = fit_mean_model(moments, self.DESIGN, self.STRATA, [4], log=True)
        model = fit_mean_model(silent, self.DESIGN, self.STRATA, [4], log=True)
        assert np.abs(model.shift[:, -1]).max() < 0.1
        np.testing.assert_allclose(model.shift[:, :-1], without.shift, atol=0.02)
        np.testing.assert_allclose(model.heterogeneity[:, :-1], without.heterogeneity, atol=0.01)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("kind", ["single cells", "constant", "nothing but zeros", "extreme"])
def test_always_finite(kind, log):
    rng = np.random.default_rng(0)
    strata, design = np.array([[0, 0], [1, 0], [1, 1]]), np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    n_cells = {"single cells": 1}.get(kind, 3)
    mean = rng.poisson(0.3, (3, 4, 5)).astype(float)
    mean = {"constant": np.ones_like(mean), "nothing but zeros": np.zeros_like(mean)}.get(kind, mean)
    variance = 0.0
    if kind == "extreme":
        mean, variance = mean * 1e5, 1e-12
    moments = moments_of(mean, n_cells, variance=variance)
    with np.errstate(all="raise", under="ignore"):
        model = fit_mean_model(moments, design, strata, [2, 2], log=log)
    assert is_finite(model)
    assert (model.heterogeneity >= 0).all()
    if kind in ("constant", "nothing but zeros"):
        assert not model.response(design, np.zeros((4, 2), int)).any()


@pytest.mark.parametrize("n_deviating", [0, 3])
def test_response_equals_a_naive_formula_also_for_sparse_treatment_vectors(n_deviating):
    rng = np.random.default_rng(0)
    model = MeanModel(
        np.zeros(4), [rng.normal(size=(n, 4)) for n in (2, 3)], rng.normal(size=(3, 4)),
        [rng.normal(size=(n, 2)) for n in (2, 3)], rng.normal(size=(3, 2, 4)), np.zeros((2, 4)),
        rng.normal(size=(n_deviating, 3, 4)), 1,
    )  # fmt: skip
    design, strata = rng.normal(size=(8, 3)), np.stack([rng.integers(2, size=8), rng.integers(3, size=8)], axis=1)
    naive = []
    for t, (x, y) in zip(design, strata, strict=True):
        features = model.level_features[0][x] + model.level_features[1][y]
        deviation = model.deviation[y] if n_deviating else np.zeros((3, 4))
        naive.append(sum(t[p] * (model.shift[p] + features @ model.interaction[p] + deviation[p]) for p in range(3)))
    np.testing.assert_allclose(model.response(design, strata), naive)
    np.testing.assert_allclose(model.response(sparse.csr_array(design), strata), naive)
