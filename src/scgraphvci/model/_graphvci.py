"""The user's model: set-up, construction and training of graphVCI."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin

from scgraphvci._constants import KEYS
from scgraphvci._warn import warn
from scgraphvci.data._fields import stratum_levels
from scgraphvci.model._checks import check_options, check_outcome
from scgraphvci.model._effects import EffectsMixin
from scgraphvci.model._predict import PredictionMixin
from scgraphvci.model._presets import PAPER_DIVERGENCE_WEIGHT, PAPER_N_SAMPLES, PRESETS, Preset
from scgraphvci.model._saving import SafeSavingMixin
from scgraphvci.model._setup import ScreenSetupMixin
from scgraphvci.model._statistics import StatisticsMixin
from scgraphvci.model._summary import SummaryMixin
from scgraphvci.module import GraphVCIModule
from scgraphvci.module._baseline import Propagation
from scgraphvci.module._likelihood import Likelihood
from scgraphvci.module._objective import DistributionLoss
from scgraphvci.train import AdversarialPlan, CounterfactualPlan, SplitByColumn
from scgraphvci.train._schedule import default_epochs, set_validation
from scgraphvci.train._splitter import split_indices

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

logger = logging.getLogger(__name__)


class GraphVCI(
    SafeSavingMixin,
    SummaryMixin,
    PredictionMixin,
    EffectsMixin,
    StatisticsMixin,
    ScreenSetupMixin,
    UnsupervisedTrainingMixin,
    BaseModelClass,
):
    """Graph variational causal inference: what a cell would express under another perturbation.

    Implements Wu et al., "Predicting Cellular Responses with Variational Causal Inference and Refined Relational
    Information", ICLR 2023.

    Parameters
    ----------
    adata
        AnnData or MuData registered with :meth:`setup_anndata` or :meth:`setup_mudata`.
    registry
        Registry of an earlier set-up, to build a model without data.
    likelihood
        "normal" for log-normalised expression, "nb" or "zinb" for counts.
    decoder
        "dot" (key-independent attention, the default) or "attention" (key-dependent, the paper's main setting).
        Without a network the decoder is linear and this has no effect.
    distribution_loss
        How the counterfactual is pulled to the cells of its stratum that received the treatment: "kernel" (the
        default), "gaussian", "mmd" (maximum mean discrepancy of whole distributions), or "adversarial" for strata too
        rich to tabulate.
    preset
        "default", or "paper" for the network, objective and optimiser of the publication.
    propagation
        What tells where a cell type's or donor's response to a treatment deviates from the pooled one, before training
        starts: "coexpression" of its training cells (the default), their coexpression along the registered network
        ("graph"), or nothing ("none"). Without a baseline, as in the preset "paper", this has no effect.
    **module_kwargs
        Any other argument of :class:`scgraphvci.module.GraphVCIModule`, such as `n_latent`, `n_hidden`,
        `covariate_weight` or `divergence_weight`. They win over the preset.

    Raises
    ------
    ValueError
        If an option is unknown, expression does not suit the likelihood, or `propagation` is "graph" and no network is
        registered.

    Notes
    -----
    The network's edges, gene features, treatments and strata are read from the registry, so that a model can be built
    and loaded without data.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key="grn")
    >>> model = sgv.GraphVCI(adata)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> treatment = adata.obs["perturbation"].cat.categories[1]
    >>> model.predict(treatment).obs["counterfactual_treatment"].unique().tolist() == [treatment]
    True
    """

    _module_cls = GraphVCIModule
    _last_training: dict[str, Any] | None = None  # in this session; the models of folds are trained alike
    _data_splitter_cls = SplitByColumn
    _training_plan_cls = CounterfactualPlan

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict | None = None,
        likelihood: Likelihood = "normal",
        decoder: Literal["attention", "dot"] | None = None,
        distribution_loss: DistributionLoss | None = None,
        preset: Preset = "default",
        propagation: Propagation = "coexpression",
        **module_kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        check_options(preset=preset)
        chosen = {"decoder": decoder, "distribution_loss": distribution_loss}
        settings = {
            **PRESETS[preset].module,
            **{key: value for key, value in chosen.items() if value is not None},
            **module_kwargs,
        }
        check_options(likelihood=likelihood, propagation=propagation, **settings)
        check_outcome(self.get_state_registry(KEYS.OUTCOME), likelihood)
        n_genes = self.summary_stats["n_vars"]
        strata = self.get_state_registry(KEYS.STRATUM)
        graph = self.get_state_registry(KEYS.GRAPH)
        if preset == "paper":
            settings.setdefault("divergence_weight", PAPER_DIVERGENCE_WEIGHT * n_genes)
            settings.setdefault("n_samples", PAPER_N_SAMPLES["graph" if graph else "none"])
        table = self.treatments
        self.module = self._module_cls(
            n_genes=n_genes,
            design=table.design,
            strata=np.asarray(strata["strata"]),
            n_levels=[len(levels) for levels in stratum_levels(strata).values()],
            n_continuous=self.summary_stats.get("n_continuous_covariates", 0),
            edge_index=np.asarray(graph["edge_index"]) if graph else None,
            edge_weight=np.asarray(graph["edge_weight"]) if graph else None,
            gene_features=graph["features"] if graph else None,
            likelihood=likelihood,
            propagation=propagation,
            **settings,
        )
        if self.module.distribution_loss == "adversarial":
            self._training_plan_cls = AdversarialPlan
        self._preset = PRESETS[preset]
        network = f"{self.summary_stats.get('n_grn_edges', 0)} edges" if graph else "none (VCI)"
        self._model_summary_string = (
            f"GraphVCI with likelihood: {likelihood}, decoder: {settings['decoder'] if graph else 'linear'}, "
            f"distribution loss: {settings['distribution_loss']}, network: {network}, genes: {n_genes}, "
            f"perturbations: {len(table.perturbations)}, strata: {len(strata['strata'])}."
        )
        self.init_params_ = self._get_init_params(locals())

    def get_graph(self) -> pd.DataFrame:
        """Return the network the model uses.

        Returns
        -------
        Columns `source` (regulator), `target` and `weight`; no rows for a model without a network.
        """
        graph = self.get_state_registry(KEYS.GRAPH)
        names = np.asarray(self.get_state_registry(KEYS.OUTCOME)["column_names"], dtype=object)
        edges = np.asarray(graph["edge_index"]) if graph else np.empty((2, 0), dtype=int)
        weight = np.asarray(graph["edge_weight"]) if graph else np.empty(0, dtype=np.float32)
        return pd.DataFrame({"source": names[edges[0]], "target": names[edges[1]], "weight": weight})

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int | None = None,
        early_stopping: bool = False,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Passes over the training cells. None: as many as make about 4,000 steps, between 20 and 200.
        accelerator, devices
            As in Lightning; "auto" takes a GPU where there is one.
        train_size, validation_size, shuffle_set_split
            For set-ups without `split_key`: the random split, 4 : 1 by default.
        batch_size
            Cells per step; the preset's if None.
        early_stopping
            Stop when the loss on validation ("test") cells no longer falls.
        datasplitter_kwargs
            Passed to the data splitter, such as `external_indexing`.
        plan_kwargs
            Passed to the training plan, such as `lr` or `weight_decay`.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`: loggers, callbacks, `enable_checkpointing`, `precision` and so on.

        Raises
        ------
        FloatingPointError
            If the loss becomes NaN or infinite. The model keeps the weights of the last full epoch.
        ValueError
            If the split cannot be made.

        Notes
        -----
        `model.history` holds, by epoch, the loss, its three terms, the learning rate, and on validation cells
        `r2_validation` and `pearson_shift_validation`: accuracy of predicted stratum means under treatments the cells
        did not receive. Validation runs about twenty times, unless `check_val_every_n_epoch` says otherwise. The model
        ends with the weights of the lowest validation loss, unless ``plan_kwargs={"keep_best": False}``.
        """
        self._last_training = {
            "max_epochs": max_epochs,
            "accelerator": accelerator,
            "devices": devices,
            "batch_size": batch_size,
            "early_stopping": early_stopping,
            "plan_kwargs": plan_kwargs,
            "enable_progress_bar": trainer_kwargs.get("enable_progress_bar", True),
        }
        self.adata_manager.validate()
        splitter_kwargs = dict(datasplitter_kwargs or {})
        if "external_indexing" not in splitter_kwargs:
            splitter_kwargs["external_indexing"] = split_indices(
                self.adata_manager, train_size, validation_size, shuffle_set_split
            )
        train, validation = splitter_kwargs["external_indexing"][:2]
        batch_size = batch_size or self._preset.batch_size
        if max_epochs is None:
            max_epochs = default_epochs(len(train), batch_size)
        set_validation(trainer_kwargs, max_epochs, len(validation), early_stopping=early_stopping)
        # A model that goes on training keeps its scale, whatever the data it goes on with.
        registered = self._registered_cells()
        moments = self._moments(registered, train, float(self.module.library_size) if self.is_trained_ else None)
        if not self.is_trained_:
            fit = self.module.initialise(moments, self._residuals(registered, train, moments))
            self._fit_unseen(registered, train, moments, fit)
        validation_moments = None
        if len(validation):
            validation_moments = self._moments(registered, validation, float(self.module.library_size))
        if self._training_plan_cls is not AdversarialPlan:
            trainer_kwargs.setdefault("gradient_clip_val", 10.0)
        super().train(
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            batch_size=batch_size,
            early_stopping=early_stopping,
            datasplitter_kwargs=splitter_kwargs,
            plan_kwargs={
                **self._preset.plan,
                "moments": moments,
                "validation_moments": validation_moments,
                "embeddings": self._embeddings(registered, train, moments),
                **(plan_kwargs or {}),
            },
            **trainer_kwargs,
        )
        self._warn_if_collapsed(train)

    def _warn_if_collapsed(self, train: np.ndarray, n_cells: int = 1_000, threshold: float = 1e-3) -> None:
        """Warn if cells of a stratum and treatment are all decoded alike, so that nothing individual is predicted."""
        share = self._individuality(np.sort(np.asarray(train))[:: max(1, len(train) // n_cells)])
        if share < threshold:
            msg = (
                f"The latent has collapsed: within strata, reconstructions vary {share:.1e} times as much as the data, "
                "so every counterfactual is its stratum's mean. Train for more epochs, or lower `covariate_weight` or "
                "`divergence_weight`."
            )
            warn(msg)
