"""Calibration of a model: which cells are compared, and with what."""

from __future__ import annotations

import numpy as np
import pytest

from scgraphvci.model._calibration import _guide_arms, _random_halves


def test_halves_are_balanced_in_every_group():
    group = np.repeat(np.arange(6), [4, 7, 1, 10, 3, 5])
    arms = _random_halves(group, 3, seed=0)
    assert list(arms) == ["split 1", "split 2", "split 3"]
    for in_arm in arms.values():
        share = np.bincount(group, weights=in_arm) - np.bincount(group) / 2
        assert np.abs(share).max() <= 0.5
    assert not np.array_equal(arms["split 1"], arms["split 2"])
    for name, again in _random_halves(group, 3, seed=0).items():
        np.testing.assert_array_equal(again, arms[name])
    with pytest.raises(ValueError, match="`n_splits` is 0"):
        _random_halves(group, 0, seed=0)


def test_guides_are_compared_with_all_others():
    guide = np.array(["nt1", "nt2", "nt1", "nt3"])
    arms = _guide_arms(guide, ["nt3", "nt1"])
    assert {name: arm.tolist() for name, arm in arms.items()} == {
        "nt3": [False, False, False, True],
        "nt1": [True, False, True, False],
    }
    assert list(_guide_arms(guide, None)) == ["nt1", "nt2", "nt3"]
    with pytest.raises(ValueError, match=r"no cell has \['nt4'\]"):
        _guide_arms(guide, ["nt4"])
    with pytest.raises(ValueError, match="at least two"):
        _guide_arms(guide[:1], None)


def test_guides_of_control_cells(fit, new_screen):
    """Observed differences are those of the cells of each guide; a shift of one guide's cells shows in both rows."""
    adata = new_screen(n_cells=400, n_perturbations=2, n_donors=1)
    rng = np.random.default_rng(0)
    adata.obs["guide"] = np.where(rng.random(adata.n_obs) < 0.5, "nt1", "nt2")
    model = fit(adata, categorical_covariate_keys=["cell_type"])
    calibration = model.calibration(guide_key="guide", min_cells=5)
    assert calibration.observed.treatments.tolist() == ["nt1", "nt2"]
    used = (adata.obs["perturbation"] == "control") & (adata.obs["split"] != "ood")
    dense = adata.X.toarray()
    for j, cell_type in enumerate(calibration.observed.strata["cell_type"]):
        member = used & (adata.obs["cell_type"] == cell_type)
        means = [dense[(member & (adata.obs["guide"] == guide)).to_numpy()].mean(axis=0) for guide in ("nt1", "nt2")]
        np.testing.assert_allclose(calibration.observed.estimate[0, j], means[0] - means[1], atol=1e-5)
        np.testing.assert_allclose(calibration.observed.estimate[1, j], means[1] - means[0], atol=1e-5)
        assert calibration.observed.n_stratum[0, j] == member.sum()
    # Both arms have the same prediction, so its mean over the stratum drops out of the robust contrast.
    np.testing.assert_allclose(calibration.robust.plugin, 0.0, atol=1e-12)

    halves = model.calibration(groupby=[], n_splits=3, min_cells=5)
    assert halves.robust.p_value.shape == (3, 1, adata.n_vars)
    assert np.median(halves.summary()["inflation"]) == pytest.approx(1.0, abs=0.6)
    with pytest.raises(KeyError, match="no_column"):
        model.calibration(guide_key="no_column")


def test_the_guard_of_effects_is_judged(fit, new_screen):
    """Robust less observed is the guarded correction of both arms, with the variance between arms of the screen."""
    adata = new_screen(n_cells=500, n_perturbations=2, n_donors=1, seed=1)
    adata.obs["guide"] = np.where(np.random.default_rng(0).random(adata.n_obs) < 0.3, "nt1", "nt2")
    model = fit(adata, categorical_covariate_keys=["cell_type"])
    guarded, published = (model.calibration(guide_key="guide", leak_guard=guard) for guard in (True, False))
    tau = guarded.robust.params["arm_variance"]
    assert tau == model.marginal_effect().params["arm_variance"] > 0 == published.robust.params["arm_variance"]
    np.testing.assert_array_equal(guarded.observed.estimate, published.observed.estimate)
    used = (adata.obs["perturbation"] == "control") & (adata.obs["split"] != "ood")
    predicted = model.predict("control", source="all").X
    for j, cell_type in enumerate(guarded.robust.strata["cell_type"]):
        member = (used & (adata.obs["cell_type"] == cell_type)).to_numpy()
        for calibration, variance in ((guarded, tau), (published, 0.0)):
            correction = []
            for guide in ("nt1", "nt2"):
                arm = member & (adata.obs["guide"] == guide).to_numpy()
                by_chance = 1 / arm.sum() - 1 / member.sum()
                own, other = arm.sum() / member.sum(), 1 - arm.sum() / member.sum()
                share = by_chance / (by_chance + variance * ((1 - own) ** 2 + other**2))
                correction.append(share * (predicted[member].mean(axis=0) - predicted[arm].mean(axis=0)))
            found = (calibration.robust.robust - calibration.observed.observed)[0, j]
            np.testing.assert_allclose(found, correction[0] - correction[1], atol=1e-5)
