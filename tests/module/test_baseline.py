from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scgraphvci.data._dose_response import DoseResponse
from scgraphvci.data._mean_model import MeanModel
from scgraphvci.module._baseline import MeanBaseline

N_GENES, N_PERTURBATIONS, LEVELS = 5, 3, (3, 2)
TREATMENT = np.array([[0, 0, 0], [1, 0, 0], [0.5, 2, 0], [0, 1, 1.0]])
STRATA = np.array([[0, 1], [2, 0], [1, 1], [2, 1]])


def make_fit(n_features, levels=LEVELS, deviating=None):
    """A fit with numbers drawn at random; `deviating` is the covariate whose levels' responses deviate."""
    rng = np.random.default_rng(0)
    return MeanModel(
        rng.normal(size=N_GENES),
        [rng.normal(size=(n, N_GENES)) for n in levels],
        rng.normal(size=(N_PERTURBATIONS, N_GENES)),
        [rng.normal(size=(n, n_features)) for n in levels],
        rng.normal(size=(N_PERTURBATIONS, n_features, N_GENES)),
        rng.uniform(size=(2, N_GENES)),
        rng.normal(size=(0 if deviating is None else levels[deviating], N_PERTURBATIONS, N_GENES)),
        deviating or 0,
    )


def make_baseline(fit, levels=LEVELS):
    baseline = MeanBaseline(N_GENES, N_PERTURBATIONS, levels).double()
    baseline.start_from(fit)
    return baseline


@pytest.mark.parametrize("n_features", [0, 1, 3])
@pytest.mark.parametrize("deviating", [None, 0, 1])
def test_equals_the_fitted_model(n_features, deviating):
    fit = make_fit(n_features, deviating=deviating)
    baseline = make_baseline(fit)
    treatment, levels = torch.from_numpy(TREATMENT), torch.from_numpy(STRATA)
    response = fit.response(TREATMENT, STRATA)
    np.testing.assert_allclose(baseline.response(treatment, levels), response, rtol=1e-12)
    np.testing.assert_allclose(baseline(treatment, levels), fit.level(STRATA) + response, rtol=1e-12)
    np.testing.assert_array_equal(baseline.heterogeneity, fit.heterogeneity)


def test_is_intercept_offsets_and_shifts_that_vary_with_features_and_level():
    fit = make_fit(2, deviating=1)
    found = make_baseline(fit)(torch.from_numpy(TREATMENT), torch.from_numpy(STRATA))
    for i, (treatment, (first, second)) in enumerate(zip(TREATMENT, STRATA, strict=True)):
        features = fit.level_features[0][first] + fit.level_features[1][second]
        shift = fit.shift + np.einsum("k,pkg->pg", features, fit.interaction)
        shift = shift + fit.deviation[second]
        expected = fit.intercept + fit.offsets[0][first] + fit.offsets[1][second] + treatment @ shift
        np.testing.assert_allclose(found[i], expected, rtol=1e-12)


def test_starts_at_zero():
    baseline = MeanBaseline(N_GENES, N_PERTURBATIONS, LEVELS)
    assert not baseline(torch.ones(4, N_PERTURBATIONS), torch.from_numpy(STRATA)).any()


def test_doses_act_along_the_curve_of_the_fit():
    fit = replace(make_fit(2, deviating=0), dose_response=DoseResponse(2.0, 2.0))
    baseline = make_baseline(fit)
    treatment, levels = torch.from_numpy(TREATMENT), torch.from_numpy(STRATA)
    found = baseline.response(treatment, levels)
    np.testing.assert_allclose(found, fit.response(TREATMENT, STRATA), rtol=1e-6)
    curve = 3 * TREATMENT**2 / (1 + 2 * TREATMENT**2)
    proportional = replace(fit, dose_response=DoseResponse())
    np.testing.assert_allclose(found, proportional.response(curve, STRATA), rtol=1e-6)
    again = make_baseline(make_fit(2))
    again.load_state_dict(baseline.state_dict())
    assert torch.equal(again.response(treatment, levels), found)


def test_states_from_before_doses_were_curved_are_proportional():
    baseline = make_baseline(make_fit(2))
    state = {name: value for name, value in baseline.state_dict().items() if name != "dose_response"}
    other = make_baseline(replace(make_fit(2), dose_response=DoseResponse(5.0)))
    other.load_state_dict(state)
    assert other.dose_response.tolist() == [0.0, 1.0]


def test_loading_parameters_alone_leaves_the_curve():
    """As training does at its end, with the best weights."""
    other = make_baseline(replace(make_fit(2), dose_response=DoseResponse(5.0)))
    other.load_state_dict({}, strict=False)
    assert other.dose_response.tolist() == [5.0, 1.0]


@pytest.mark.parametrize("before", [None, 0, 1])
@pytest.mark.parametrize("after", [None, 0, 1])
def test_a_second_fit_replaces_the_first(before, after):
    baseline, fit = make_baseline(make_fit(3, deviating=before)), make_fit(1, deviating=after)
    baseline.start_from(fit)
    found = baseline.response(torch.from_numpy(TREATMENT), torch.from_numpy(STRATA))
    np.testing.assert_allclose(found, fit.response(TREATMENT, STRATA), rtol=1e-12)


@pytest.mark.parametrize("levels", [(), (1,)])
def test_needs_no_covariates(levels):
    fit = make_fit(0, levels)
    strata = np.zeros((4, len(levels)), int)
    found = make_baseline(fit, levels)(torch.from_numpy(TREATMENT), torch.from_numpy(strata))
    np.testing.assert_allclose(found, fit.level(strata) + TREATMENT @ fit.shift, rtol=1e-12)


@pytest.mark.parametrize("before", [None, 0, 1])
@pytest.mark.parametrize("saved", [None, 0, 1])
def test_state_is_saved_and_loaded_whatever_the_fit(before, saved):
    """Deviations of any number of levels are taken, and replace those of another."""
    baseline, other = (make_baseline(make_fit(2, deviating=covariate)) for covariate in (saved, before))
    assert other.load_state_dict(baseline.state_dict())
    treatment, levels = torch.from_numpy(TREATMENT), torch.from_numpy(STRATA)
    assert torch.equal(other(treatment, levels), baseline(treatment, levels))
    assert torch.equal(other.heterogeneity, baseline.heterogeneity)
    assert set(other.state_dict()) == set(baseline.state_dict())
    assert torch.equal(other.deviation_covariate, baseline.deviation_covariate)


def test_state_of_other_genes_is_refused():
    state = make_baseline(make_fit(2, deviating=0)).state_dict()
    state["deviation"] = state["deviation"][:, :, 1:]
    with pytest.raises(RuntimeError, match="size mismatch for deviation"):
        make_baseline(make_fit(2)).load_state_dict(state)


def test_is_not_trained():
    assert list(make_baseline(make_fit(2)).parameters()) == []


def test_gradient_reaches_the_doses():
    baseline, levels = make_baseline(make_fit(2, deviating=1)), torch.from_numpy(STRATA)
    doses = torch.from_numpy(np.random.default_rng(1).uniform(0.2, 1, TREATMENT.shape)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: baseline(t, levels), (doses,))


@pytest.mark.parametrize("rows", [[0], [0, 0, 0], [1, 0], [0, 1, 0, 0, 2, 0]])
def test_batches_of_control_cells(rows):
    """No perturbation to look up, wherever in the batch."""
    fit = make_fit(2, deviating=0)
    found = make_baseline(fit)(torch.from_numpy(TREATMENT[rows]), torch.from_numpy(STRATA[rows]))
    np.testing.assert_allclose(found, fit.level(STRATA[rows]) + fit.response(TREATMENT[rows], STRATA[rows]), rtol=1e-12)
