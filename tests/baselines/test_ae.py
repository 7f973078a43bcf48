"""The autoencoder reconstructs cells and keeps what is individual to them."""

from __future__ import annotations

import numpy as np

from scgraphvci.baselines import AE


def test_reconstructs_cells_and_keeps_them_apart(fit, learnable, scores):
    model = fit(AE, learnable.copy(), 40)
    found = scores(model)
    assert found["individuality"] > 0.5
    assert found["shift"] > 0.2  # no change has 0
    obs, values = learnable.obs, learnable.X.toarray()
    treatment = obs["perturbation"].cat.categories[1]
    index = np.flatnonzero((obs["perturbation"] == treatment) & (obs["split"] == "train"))
    predicted = model.predict(treatment, indices=index).X
    residual = ((predicted - values[index]) ** 2).sum() / ((values[index] - values[index].mean(axis=0)) ** 2).sum()
    assert residual < 0.9


def test_is_deterministic(fit, learnable):
    model = fit(AE, learnable[:300].copy())
    drawn = model.get_latent_representation(give_mean=False)
    np.testing.assert_array_equal(drawn, model.get_latent_representation())
