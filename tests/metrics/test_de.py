from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from scgraphvci.metrics import de_recovery

N_GENES = 60


@pytest.fixture
def shifts():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 0.2, N_GENES)
    significant = np.arange(N_GENES) < 15
    true[significant] += rng.choice([-1.0, 1.0], 15)
    return true, true + rng.normal(0, 0.6, N_GENES), significant


def test_every_part_against_its_definition(shifts):
    true, predicted, significant = shifts
    found = de_recovery(*shifts)
    assert found.n == 15
    assert found.auprc == pytest.approx(average_precision_score(significant, np.abs(predicted)), rel=1e-12)
    expected = stats.spearmanr(true[significant], predicted[significant]).statistic
    assert found.spearman == pytest.approx(expected, rel=1e-12)
    right = [true[g] * predicted[g] > 0 for g in range(N_GENES) if significant[g]]
    assert found.direction == pytest.approx(np.mean(right))
    top = set(sorted(range(N_GENES), key=lambda g: -abs(predicted[g]))[:15])
    assert found.overlap == pytest.approx(len(top & set(np.flatnonzero(significant))) / 15)
    assert 0.3 < found.overlap < 1


def test_average_precision_with_ties_is_that_of_sklearn(shifts):
    true, predicted, significant = shifts
    coarse = np.round(predicted, 1)
    found = de_recovery(true, coarse, significant)
    assert found.auprc == pytest.approx(average_precision_score(significant, np.abs(coarse)), rel=1e-12)


def test_a_perfect_prediction_of_separable_genes_scores_one():
    true = np.array([3.0, -2.0, 1.5, 0.1, -0.2, 0.0])
    assert de_recovery(true, true, np.abs(true) > 1) == pytest.approx((1, 1, 1, 1, 3))


def test_no_shift_predicted_earns_what_chance_does(shifts):
    true, _, significant = shifts
    found = de_recovery(true, np.zeros(N_GENES), significant)
    assert (found.auprc, found.spearman, found.direction, found.overlap) == (0.25, 0, 0.5, 0.25)


def test_overlap_with_ties_is_the_mean_over_their_orders(shifts):
    true, predicted, significant = shifts
    coarse = np.round(predicted)
    rng = np.random.default_rng(1)
    broken = [de_recovery(true, coarse + rng.normal(0, 1e-9, N_GENES), significant).overlap for _ in range(2000)]
    error = np.std(broken) / np.sqrt(2000)
    assert error > 0
    assert de_recovery(true, coarse, significant).overlap == pytest.approx(np.mean(broken), abs=4 * error)


def test_the_order_of_genes_does_not_matter(shifts):
    order = np.random.default_rng(2).permutation(N_GENES)
    true, predicted, significant = shifts
    coarse = np.round(predicted, 1)
    other = de_recovery(true[order], coarse[order], significant[order])
    assert other == pytest.approx(de_recovery(true, coarse, significant), rel=1e-12)


def test_nothing_significant_is_undefined_not_perfect(shifts):
    true, predicted, _ = shifts
    found = de_recovery(true, predicted, np.zeros(N_GENES, dtype=bool))
    assert np.isnan(found[:4]).all()
    assert found.n == 0


def test_one_significant_gene_has_no_rank(shifts):
    true, predicted, _ = shifts
    found = de_recovery(true, predicted, np.arange(N_GENES) == 3)
    assert np.isnan(found.spearman)
    assert not np.isnan([found.auprc, found.direction, found.overlap]).any()


def test_a_prediction_that_is_not_finite_is_undefined(shifts):
    true, predicted, significant = shifts
    predicted[0] = np.nan
    found = de_recovery(true, predicted, significant)
    assert np.isnan(found[:4]).all()
    assert found.n == 15


def test_positions_instead_of_a_mask_raise(shifts):
    true, predicted, significant = shifts
    with pytest.raises(ValueError, match="Pass a mask"):
        de_recovery(true, predicted, np.flatnonzero(significant))
    with pytest.raises(ValueError, match="same genes"):
        de_recovery(true, predicted, significant[1:])
