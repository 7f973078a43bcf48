"""Medians over repetitions against a loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.estimate import marginal_effects, median_effects
from scgraphvci.estimate._bands import LIKE_SIZE

GENES = ["g0", "g1", "g2", "g3"]
STRATA = pd.DataFrame({"s": ["x", "y", "z"]})


def repetitions(make_cells, n, *, clustered, spread=0.3, **options):
    """Results of the same cells, whose predictions err by themselves, as models of other folds do."""
    rng, results = np.random.default_rng(0), []
    for _ in range(n):
        cells = make_cells(n_cells=600, n_clusters=15)
        cells.treatment[(cells.stratum == 2) & (np.cumsum(cells.treatment == 0) > 150)] = 2
        cells.predicted = cells.predicted + spread * rng.normal(size=cells.predicted.shape)
        sums = [("a", cells.sums(clustered=clustered))]
        results.append(marginal_effects(sums, strata=STRATA, genes=GENES, **options))
    return results


@pytest.mark.parametrize("clustered", [True, False])
@pytest.mark.parametrize("n", [3, 4])
def test_estimate_and_error_equal_a_loop(make_cells, clustered, n):
    results = repetitions(make_cells, n, clustered=clustered)
    found = median_effects(iter(results))
    for x in range(3):
        for g in range(4):
            theta = [one.estimate[0, x, g] for one in results]
            centre = np.median(theta)
            error = np.sqrt(np.median([one.std_error[0, x, g] ** 2 + (t - centre) ** 2
                                       for one, t in zip(results, theta, strict=True)]))  # fmt: skip
            assert found.estimate[0, x, g] == pytest.approx(centre, rel=1e-12)
            assert found.std_error[0, x, g] == pytest.approx(error, rel=1e-12)
            assert found.plugin[0, x, g] == pytest.approx(np.median([one.plugin[0, x, g] for one in results]))
    np.testing.assert_allclose(found.observed, results[0].observed)
    np.testing.assert_array_equal(found.n_treated, results[0].n_treated)


def test_one_repetition_is_itself(make_cells):
    (one,) = repetitions(make_cells, 1, clustered=True)
    found = median_effects([one])
    np.testing.assert_allclose(found.std_error, one.std_error, rtol=1e-12)
    np.testing.assert_allclose(found.influence.total, one.influence.total, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(found.n_clusters, one.n_clusters)


def test_totals_have_the_error_of_the_median(make_cells):
    results = repetitions(make_cells, 5, clustered=True, spread=1.0)
    found = median_effects(results)
    n = found.influence.effective[:, :, None]
    error = np.sqrt(n / (n - 1) * (found.influence.total.astype(float) ** 2).sum(axis=2))
    np.testing.assert_allclose(error, found.std_error, rtol=1e-5)
    mean = np.mean([one.influence.total for one in results], axis=0)
    unit = [total / np.linalg.norm(total, axis=2, keepdims=True) for total in (mean, found.influence.total)]
    np.testing.assert_allclose(*unit, atol=1e-5)
    low, high, method = found.joint_bands()
    alike = found.influence.effective >= LIKE_SIZE * found.n_clusters
    np.testing.assert_array_equal(method, np.where(alike, "multiplier_bootstrap", "bonferroni"))
    assert (high - low > found.ci_high - found.ci_low).all()
    contrast = found.contrast(found.select(strata={"s": "x"}))
    assert np.isfinite(contrast.std_error).all()


def test_what_repetitions_disagree_on_is_in_the_error(make_cells):
    """Without the deviation from the median the error would be that of one repetition."""
    results = repetitions(make_cells, 5, clustered=False)
    for i, one in enumerate(results):
        one.estimate[:] = i
    found = median_effects(results)
    assert (found.estimate == 2).all()
    naive = np.sqrt(np.median([one.std_error**2 + (i - 2) ** 2 for i, one in enumerate(results)], axis=0))
    np.testing.assert_allclose(found.std_error, naive)
    pooled = found.pool()
    weight = found.n_stratum[0] / found.n_stratum.sum()
    np.testing.assert_allclose(pooled.std_error[0, 0] ** 2, weight**2 @ found.std_error[0] ** 2, rtol=1e-10)


def test_leaks_are_medians_with_twice_the_p_value(make_cells):
    results = repetitions(make_cells, 3, clustered=False)
    found = median_effects(results).leaks
    for name in ("p_any", "p_fitted"):
        values = np.median([getattr(one.leaks, name) for one in results], axis=0)
        np.testing.assert_allclose(getattr(found, name), np.minimum(2 * values, 1))
    share = np.median([one.leaks.share for one in results], axis=0)
    np.testing.assert_allclose(found.share, share)
    error = np.median([one.leaks.share_error**2 + (one.leaks.share - share) ** 2 for one in results], axis=0)
    np.testing.assert_allclose(found.share_error**2, error)


def test_one_repetition_in_which_the_test_rejects_is_outvoted(make_cells):
    results = repetitions(make_cells, 3, clustered=False, alpha=0.01)
    for result in results:
        result.leaks.excess[:] = 1.0  # large enough to matter, where it is found
    one = results[1]
    one.leaks.p_any[:] = 0.0
    one.status[:] = "leak_detected"
    clean = [results[0], one, results[2]]
    assert (median_effects(clean).status == "ok").all()
    for other in (results[0], results[2]):
        other.leaks.p_any[:] = 0.0
    assert (median_effects(clean).status == "leak_detected").all()


def test_without_totals_and_without_errors(make_cells):
    found = median_effects(repetitions(make_cells, 3, clustered=False, keep_influence=False))
    assert found.influence is None
    assert np.isfinite(found.std_error).all()
    few = median_effects(repetitions(make_cells, 3, clustered=False, min_cells=500))
    assert (few.status == "too_few_cells").all()
    assert np.isnan(few.std_error).all()
    assert np.isfinite(few.estimate).all()


def test_no_repetition_is_refused():
    with pytest.raises(ValueError, match="no repetition"):
        median_effects([])
