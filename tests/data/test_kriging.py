from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scgraphvci.data import _kriging
from scgraphvci.data._kriging import FLAT, Kriging, Pairs, Variances, excess_variance, split_blocks, told_apart

# Five strata of two covariates, five treatment vectors of four perturbations: 0 and 1 also together, 2 in two doses.
STRATA = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]])
DESIGN = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0.3, 0], [0, 1, 0, 0.0]])
N_GENES = 3


@pytest.fixture
def kriging():
    rng = np.random.default_rng(0)
    stratum, condition = (code.ravel() for code in np.meshgrid(range(5), range(1, 6), indexing="ij"))
    seen = ~((stratum == 4) & (condition == 3)) & ~((stratum == 1) & (condition == 2))
    stratum, condition = stratum[seen], condition[seen]
    pairs = Pairs(stratum, condition, rng.normal(size=(seen.sum(), N_GENES)), rng.uniform(0.05, 0.5, seen.sum()))
    return Kriging(pairs, split_blocks(sparse.csr_array(DESIGN), condition), rng.normal(size=(5, 2)))


def best_linear_prediction(kriging, variances, rows, vector, stratum):
    """Conditional mean of a Gaussian process, from dense covariances of the pairs `rows` and of what is predicted."""
    pairs, features = kriging.pairs, kriging.features

    def covariance(t, x, other_t, other_x):
        return t @ other_t * (1 / FLAT + variances.similarity * features[x] @ features[other_x])

    treated, where = DESIGN[pairs.condition], pairs.stratum
    among = np.array([[covariance(treated[i], where[i], treated[j], where[j]) for j in rows] for i in rows])
    among += np.diag(variances.heterogeneity + pairs.noise[rows])
    to_target = np.array([covariance(vector, stratum, treated[j], where[j]) for j in rows])
    return to_target @ np.linalg.solve(among, pairs.shift[rows])


VARIANCES = [Variances(0.0, 0.1), Variances(0.3, 0.02), Variances(1.0, 0.5)]


@pytest.mark.parametrize("variances", VARIANCES)
def test_fit_is_the_best_linear_prediction(kriging, variances):
    shift, interaction = np.zeros((4, N_GENES)), np.zeros((4, 2, N_GENES))
    for members, coefficients, varying, _ in kriging.fit(variances):
        shift[members], interaction[members] = coefficients, varying
    rows = np.arange(kriging.pairs.stratum.size)
    for stratum in range(5):
        for vector in (*DESIGN, np.array([1, 0, 1, 0.0])):
            found = vector @ shift + vector @ np.einsum("k,pkg->pg", kriging.features[stratum], interaction)
            expected = best_linear_prediction(kriging, variances, rows, vector, stratum)
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(shift[3], 0)  # never seen


@pytest.mark.parametrize("variances", VARIANCES)
@pytest.mark.parametrize("columns", [[0], [1], [0, 1]])
def test_held_out_equals_refits_without_the_level(kriging, variances, columns):
    pairs, expected = kriging.pairs, []
    for column in columns:
        for i, stratum in enumerate(pairs.stratum):
            rest = np.flatnonzero(STRATA[pairs.stratum, column] != STRATA[stratum, column])
            vector = DESIGN[pairs.condition[i]]
            prediction = best_linear_prediction(kriging, variances, rest, vector, stratum)
            expected.append((pairs.noise[i], *(pairs.shift[i] - prediction)))
    found = [
        (noise, *residual)
        for residuals, noises in kriging.held_out(STRATA[:, columns], variances)
        for residual, noise in zip(residuals, noises, strict=True)
    ]
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-6, atol=1e-8)


def test_perturbations_of_one_level_are_not_held_out(kriging):
    """Perturbation 2 in level 1 of the first covariate only; 0 with 1 in another block, which is held out all the same.

    Within a block, pairs without the perturbation are still predicted.
    """
    pairs, only = kriging.pairs, STRATA[:, 0] == 1
    keep = only[pairs.stratum] | (pairs.condition == 1) | (pairs.condition == 5)
    pairs = Pairs(*(field[keep] for field in pairs))
    some = Kriging(pairs, split_blocks(sparse.csr_array(DESIGN), pairs.condition), kriging.features)
    n_held_out = sum(noise.size for _, noise in some.held_out(STRATA[:, :1], VARIANCES[0]))
    assert n_held_out == np.isin(pairs.condition, [1, 2, 5]).sum()
    alone = np.flatnonzero(pairs.condition != 5)  # perturbation 1 in level 1 only, in the combination
    pairs = Pairs(*(field[alone] for field in pairs))
    some = Kriging(pairs, split_blocks(sparse.csr_array(DESIGN), pairs.condition), kriging.features)
    n_held_out = sum(noise.size for _, noise in some.held_out(STRATA[:, :1], VARIANCES[0]))
    assert n_held_out == (pairs.condition == 1).sum()


def test_sampling_variance_is_that_of_refits_to_noise(kriging):
    noise, n = kriging.pairs.noise, 20_000
    draws = np.random.default_rng(1).normal(size=(noise.size, n)) * np.sqrt(noise)[:, None]
    of_noise = Kriging(kriging.pairs._replace(shift=draws), kriging.blocks, kriging.features)
    for _, shift, _, sampling in of_noise.fit(VARIANCES[1]):
        np.testing.assert_allclose(sampling, shift.var(axis=1), rtol=0.05)


def test_blocks_are_the_perturbations_that_occur_together():
    rng = np.random.default_rng(0)
    design = np.zeros((30, 25))
    for row in design[1:]:
        row[rng.choice(25, rng.integers(1, 3), replace=False)] = rng.uniform(0.2, 1)
    condition = rng.integers(1, 30, 40)
    sets = []  # merged one pair at a time
    for t in condition:
        new = set(np.flatnonzero(design[t]))
        joined = [old for old in sets if old & new]
        sets = [old for old in sets if not old & new] + [new.union(*joined)]
    blocks = split_blocks(sparse.csr_array(design), condition)
    assert sorted(map(sorted, sets)) == sorted(block.members.tolist() for block in blocks)
    for block in blocks:
        expected = [i for i, t in enumerate(condition) if design[t, block.members].any()]
        assert block.rows.tolist() == expected
        np.testing.assert_array_equal(block.design, design[np.ix_(condition[expected], block.members)])


def test_without_pairs():
    none = Pairs(np.empty(0, int), np.empty(0, int), np.empty((0, N_GENES)), np.empty(0))
    kriging = Kriging(none, split_blocks(sparse.csr_array(DESIGN), none.condition), np.zeros((5, 2)))
    assert kriging.blocks == []
    assert list(kriging.fit(VARIANCES[0])) == []
    assert np.isnan(kriging.held_out_variance(STRATA, VARIANCES[0])).all()
    assert kriging.choose(STRATA) == (_kriging.SIMILARITY[0], _kriging.HETEROGENEITY[0])


def test_excess_variance():
    rng = np.random.default_rng(0)
    groups = [(rng.normal(size=(n, 4)) * [0.1, 1, 2, 3], rng.uniform(0.1, 0.5, n)) for n in (2, 5)]
    total, weights = np.zeros(4), 0.0
    for residuals, noises in groups:
        for residual, noise in zip(residuals, noises, strict=True):
            total += (residual**2 - noise) / (noise + 0.02)
            weights += 1 / (noise + 0.02)
    own = total / weights
    np.testing.assert_allclose(excess_variance(groups, 4), np.maximum((own + own.mean()) / 2, 0))
    assert (excess_variance([(np.zeros((3, 4)), np.ones(3))], 4) == 0).all()
    assert np.isnan(excess_variance([], 4)).all()


def responses(follow, unforeseen, of_level=0.0, seed=0):
    """Six levels of a covariate and two of another; responses follow a feature of the first, beside chance.

    `unforeseen` is the variance between strata, `of_level` between levels of the first covariate.
    """
    rng = np.random.default_rng(seed)
    strata = np.array([[i, j] for i in range(6) for j in range(2)])
    features = np.array([-1, -1, -1, 1, 1, 1.0])[strata[:, :1]]
    stratum, condition = (code.ravel() for code in np.meshgrid(range(12), range(1, 11), indexing="ij"))
    pooled, along = rng.normal(size=(2, 11, 40))
    shift = pooled[condition] + np.sqrt(follow) * features[stratum] * along[condition]
    shift += rng.normal(size=shift.shape) * np.sqrt(unforeseen + 0.02)
    shift += np.sqrt(of_level) * rng.normal(size=(11, 6, 40))[condition, strata[stratum, 0]]
    pairs = Pairs(stratum, condition, shift, np.full(stratum.size, 0.02))
    return Kriging(pairs, split_blocks(sparse.csr_array(np.eye(11)[:, 1:]), condition), features), strata


def test_choice_follows_the_responses():
    kriging, strata = responses(0.0, 0.1)
    assert kriging.choose(strata).similarity == 0
    chosen = [responses(follow, 0.1)[0].choose(strata).similarity for follow in (0.05, 0.2, 1.0)]
    assert 0 < chosen[0] <= chosen[1] <= chosen[2]


def test_choice_is_that_of_the_covariate_hardest_to_foretell():
    """From all pairs of the grid, by errors computed as defined."""
    kriging, strata = responses(0.3, 0.02, of_level=0.3)
    pairs = kriging.pairs
    errors = {}
    for similarity in _kriging.SIMILARITY:
        for heterogeneity in _kriging.HETEROGENEITY:
            variances = Variances(similarity, heterogeneity)
            groups = [list(kriging.held_out(strata[:, [j]], variances)) for j in range(2)]
            errors[variances] = [excess_variance(group, pairs.shift.shape[1]).mean() for group in groups]
    hardest = int(np.argmax(np.min(list(errors.values()), axis=0)))
    assert hardest == 0
    best = min(error[hardest] for error in errors.values())
    expected = next(v for v, error in errors.items() if error[hardest] <= 1.01 * best)
    assert kriging.choose(strata) == expected
    single = np.concatenate([strata, np.zeros((12, 1), int)], axis=1)  # a covariate of one level tells nothing
    assert kriging.choose(single) == expected


@pytest.mark.parametrize("unforeseen", [0.1, 0.5])
def test_held_out_variance_is_that_between_strata(unforeseen):
    """Up to the uncertainty of what is learned from the five other levels."""
    kriging, strata = responses(0.0, unforeseen)
    found = kriging.held_out_variance(strata[:, :1], Variances(0.0, unforeseen)).mean()
    assert unforeseen < found < unforeseen * 1.2 + 0.02


def test_perturbations_given_only_together_are_not_told_apart():
    vectors = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]], dtype=float)
    blocks = split_blocks(sparse.csr_array(np.concatenate([np.zeros((1, 5)), vectors])), np.array([1, 2, 3]))
    np.testing.assert_array_equal(told_apart(blocks, 5), [True, True, False, False, False])
