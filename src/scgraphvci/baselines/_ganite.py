"""GANITE: counterfactuals that a discriminator cannot tell from the factual outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scvi.module.base import auto_move_data
from torch import nn

from scgraphvci.baselines._deep_model import DeepBaseline
from scgraphvci.baselines._deep_module import ConditionalAutoencoder, Screen, mlp
from scgraphvci.baselines._deep_plan import AlternatingPlan

if TYPE_CHECKING:
    from torch import Tensor

    from scgraphvci.data import StratumMoments


class GANITEModule(ConditionalAutoencoder):
    """Generator G(y, t, x)(t') and the discriminator of factual and generated outcomes.

    Parameters
    ----------
    screen
        Sizes and tables.
    n_hidden
        Width of the hidden layers.
    adversarial_weight
        Weight of the adversarial term beside the supervised loss per gene.
    gradient_penalty
        Weight of the squared gradient of the discriminator's score with respect to the standardised outcome.
    **kwargs
        Passed to :class:`ConditionalAutoencoder`.
    """

    def __init__(
        self,
        screen: Screen,
        n_hidden: int = 128,
        adversarial_weight: float = 0.3,
        gradient_penalty: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(screen, n_hidden=n_hidden, **kwargs)
        self.adversarial_weight = adversarial_weight
        self.gradient_penalty = gradient_penalty
        # Pairs of stratum and treatment with training cells; elsewhere the pair alone would tell the discriminator.
        self.register_buffer("observed", torch.ones(len(screen.strata), len(screen.design), dtype=torch.bool))
        n_covariates = sum(screen.n_levels) + screen.n_continuous
        self.adversary = nn.Sequential(
            mlp(screen.n_genes + screen.design.shape[1] + n_covariates, n_hidden, 2), nn.Linear(n_hidden, 1)
        )

    @torch.no_grad()
    def initialise(self, moments: StratumMoments) -> None:
        """Start from mean and scale of the training cells, and note which pairs were observed."""
        super().initialise(moments)
        self.observed.copy_(torch.as_tensor(moments.row >= 0))

    @auto_move_data
    def generative(self, cells: dict[str, Any], latent: Tensor) -> dict[str, Any]:
        """Generate outcomes under the cells' own treatment and under one drawn from those of the minibatch."""
        outputs = super().generative(cells, latent)
        order = torch.randperm(latent.shape[0], device=latent.device)
        treatment = cells["treatment"][order]
        outputs["treatment"] = treatment
        outputs["counterfactual"] = self.decode(latent, treatment, cells["levels"])[0]
        drawn = cells["condition"][order]
        outputs["counts"] = ((drawn != cells["condition"]) & self.observed[cells["stratum"], drawn]).to(latent.dtype)
        return outputs

    def adversarial_term(
        self, cells: dict[str, Any], inference_outputs: dict[str, Any], generative_outputs: dict[str, Any]
    ) -> Tensor:
        """Return -log of the probability that the counterfactual is taken for the factual outcome, weighted."""
        factual = self._score(cells, cells["treatment"], generative_outputs["px"].mean.detach())
        other = self._score(cells, generative_outputs["treatment"], generative_outputs["counterfactual"])
        return self.adversarial_weight * _mean(nn.functional.softplus(factual - other), generative_outputs["counts"])

    def adversary_loss(
        self, cells: dict[str, Any], inference_outputs: dict[str, Any], generative_outputs: dict[str, Any]
    ) -> Tensor:
        """Return -log of the probability that the factual outcome is recognised, and the gradient penalty."""
        outcome = generative_outputs["px"].mean.detach().requires_grad_()
        factual = self._score(cells, cells["treatment"], outcome)
        other = self._score(cells, generative_outputs["treatment"], generative_outputs["counterfactual"].detach())
        (gradient,) = torch.autograd.grad(factual.sum(), outcome, create_graph=True)
        slope = (gradient * self.log_scale.detach().exp()).square().sum(dim=1).mean()
        loss = _mean(nn.functional.softplus(other - factual), generative_outputs["counts"])
        return loss + self.gradient_penalty * slope

    def _score(self, cells: dict[str, Any], treatment: Tensor, outcome: Tensor) -> Tensor:
        """Discriminator's log-odds, up to a constant of the cell, that an outcome is factual, shape ``(n_cells,)``."""
        value = (outcome - self.input_mean) / self.log_scale.detach().exp()
        levels = [
            nn.functional.one_hot(cells["levels"][:, j], n).to(outcome.dtype)
            for j, n in enumerate(self.screen.n_levels)
        ]
        continuous = [] if cells["continuous"] is None else [cells["continuous"]]
        return self.adversary(torch.cat([value, treatment, *levels, *continuous], dim=1)).squeeze(1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the cells of a mask; 0 without any."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


class GANITE(DeepBaseline):
    r"""Counterfactual generator of GANITE (Yoon, Jordon & van der Schaar, ICLR 2018).

    A generator takes a cell's outcome y, treatment t and covariates x to its outcomes under all treatments. A
    discriminator sees outcomes of a cell of which one was observed, and guesses which. The generator learns to
    reproduce the observed outcome (the supervised loss) and to leave the discriminator guessing.

    Adapted to screens: the outcome is a vector of genes, and instead of one head per treatment the generator's second
    half reads an embedding of the treatment asked for. Of a cell's many counterfactuals one is shown per step, under a
    treatment drawn from the minibatch: with s(x, t, y) the discriminator's score, the probability that y is the factual
    one of the pair is :math:`\sigma(s(x, t, y) - s(x, t', y'))`, the softmax over outcomes that the publication has,
    restricted to two. As y it is shown what the generator makes of the observed outcome, for the noise and the exact
    zeros of single cells would give any observed outcome away; its gradient is penalised; and pairs of stratum and
    treatment without training cells are left out of the game, for the discriminator has no positive example there.
    Without these the generator diverges. The publication's second generator, of outcomes from x alone, is for units
    without an outcome and is left out; there is no noise input, as in the authors' code.

    Parameters
    ----------
    adata
        AnnData or MuData registered with :meth:`setup_anndata` or :meth:`setup_mudata`.
    registry
        Registry of an earlier set-up, to build a model without data.
    **module_kwargs
        `adversarial_weight` (0.3), `gradient_penalty` (10), `n_latent` (32), `n_hidden` (128), `n_layers` (2),
        `n_treatment_embedding` (32), `n_covariate_embedding` (16), `dropout_rate` (0).

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci.baselines import GANITE
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=4, seed=0)
    >>> GANITE.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> model = GANITE(adata, n_latent=8)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> model.predict(adata.obs["perturbation"].cat.categories[1], indices=[0, 1]).shape
    (2, 40)
    """

    _module_cls = GANITEModule
    _training_plan_cls = AlternatingPlan
