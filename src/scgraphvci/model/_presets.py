"""Settings of network, objective and training, by preset."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Preset = Literal["default", "paper"]


class Settings(NamedTuple):
    """What a preset decides.

    Attributes
    ----------
    module
        Arguments of :class:`~scgraphvci.module.GraphVCIModule`.
    plan
        Arguments of the training plan.
    batch_size
        Cells per step.
    """

    module: dict[str, Any]
    plan: dict[str, Any]
    batch_size: int


# The paper's network, objective and optimiser (its appendix E.3 and the authors' single-cell runs). Its schedule is not
# part of the preset: up to 1,000 epochs, a learning rate that decays each 45 evaluations, and early stopping on the
# validation R2 with patience 20, for which `train` has arguments. Its weights are w1 = 50 and w2 = 0.1
# with likelihoods averaged over genes and the divergence summed over latents; ours is per gene, so the divergence
# weight is multiplied by the number of genes when the model is built.
PAPER_DIVERGENCE_WEIGHT = 0.1
PAPER_N_SAMPLES = {"graph": 3, "none": 30}  # latent samples, with and without a network

PRESETS: dict[Preset, Settings] = {
    "default": Settings(
        module={"decoder": "dot", "distribution_loss": "kernel"},
        plan={},
        batch_size=128,
    ),
    "paper": Settings(
        module={
            "decoder": "attention",
            "distribution_loss": "kernel",
            "distribution_target": "cell",
            "kernel_bandwidth": 1.0,
            "dispersion": "gene-cell",
            "n_latent": 128,
            "n_hidden": 128,
            "n_outcome_embedding": 256,
            "n_layers": 3,
            "n_treatment_embedding": 64,
            "n_covariate_embedding": 16,
            "n_graph_hidden": 128,
            "n_graph_layers": 1,
            "baseline": False,
            "residual_input": False,
            "covariate_weight": 50.0,
        },
        plan={
            "lr": 3e-4,
            "lr_schedule": "constant",
            "weight_decay": 4e-7,
            "draw_control": False,
            "frozen_encoder": True,
        },
        batch_size=64,
    ),
}
