"""Hill curves of doses against simulated screens and known truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scgraphvci.data._dose_response import DoseResponse, bent, fit_dose_response
from scgraphvci.data._kriging import Pairs

DOSES = np.array([0.1, 0.25, 0.5, 1.0])


def screen(curve, noise=0.01, n_treatments=8, n_genes=30, doses=DOSES):
    """Shifts of treatments at some doses in two strata, and their treatment vectors; row 0 is control."""
    rng = np.random.default_rng(0)
    design = np.concatenate([np.zeros((1, n_treatments)), *(dose * np.eye(n_treatments) for dose in doses)])
    effect = rng.normal(size=(n_treatments, n_genes))
    condition = np.tile(np.arange(1, len(design)), 2)
    shift = curve(design)[condition] @ effect + np.sqrt(noise) * rng.normal(size=(condition.size, n_genes))
    pairs = Pairs(np.repeat([0, 1], len(design) - 1), condition, shift, np.full(condition.size, noise))
    return pairs, sparse.csr_array(design), effect


@pytest.mark.parametrize("curve", [DoseResponse(), DoseResponse(2.0), DoseResponse(16.0), DoseResponse(4.0, 2.0)])
def test_the_curve_of_the_data_is_found(curve):
    pairs, design, _ = screen(curve)
    assert fit_dose_response(pairs, design) == curve


@pytest.mark.parametrize("curve", [DoseResponse(), DoseResponse(2.0), DoseResponse(64.0, 2.0)])
def test_curves_increase_from_control_to_the_largest_dose(curve):
    amounts = np.linspace(0, 2, 201)
    response = curve(amounts)
    assert response[0] == 0
    assert response[100] == pytest.approx(1)
    assert (np.diff(response) > 0).all()
    assert response.max() <= (1 + curve.saturation) / curve.saturation if curve.saturation else True


def test_unseen_doses_are_nearer_than_by_linear_interpolation():
    truth = DoseResponse(2.0)
    pairs, design, effect = screen(truth, noise=0.02, doses=np.array([0.1, 1.0]))
    curve, unit = fit_dose_response(pairs, design), 0.4
    mean = np.stack([pairs.shift[pairs.condition == c].mean(axis=0) for c in range(1, design.shape[0])])
    low, high = mean[:8], mean[8:]
    columns = bent(design, curve).toarray()[1:]
    ours = curve(np.array(unit)) * np.linalg.lstsq(columns, mean, rcond=None)[0]
    linear = low + (unit - 0.1) / 0.9 * (high - low)
    expected = truth(np.array(unit)) * effect
    assert ((ours - expected) ** 2).mean() < 0.2 * ((linear - expected) ** 2).mean()


@pytest.mark.parametrize("doses", [[1.0], [0.5]])
def test_one_dose_tells_nothing(doses):
    pairs, design, _ = screen(DoseResponse(4.0), doses=np.array(doses))
    assert fit_dose_response(pairs, design) == DoseResponse()


def test_dense_and_sparse_vectors_bend_alike():
    _, design, _ = screen(DoseResponse())
    curve = DoseResponse(3.0, 2.0)
    np.testing.assert_allclose(bent(design, curve).toarray(), bent(design.toarray(), curve))
    assert design.data.max() == 1
    assert design.data.min() == 0.1
