"""Moments of latents within arms, from batches."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scgraphvci.estimate._arm_moments import ArmMoments


def test_batches_give_the_moments_of_all_cells():
    rng = np.random.default_rng(0)
    stratum, condition = rng.integers(3, size=200), rng.integers(4, size=200)
    mixing = np.diag([2.0, 1.0, 1e-4])  # the last direction holds nothing
    latent = rng.normal(size=(200, 3)) @ mixing + 1e3 + 5 * stratum[:, None]
    arms = ArmMoments(stratum, condition)
    for cells in (slice(0, 90), np.arange(90, 200)):
        member, centred = arms.update(latent[cells], cells)
        np.testing.assert_array_equal(member.toarray().argmax(axis=0), arms.of_cell[cells])
        np.testing.assert_allclose(centred, latent[cells] - latent[0])
    of_arm = pd.DataFrame(latent - latent[0]).groupby([stratum, condition])
    np.testing.assert_allclose(arms.mean, of_arm.mean(), rtol=1e-9, atol=1e-9)
    assert list(zip(arms.stratum, arms.condition, strict=True)) == list(of_arm.groups)
    assert arms.n_within == 200 - of_arm.ngroups
    directions = arms.unit_directions()
    residual = (latent - latent[0] - arms.mean[arms.of_cell]) @ directions
    np.testing.assert_allclose(residual.T @ residual / arms.n_within, np.eye(2), atol=1e-8)


def test_arms_without_cells_yet_have_no_moments():
    arms = ArmMoments([0, 0, 1, 1], [0, 0, 0, 0])
    arms.update([[1.0], [3.0]], np.array([2, 3]))
    np.testing.assert_array_equal(arms.count, [0, 2])
    np.testing.assert_array_equal(arms.mean, [[0.0], [1.0]])
    assert arms.n_within == 1
