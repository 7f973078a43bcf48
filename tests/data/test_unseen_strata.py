"""Errors in strata left out against refits, and coverage of strata that were never measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scgraphvci.data._expected_error import fit_expected_error
from scgraphvci.data._kriging import FLAT, Kriging, Pairs, Variances, split_blocks
from scgraphvci.data._unseen_strata import WHOLE, StrataErrors, fit_strata_errors

N_TREATMENTS, N_GENES = 6, 25
STRATA = np.array([[a, b] for a in range(3) for b in range(2)])
VARIANCES = Variances(0.3, 0.2)


def regression(seed=0, missing=(), spread=0.4, noise=0.05):
    """Shifts of treatments in strata, some of them never measured, and the truth (strata, treatments, genes)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(N_TREATMENTS, N_GENES)) + spread * rng.normal(size=(len(STRATA), N_TREATMENTS, N_GENES))
    pairs = [(x, t) for x in range(len(STRATA)) for t in range(N_TREATMENTS) if (x, t) not in missing]
    stratum, treatment = np.array(pairs).T
    shift = truth[stratum, treatment] + np.sqrt(noise) * rng.normal(size=(len(pairs), N_GENES))
    found = Pairs(stratum, treatment + 1, shift, np.full(len(pairs), noise))
    design = sparse.csr_array(np.eye(N_TREATMENTS + 1)[:, 1:])
    features = rng.normal(size=(len(STRATA), 2))
    return Kriging(found, split_blocks(design, found.condition), features), truth


def test_errors_are_those_of_refits():
    kriging, _ = regression()
    errors = fit_strata_errors(kriging, VARIANCES, STRATA, N_TREATMENTS, np.ones(N_GENES))
    columns = np.concatenate([np.ones((6, 1)), np.sqrt(0.3) * kriging.features], axis=1)
    penalty = np.diag([FLAT, 1, 1])
    for key, column in {0: STRATA[:, 0], 1: STRATA[:, 1], WHOLE: np.arange(6)}.items():
        residual, leverage, square = [], [], []
        for t in range(N_TREATMENTS):
            shift = kriging.pairs.shift[kriging.pairs.condition == t + 1]
            for level in np.unique(column):
                rest, out = column != level, column == level
                inverse = np.linalg.inv(columns[rest].T @ columns[rest] / 0.25 + penalty)
                guess = columns[out] @ inverse @ columns[rest].T @ shift[rest] / 0.25
                residual.append(shift[out] - guess)
                square.append(guess**2)
                leverage.append(1 + np.diag(columns[out] @ inverse @ columns[out].T) / 0.2)
        residual, leverage, square = (np.concatenate(part) for part in (residual, leverage, square))
        noise = np.full(len(residual), 0.05)
        expected = fit_expected_error(residual, noise, leverage, square[..., None])
        np.testing.assert_allclose(errors.errors[key].scores, expected.scores, rtol=1e-4)
        np.testing.assert_allclose(errors.errors[key].own, expected.own)


def test_what_is_new_to_a_treatment():
    missing = [(0, 1), (1, 1), (2, 2)]  # the first level of covariate 0 to treatment 1, one combination to treatment 2
    kriging, _ = regression(missing=missing)
    errors = fit_strata_errors(kriging, VARIANCES, STRATA, N_TREATMENTS + 1, np.ones(N_GENES))
    assert not errors.met[[0, 1], 1].any()
    assert errors.met.sum() == 6 * N_TREATMENTS - 3
    assert errors.new_covariate(0, 1) == 0
    assert errors.new_covariate(2, 2) == WHOLE
    assert np.isnan(errors.leverage[:, N_TREATMENTS]).all()
    assert errors.leverage[0, 1] > errors.leverage[0, 0]


@pytest.mark.parametrize("spread", [0.1, 0.6])
def test_strata_never_measured_are_covered(spread):
    inside = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        missing = [(int(rng.integers(6)), t) for t in range(3)]
        kriging, truth = regression(seed, missing, spread)
        errors = fit_strata_errors(kriging, Variances(0.0, 0.1), STRATA, N_TREATMENTS, np.full(N_GENES, 2.0))
        for x, t in missing:
            shift = 2 * kriging.pairs.shift[kriging.pairs.condition == t + 1].mean(axis=0)
            reach = errors.margin(x, t, 0.1) * errors.sd(x, t, shift)
            inside.append(np.abs(shift - 2 * truth[x, t]) <= reach)
    assert np.mean(inside) == pytest.approx(0.9, abs=0.06)


def test_state_gives_the_same_errors():
    kriging, _ = regression(missing=[(0, 0)])
    errors = fit_strata_errors(kriging, VARIANCES, STRATA, N_TREATMENTS, np.ones(N_GENES))
    again = StrataErrors.from_state(errors.to_state())
    np.testing.assert_array_equal(again.sd(0, 0, np.ones(N_GENES)), errors.sd(0, 0, np.ones(N_GENES)))
    np.testing.assert_array_equal(again.margin(0, 0, 0.2), errors.margin(0, 0, 0.2))


def test_levels_beyond_the_number_of_pairs_are_refused():
    kriging, _ = regression(missing=[(0, 0)])
    errors = fit_strata_errors(kriging, VARIANCES, STRATA, N_TREATMENTS, np.ones(N_GENES))
    with pytest.raises(ValueError, match="n = 35 pairs of a treatment and a stratum"):
        errors.margin(0, 0, 0.01)
