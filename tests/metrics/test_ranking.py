from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import distance

from scgraphvci.metrics import centroid_accuracy, discrimination_score

N, N_GENES = 12, 30
NAIVE = {"l1": distance.cityblock, "l2": distance.euclidean, "cosine": distance.cosine}


@pytest.fixture
def profiles():
    rng = np.random.default_rng(0)
    true = rng.normal(1, 1, (N, N_GENES))
    return true, true + rng.normal(0, 2, (N, N_GENES))


def naive_accuracy(true, predicted, candidates):
    scores = []
    for own, guess in zip(true, predicted, strict=True):
        others = [row for row in candidates if not np.array_equal(row, own)]
        reach = np.linalg.norm(own - guess)
        scores.append(np.mean([np.linalg.norm(other - guess) > reach for other in others]))
    return scores


def naive_discrimination(true, predicted, metric):
    scores = []
    for i, guess in enumerate(predicted):
        distances = [NAIVE[metric](row, guess) for row in true]
        rank = sorted(range(len(true)), key=distances.__getitem__).index(i)
        scores.append(1 - rank / len(true))
    return scores


def test_centroid_accuracy_counts_farther_centroids(profiles):
    true, predicted = profiles
    scores = centroid_accuracy(true, predicted)
    np.testing.assert_allclose(scores, naive_accuracy(true, predicted, true))
    assert 0.5 < scores.min() < scores.max() == 1  # the example tells good predictions from worse ones
    candidates = np.concatenate([true, np.random.default_rng(1).normal(1, 1, (9, N_GENES))])
    expected = naive_accuracy(true[:4], predicted[:4], candidates)
    np.testing.assert_allclose(centroid_accuracy(true[:4], predicted[:4], candidates), expected)


def test_the_own_centroid_among_the_candidates_does_not_count(profiles):
    true, predicted = profiles
    alone = [centroid_accuracy(true[[i]], predicted[[i]], np.delete(true, i, axis=0))[0] for i in range(N)]
    np.testing.assert_array_equal(centroid_accuracy(true, predicted, true), alone)
    np.testing.assert_array_equal(centroid_accuracy(true, predicted), alone)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_discrimination_is_one_less_the_rank(profiles, metric):
    true, predicted = profiles
    scores = discrimination_score(true, predicted, metric)
    np.testing.assert_allclose(scores, naive_discrimination(true, predicted, metric))
    np.testing.assert_array_equal(discrimination_score(true, true, metric), 1)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_target_genes_are_left_out_row_by_row(profiles, metric):
    true, predicted = profiles
    targets = np.arange(N) * 2
    targets[5] = -1
    scores = discrimination_score(true, predicted, metric, target_genes=targets)
    for i in range(N):
        kept = np.delete(np.arange(N_GENES), targets[i]) if i != 5 else np.arange(N_GENES)
        expected = naive_discrimination(true[:, kept], predicted[:, kept], metric)[i]
        assert scores[i] == pytest.approx(expected, rel=1e-12)


def test_only_cosine_ignores_the_size_of_shifts(profiles):
    true, predicted = profiles
    tripled = 3 * predicted
    np.testing.assert_allclose(
        discrimination_score(true, tripled, "cosine"), discrimination_score(true, predicted, "cosine")
    )
    assert (discrimination_score(true, tripled, "l1") != discrimination_score(true, predicted, "l1")).any()


def test_one_prediction_for_all_is_no_information(profiles):
    true, _ = profiles
    same = np.broadcast_to(true.mean(axis=0), true.shape)
    assert centroid_accuracy(true, same).mean() == pytest.approx(0.5)
    for metric in NAIVE:
        assert discrimination_score(true, same, metric).mean() == pytest.approx(0.5 + 0.5 / N)


def test_ties_count_half():
    true = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
    middle = np.zeros((3, 2))
    np.testing.assert_allclose(centroid_accuracy(true, middle), [0.75, 0.75, 0])
    np.testing.assert_allclose(discrimination_score(true, middle, "l1"), [2.5 / 3, 2.5 / 3, 1 / 3])
    # A shift of zero has no direction: every true shift is as far.
    np.testing.assert_allclose(discrimination_score(true, middle, "cosine"), np.full(3, 2 / 3))


def test_the_order_of_genes_and_treatments_does_not_matter(profiles):
    rng = np.random.default_rng(2)
    genes, rows = rng.permutation(N_GENES), rng.permutation(N)
    true, predicted = profiles
    other = true[rows][:, genes], predicted[rows][:, genes]
    np.testing.assert_allclose(centroid_accuracy(*other), centroid_accuracy(true, predicted)[rows])
    np.testing.assert_allclose(discrimination_score(*other), discrimination_score(true, predicted)[rows])


def test_without_another_centroid_or_a_finite_prediction_there_is_no_rank(profiles):
    true, predicted = profiles
    assert np.isnan(centroid_accuracy(true[:1], predicted[:1]))
    assert np.isnan(discrimination_score(true[:1], predicted[:1]))
    predicted[3, 0] = np.nan
    for scores in (centroid_accuracy(true, predicted), discrimination_score(true, predicted)):
        assert np.flatnonzero(np.isnan(scores)).tolist() == [3]


def test_what_does_not_fit_raises(profiles):
    true, predicted = profiles
    with pytest.raises(ValueError, match="same genes"):
        centroid_accuracy(true, predicted[:, 1:])
    with pytest.raises(ValueError, match="same genes"):
        centroid_accuracy(true, predicted, true[:, 1:])
    with pytest.raises(ValueError, match="Choose 'l1', 'l2' or 'cosine'"):
        discrimination_score(true, predicted, "euclid")
    with pytest.raises(ValueError, match="one target gene for each of 12 rows"):
        discrimination_score(true, predicted, target_genes=np.array([1]))
