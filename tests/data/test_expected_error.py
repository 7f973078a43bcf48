"""Expected errors and conformal margins against known variances and ranks."""

from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.data._expected_error import fit_expected_error


def errors(n=400, n_genes=40, heavy=False):
    """Errors of variance leverage * own + 3 * extra + noise."""
    rng = np.random.default_rng(0)
    noise, leverage = rng.uniform(0.05, 0.1, n), rng.uniform(1, 2, n)
    extra = rng.exponential(size=(n, n_genes, 2))
    own = rng.uniform(0.5, 0.6, n_genes)
    variance = leverage[:, None] * own + 3 * extra[..., 0]
    z = rng.standard_t(4, size=variance.shape) / np.sqrt(2) if heavy else rng.normal(size=variance.shape)
    return np.sqrt(variance + noise[:, None]) * z, noise, leverage, extra, own


def test_what_makes_errors_large_is_found():
    residual, noise, leverage, extra, own = errors()
    model = fit_expected_error(residual, noise, leverage, extra)
    np.testing.assert_allclose(model.slopes, [3, 0], atol=0.25)
    np.testing.assert_allclose(model.own.mean(), own.mean(), rtol=0.2)
    expected = np.sqrt(1.5 * model.own + extra[0] @ model.slopes)
    np.testing.assert_allclose(model.sd(1.5, extra[0]), expected)


def test_intervals_of_heavy_tailed_errors_hold_whatever_their_size():
    residual, noise, leverage, extra, _ = errors(heavy=True)
    half = slice(200)
    model = fit_expected_error(residual[half], noise[half], leverage[half], extra[half])
    variance = leverage[200:, None] * model.own + extra[200:] @ model.slopes + noise[200:, None]
    inside = np.abs(residual[200:]) <= model.margin(0.1, "units") * np.sqrt(variance)
    large = extra[200:, :, 0] > 1.5
    assert inside.mean() == pytest.approx(0.9, abs=0.01)
    assert inside[large].mean() == pytest.approx(0.9, abs=0.03)


def test_margin_is_a_rank_of_scores():
    residual, noise, leverage, extra, _ = errors(n=19)
    model = fit_expected_error(residual, noise, leverage, extra)
    np.testing.assert_allclose(model.margin(0.05, "units"), model.scores[-1])
    np.testing.assert_allclose(model.margin(0.1, "units"), model.scores[-2])


@pytest.mark.parametrize("alpha", [0.049, 0.0, 1.0, np.nan])
def test_levels_beyond_the_number_of_units_are_refused(alpha):
    residual, noise, leverage, extra, _ = errors(n=19)
    with pytest.raises(ValueError, match=r"1 / \(n \+ 1\) = 0.05.*n = 19 things"):
        fit_expected_error(residual, noise, leverage, extra).margin(alpha, "things")
