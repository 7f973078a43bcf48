"""What a trained model computes in float32 lies within stated bounds of the same in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.distributions import normal

from scgraphvci.train import CounterfactualPlan

BOUNDS = {"loss": 2e-5, "gradient": 2e-3, "mean": 2e-5}  # relative


def numbers(model, dtype, monkeypatch):
    """Loss, its terms, gradient and counterfactual means of all cells, from one noise and one draw of treatments."""
    module = copy.deepcopy(model.module).to(dtype).train()
    module.dropout_rate = 0.0
    tensors = model.adata_manager.create_torch_dataset()[list(range(model.adata.n_obs))]
    batch = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in tensors.items()}
    moments = model._moments(model._registered_cells(), model.train_indices, float(model.module.library_size))
    plan = CounterfactualPlan(copy.deepcopy(model.module), moments=moments)
    torch.manual_seed(0)
    plan._draw(batch)
    batch = {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}

    def noise(shape, dtype, device):
        values = np.random.default_rng(0).normal(size=tuple(shape)).astype(np.float32)
        return torch.from_numpy(values).to(dtype)

    monkeypatch.setattr(normal, "_standard_normal", noise)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    _, generated, output = module(batch)
    output.loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    return {
        "loss": torch.stack([output.loss, output.reconstruction_loss_sum, output.kl_local_sum]),
        "gradient": gradient,
        "mean": module.mean(generated["counterfactual_parameters"]),
    }


@pytest.mark.parametrize(
    ("setup", "options"),
    [
        ({}, {}),
        ({}, {"decoder": "attention"}),
        ({"layer": "counts"}, {"likelihood": "nb"}),
        ({"layer": "counts"}, {"likelihood": "zinb"}),
    ],
    ids=["default", "attention", "nb", "zinb"],
)
def test_float32_against_float64(new_screen, fit, monkeypatch, setup, options):
    model = fit(new_screen(), setup=setup, **options)
    single, double = (numbers(model, dtype, monkeypatch) for dtype in (torch.float32, torch.float64))
    for name, bound in BOUNDS.items():
        assert double[name].dtype == torch.float64
        error = (single[name].double() - double[name]).norm() / double[name].norm()
        assert 0 < error < bound, name
