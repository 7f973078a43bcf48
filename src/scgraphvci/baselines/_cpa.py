"""CPA: a basal state from which treatment and covariates cannot be told, plus an embedding of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scgraphvci.baselines._deep_model import DeepBaseline
from scgraphvci.baselines._deep_module import LatentClassifier, OutcomeModule, Point, Screen, mlp
from scgraphvci.baselines._deep_plan import AlternatingPlan

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributions import Normal

    from scgraphvci.data import StratumMoments


class CPAModule(OutcomeModule):
    """Encoder of expression to the basal state, decoder of the sum of basal state and embeddings, adversary.

    Parameters
    ----------
    screen
        Sizes and tables.
    n_latent, n_hidden, n_layers
        Latents; width and number of hidden layers of encoder, decoder and adversary.
    dropout_rate
        In encoder and decoder.
    adversarial_weight
        Weight of the adversary's cross-entropy, which the encoder maximises, beside the reconstruction loss per gene.
    gradient_penalty
        Weight of the squared gradient of the adversary with respect to the basal state.
    """

    def __init__(
        self,
        screen: Screen,
        n_latent: int = 32,
        n_hidden: int = 128,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        adversarial_weight: float = 1.0,
        gradient_penalty: float = 3.0,
    ) -> None:
        super().__init__(screen)
        n_perturbations = screen.design.shape[1]
        self.adversarial_weight = adversarial_weight
        self.gradient_penalty = gradient_penalty
        self.encoder = mlp(screen.n_genes + screen.n_continuous, n_hidden, n_layers, dropout_rate)
        self.latent = nn.Linear(n_hidden, n_latent)
        self.treatment_embedding = nn.Linear(n_perturbations, n_latent, bias=False)
        self.dose_slope = nn.Parameter(torch.ones(n_perturbations))
        self.dose_offset = nn.Parameter(torch.zeros(n_perturbations))
        self.level_embeddings = nn.ModuleList([nn.Embedding(n, n_latent) for n in screen.n_levels])
        self.decoder = mlp(n_latent, n_hidden, n_layers, dropout_rate)
        self.head = nn.Linear(n_hidden, screen.n_genes)
        self.adversary = LatentClassifier(screen._replace(n_continuous=0), n_latent, n_hidden, n_layers)

    @torch.no_grad()
    def initialise(self, moments: StratumMoments) -> None:
        """Start from mean and scale of the training cells."""
        super().initialise(moments)
        self.head.bias.copy_(self.input_mean)

    def encode(
        self, outcome: Tensor, treatment: Tensor, levels: Tensor, continuous: Tensor | None, genes: None = None
    ) -> Normal | Point:
        """Return the basal state; treatment and categorical covariates are not read."""
        parts = [outcome - self.input_mean] if continuous is None else [outcome - self.input_mean, continuous]
        return Point(self.latent(self.encoder(torch.cat(parts, dim=1))))

    def decode(self, latent: Tensor, treatment: Tensor, levels: Tensor, genes: None = None) -> list[Tensor]:
        """Return the mean outcome, shape ``(n_cells, n_genes)``."""
        total = latent + self.treatment_embedding(self.dose_response(treatment))
        for j, embedding in enumerate(self.level_embeddings):
            total = total + embedding(levels[:, j])
        return [self.head(self.decoder(total))]

    def dose_response(self, treatment: Tensor) -> Tensor:
        """Return the strength of each perturbation at its dose, 0 at dose 0, shape ``(n_cells, n_perturbations)``."""
        response = torch.sigmoid(self.dose_slope * treatment + self.dose_offset)
        return response - torch.sigmoid(self.dose_offset)

    def adversarial_term(
        self, cells: dict[str, Any], inference_outputs: dict[str, Any], generative_outputs: dict[str, Any]
    ) -> Tensor:
        """Return minus the adversary's cross-entropy, weighted."""
        treatment, covariates = self.adversary(inference_outputs["latent"], cells)
        return -self.adversarial_weight * (treatment + covariates).mean()

    def adversary_loss(
        self, cells: dict[str, Any], inference_outputs: dict[str, Any], generative_outputs: dict[str, Any]
    ) -> Tensor:
        """Return the adversary's cross-entropy and its gradient penalty."""
        latent = inference_outputs["latent"].detach().requires_grad_()
        loss = sum(self.adversary(latent, cells)).mean()
        (gradient,) = torch.autograd.grad(loss * len(latent), latent, create_graph=True)
        return loss + self.gradient_penalty * gradient.square().sum(dim=1).mean()


class CPA(DeepBaseline):
    r"""Compositional perturbation autoencoder (Lotfollahi et al., Mol Syst Biol 19:e11517, 2023).

    The encoder takes expression to a basal state z; classifiers that try to tell treatment and covariates from z are
    trained in turn with it, and it learns to defeat them. The decoder reads
    :math:`z + \sum_j f_j(d_j) v_j + \sum_k c_k`: embeddings of the perturbations, scaled by a response to their dose
    (:math:`f(d) = \sigma(a d + b) - \sigma(b)`), and of the covariates. The counterfactual swaps the perturbations.

    The adversary's gradient with respect to z is penalised, as in the publication; every observed treatment is one of
    its classes. Continuous covariates, which the publication has not, are read by the encoder and stay with the basal
    state. The basal state is what :meth:`get_latent_representation` returns.

    Parameters
    ----------
    adata
        AnnData or MuData registered with :meth:`setup_anndata` or :meth:`setup_mudata`.
    registry
        Registry of an earlier set-up, to build a model without data.
    **module_kwargs
        `adversarial_weight` (1), `gradient_penalty` (3), `n_latent` (32), `n_hidden` (128), `n_layers` (2),
        `dropout_rate` (0).

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci.baselines import CPA
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=4, seed=0)
    >>> CPA.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> model = CPA(adata, n_latent=8)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> model.predict(adata.obs["perturbation"].cat.categories[1], indices=[0, 1]).shape
    (2, 40)
    """

    _module_cls = CPAModule
    _training_plan_cls = AlternatingPlan
    _plan_kwargs = {"adversary_lr": 1e-2}  # the encoder outruns a slower adversary, and treatment stays readable
