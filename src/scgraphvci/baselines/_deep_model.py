"""Set-up, training and prediction of the deep comparison models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin

from scgraphvci._constants import KEYS
from scgraphvci.baselines._deep_module import OutcomeModule, Screen
from scgraphvci.baselines._deep_plan import GRADIENT_CLIP, AlternatingPlan, BaselinePlan
from scgraphvci.data._fields import stratum_levels
from scgraphvci.model._checks import check_outcome
from scgraphvci.model._predict import PredictionMixin
from scgraphvci.model._saving import SafeSavingMixin
from scgraphvci.model._setup import ScreenSetupMixin
from scgraphvci.model._statistics import StatisticsMixin
from scgraphvci.train import SplitByColumn
from scgraphvci.train._schedule import default_epochs, set_validation
from scgraphvci.train._splitter import split_indices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData


class DeepBaseline(
    SafeSavingMixin, PredictionMixin, StatisticsMixin, ScreenSetupMixin, UnsupervisedTrainingMixin, BaseModelClass
):
    """What the deep comparison models share; each subclass brings a module.

    Set up, trained, saved and asked for predictions as :class:`scgraphvci.GraphVCI`, on log-normalised expression; a
    registered network is not used.

    Parameters
    ----------
    adata
        AnnData or MuData registered with `setup_anndata` or `setup_mudata`.
    registry
        Registry of an earlier set-up, to build a model without data.
    **module_kwargs
        Arguments of the network.
    """

    _module_cls: type[OutcomeModule]
    _data_splitter_cls = SplitByColumn
    _training_plan_cls: type[BaselinePlan] = BaselinePlan
    _plan_kwargs: Mapping[str, Any] = {}

    def __init__(
        self, adata: AnnData | MuData | None = None, registry: dict | None = None, **module_kwargs: Any
    ) -> None:
        super().__init__(adata, registry)
        check_outcome(self.get_state_registry(KEYS.OUTCOME), "normal")
        strata = self.get_state_registry(KEYS.STRATUM)
        screen = Screen(
            n_genes=self.summary_stats["n_vars"],
            design=self.treatments.design,
            strata=np.asarray(strata["strata"]),
            n_levels=tuple(len(levels) for levels in stratum_levels(strata).values()),
            n_continuous=self.summary_stats.get("n_continuous_covariates", 0),
        )
        self.module = self._module_cls(screen, **module_kwargs)
        self._model_summary_string = (
            f"{type(self).__name__} with genes: {screen.n_genes}, perturbations: {screen.design.shape[1]}, "
            f"strata: {len(screen.strata)}."
        )
        self.init_params_ = self._get_init_params(locals())

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int = 128,
        early_stopping: bool = False,
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
        train_size, validation_size
            For set-ups without `split_key`: the random split, 4 : 1 by default.
        batch_size
            Cells per step.
        early_stopping
            Stop when the loss on validation ("test") cells no longer falls. Adversarial terms do not count.
        plan_kwargs
            Passed to the training plan, such as `lr`, `weight_decay`, or `adversary_lr` where there is an adversary.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`.

        Raises
        ------
        FloatingPointError
            If the loss becomes NaN or infinite.
        ValueError
            If the split cannot be made, or there are no validation cells to stop by.
        """
        self.adata_manager.validate()
        indexing = split_indices(self.adata_manager, train_size, validation_size)
        train, validation = indexing[:2]
        if max_epochs is None:
            max_epochs = default_epochs(len(train), batch_size)
        set_validation(trainer_kwargs, max_epochs, len(validation), early_stopping=early_stopping)
        if not self.is_trained_:
            self.module.initialise(self._moments(self._registered_cells(), train))
        if not issubclass(self._training_plan_cls, AlternatingPlan):  # Lightning cannot clip manual steps
            trainer_kwargs.setdefault("gradient_clip_val", GRADIENT_CLIP)
        self.module.train()  # Lightning leaves a trained model, which is in evaluation mode, as it is
        super().train(
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            batch_size=batch_size,
            early_stopping=early_stopping,
            datasplitter_kwargs={"external_indexing": indexing},
            plan_kwargs={**self._plan_kwargs, **(plan_kwargs or {})},
            **trainer_kwargs,
        )
