"""CEVAE: a variational autoencoder whose latent stands for the unobserved confounder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from scgraphvci.baselines._deep_model import DeepBaseline
from scgraphvci.baselines._deep_module import ConditionalAutoencoder, LatentClassifier, Point, Screen
from scgraphvci.module._networks import INITIAL_SCALE_BIAS, MIN_LATENT_SCALE

if TYPE_CHECKING:
    from torch import Tensor


class CEVAEModule(ConditionalAutoencoder):
    """Inference network q(z | y, t, x), model p(z) p(x | z) p(t | z) p(y | t, z).

    Parameters
    ----------
    screen
        Sizes and tables.
    n_latent, n_hidden
        Latents; width of the hidden layers.
    **kwargs
        Passed to :class:`ConditionalAutoencoder`.
    """

    def __init__(self, screen: Screen, n_latent: int = 32, n_hidden: int = 128, **kwargs: Any) -> None:
        super().__init__(screen, n_latent=n_latent, n_hidden=n_hidden, **kwargs)
        self.latent_scale = nn.Linear(n_hidden, n_latent)
        nn.init.constant_(self.latent_scale.bias, INITIAL_SCALE_BIAS)
        self.proxies = LatentClassifier(screen, n_latent, n_hidden)

    def encode(
        self, outcome: Tensor, treatment: Tensor, levels: Tensor, continuous: Tensor | None, genes: None = None
    ) -> Normal | Point:
        """Return q(z | y, t, x)."""
        hidden = self.hidden(outcome, treatment, levels, continuous)
        scale = nn.functional.softplus(self.latent_scale(hidden)) + MIN_LATENT_SCALE
        return Normal(self.latent(hidden), scale, validate_args=False)

    def penalties(
        self, cells: dict[str, Any], inference_outputs: dict[str, Any], generative_outputs: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return the other terms of the bound, -log p(t | z), -log p(x | z) and KL[q(z) || p(z)], per gene."""
        qz = inference_outputs["qz"]
        treatment, covariates = self.proxies(inference_outputs["latent"], cells)
        prior = Normal(torch.zeros_like(qz.mean), torch.ones_like(qz.mean), validate_args=False)
        terms = {
            "treatment_loss": treatment,
            "covariate_loss": covariates,
            "divergence": kl_divergence(qz, prior).sum(dim=1),
        }
        return {name: value.mean() / self.screen.n_genes for name, value in terms.items()}


class CEVAE(DeepBaseline):
    r"""Causal effect variational autoencoder (Louizos et al., NeurIPS 2017, arXiv 1705.08821).

    The latent stands for a confounder of which covariates and treatment are noisy signs. Training maximises

    .. math:: \log p(y \mid t, z) + \log p(t \mid z) + \log p(x \mid z) + \log p(z) - \log q(z \mid y, t, x),

    z drawn from q, here divided by the number of genes. The counterfactual of a cell is p(y | t', z) at the mean of its
    q(z | y, t, x).

    Adapted to screens: the outcome is a vector of genes; instead of one head per treatment, decoder and inference
    network read an embedding of the treatment, and p(t | z) is categorical over the observed treatments. The networks
    q(t | x) and q(y | x, t), which the publication needs for units whose outcome is unknown, are left out: here every
    prediction starts from a cell whose outcome is known.

    Parameters
    ----------
    adata
        AnnData or MuData registered with :meth:`setup_anndata` or :meth:`setup_mudata`.
    registry
        Registry of an earlier set-up, to build a model without data.
    **module_kwargs
        `n_latent` (32), `n_hidden` (128), `n_layers` (2), `n_treatment_embedding` (32), `n_covariate_embedding` (16),
        `dropout_rate` (0).

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci.baselines import CEVAE
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=4, seed=0)
    >>> CEVAE.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> model = CEVAE(adata, n_latent=8)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> model.predict(adata.obs["perturbation"].cat.categories[1], indices=[0, 1]).shape
    (2, 40)
    """

    _module_cls = CEVAEModule
