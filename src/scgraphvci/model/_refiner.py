"""The model that refines a gene regulatory network with expression."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from scvi import settings as scvi_settings
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin

from scgraphvci._constants import KEYS
from scgraphvci.data._fields import stratum_levels
from scgraphvci.data._refine_statistics import refine_statistics
from scgraphvci.model._refiner_setup import RefinerSetupMixin
from scgraphvci.model._saving import SafeSavingMixin
from scgraphvci.model._summary import SummaryMixin
from scgraphvci.module._refine import RefineModule
from scgraphvci.train import SplitByColumn
from scgraphvci.train._refine_plan import RefinePlan
from scgraphvci.train._splitter import split_indices

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

logger = logging.getLogger(__name__)

MAX_GENES_ALL_PAIRS = 5_000  # 25 million logits, the one dense array
DEFAULT_STEPS = 2_000
DEFAULT_STEPS_EVIDENCE = 500  # logits start near where they settle, within tens of steps

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "n_layers": 7,
        "n_hidden": 16,
        "null_slot": False,
        "hide_self": False,
        "signed": False,
        "adjust_regulators": False,
        "evidence": False,
        "absent_logit": 0.0,
    },
}
PAPER_PENALTY = 20.0  # lambda of Eq. 13


class GRNRefiner(SafeSavingMixin, SummaryMixin, RefinerSetupMixin, UnsupervisedTrainingMixin, BaseModelClass):
    """Refines a gene regulatory network: demotes edges the data do not support, finds edges the prior lacks.

    A graph convolutional network predicts each gene from its neighbours; every candidate edge has a learnable logit,
    whose sigmoid is the confidence in that edge (Wu et al., ICLR 2023, Eq. 11-13).

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`, or MuData registered with :meth:`setup_mudata`.
    registry
        Registry of an earlier set-up, to build a model without data.
    candidates
        Pairs that may become edges besides the prior's: "regulators" (any gene from a source of the prior), "all"
        (up to 5,000 genes), or a frame with columns `source` and `target`, such as the pairs that correlate most
        (:func:`scgraphvci.grn.top_correlated`). None: the preset's, "regulators" or, for the paper, "all".
    preset
        "default", or "paper" for the publication's network: seven layers, plain softmax, a gene's own expression
        visible, no signs, no evidence, an edge penalty.
    n_features
        Number of co-expression components of training cells used as gene features where none were registered.
    **module_kwargs
        Any other argument of :class:`scgraphvci.module.RefineModule`, such as `evidence_weight`, `p_add`, `hide_self`.

    Notes
    -----
    What confidences mean. Logits start at evidence in the training cells: how far a regulator and its target vary
    together given all other regulators and, where treatments are registered, how far the target shifts when the
    regulator is perturbed, given what other shifted regulators explain. How much of it makes an edge probable is
    learned from the prior: real edges are listed there more often than others, so the confidence of an edge is an
    estimate of the probability that it is real (one less its local false discovery rate). At the default threshold of
    .3 an edge is in the network if about one in three edges like it is real. On simulated screens of 5,000 cells
    confidences differ from the share of real edges by a few hundredths; those within the prior are too low by .1 to .2
    where evidence is weak, and those outside where the prior misses most real edges. A prior that lists edges at random
    teaches nothing: then nearly all confidences are low. The network then moves logits by what edges add to the
    prediction of their targets, against a cost of leaving the evidence; see :class:`scgraphvci.module.RefineModule`. On
    simulated screens it is the evidence that finds the true edges: training adds nothing measurable to it, and the
    default cost keeps confidences close. Confidences say nothing about direction beyond the candidates. An unmeasured
    common cause raises them too, unless the prior lists such pairs no more often than others.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> sgv.GRNRefiner.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> model = sgv.GRNRefiner(adata)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> sorted(set(model.get_refined_grn()["status"]) - {"added", "dropped"})
    ['kept']
    """

    module: RefineModule
    _module_cls = RefineModule
    _data_splitter_cls = SplitByColumn
    _training_plan_cls = RefinePlan

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict | None = None,
        candidates: Literal["regulators", "all"] | pd.DataFrame | None = None,
        preset: Literal["default", "paper"] = "default",
        n_features: int = 8,
        **module_kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        if preset not in PRESETS:
            msg = f"Unknown preset {preset!r}. Choose one of {list(PRESETS)}."
            raise ValueError(msg)
        n_genes = self.summary_stats["n_vars"]
        strata = self.get_state_registry(KEYS.STRATUM)
        graph = self.get_state_registry(KEYS.GRAPH)
        prior = np.asarray(graph["edge_index"])
        chosen = candidates
        if chosen is None:
            chosen = "all" if preset == "paper" else "regulators"
        sources, pairs = _candidates(chosen, prior, self._genes)
        settings = {**PRESETS[preset], **module_kwargs}
        if preset == "paper":
            settings.setdefault("edge_penalty", PAPER_PENALTY / n_genes)
            settings.setdefault("absent_penalty", settings["edge_penalty"])
        self.module = self._module_cls(
            n_genes=n_genes,
            prior=prior,
            sources=sources,
            pairs=pairs,
            strata=np.asarray(strata["strata"]),
            n_levels=[len(levels) for levels in stratum_levels(strata).values()],
            features=n_features if graph["features"] is None else graph["features"],
            **settings,
        )
        size = self.module.candidates.size
        self._model_summary_string = (
            f"GRNRefiner with prior edges: {prior.shape[1]}, candidate edges: {size}, genes: {n_genes}."
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def _genes(self) -> pd.Index:
        return pd.Index(self.get_state_registry(KEYS.OUTCOME)["column_names"])

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = 1,
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int = 64,
        early_stopping: bool = False,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the network and the logits.

        Parameters
        ----------
        max_epochs
            Passes over the training cells. None: as many as make 500 steps, or 2,000 without evidence, at least 5.
        accelerator, devices
            As in Lightning. Edges are sampled for one device only.
        train_size, validation_size
            For set-ups without `split_key`: the random split, 4 : 1 by default.
        batch_size
            Cells per step.
        early_stopping
            Stop when the reconstruction of validation ("test") cells no longer improves.
        plan_kwargs
            Passed to :class:`scgraphvci.train.RefinePlan`, such as `logit_lr` or `seed` (of the order of cells and of
            the sampled edges; ``scvi.settings.seed`` by default, 0 if that is unset).
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`.

        Raises
        ------
        FloatingPointError
            If the loss becomes NaN or infinite.
        ValueError
            If more than one device is asked for.

        Notes
        -----
        `model.history` holds, by epoch, `train_loss`, `edge_penalty` and `n_edges` (above the threshold), and with
        `early_stopping` or `check_val_every_n_epoch` `validation_loss`, all per gene and in units of its variance.
        """
        if devices not in (1, "1", "auto") and not (isinstance(devices, list) and len(devices) == 1):
            msg = (
                f"`devices` is {devices!r}, but refinement samples edges on one device. Use `devices=1` or `[number]`."
            )
            raise ValueError(msg)
        self.adata_manager.validate()
        indexing = split_indices(self.adata_manager, train_size, validation_size)
        if max_epochs is None:
            steps = DEFAULT_STEPS if self.module.log_odds is None else DEFAULT_STEPS_EVIDENCE
            max_epochs = int(max(5, np.ceil(steps / np.ceil(len(indexing[0]) / batch_size))))
        if self.get_state_registry(KEYS.OUTCOME)["integer"]:
            logger.warning("Expression holds whole numbers only. Refinement expects log-normalised values, not counts.")
        if not self.is_trained_:
            self._initialise(indexing[0])
        trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
        plan_kwargs = {"seed": scvi_settings.seed or 0, **(plan_kwargs or {})}
        super().train(
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            batch_size=batch_size,
            early_stopping=early_stopping,
            datasplitter_kwargs={"external_indexing": indexing, "seed": plan_kwargs["seed"]},
            plan_kwargs=plan_kwargs,
            **trainer_kwargs,
        )

    def _initialise(self, cells: np.ndarray) -> None:
        """Give the module its statistics of training cells."""
        manager = self.adata_manager
        self.module.initialise(
            refine_statistics(
                manager.get_from_registry(KEYS.OUTCOME),
                stratum=np.asarray(manager.get_from_registry(KEYS.STRATUM)).ravel().astype(np.int64),
                cells=np.asarray(cells),
                n_strata=self.module.stratum_mean.shape[0],
                sources=self.module.candidates.sources.cpu().numpy(),
                regulators=self.module.regulators.cpu().numpy(),
                n_features=self.module.features.shape[1] if self.module.learn_features else 0,
                evidence=self.module.log_odds is not None,
                intervention=self._intervention(),
            )
        )

    def _intervention(self) -> np.ndarray | None:
        """Return the code of each cell's intervention, if treatments were registered."""
        if KEYS.INTERVENTION not in self.adata_manager.data_registry:
            return None
        return np.asarray(self.adata_manager.get_from_registry(KEYS.INTERVENTION)).ravel().astype(np.int64)

    @torch.no_grad()
    def get_refined_grn(self, threshold: float = 0.3) -> pd.DataFrame:
        """Return the refined network.

        Parameters
        ----------
        threshold
            Confidence above which an edge is in the network.

        Returns
        -------
        One row per edge of the prior or above the threshold, self-loops left out, sorted by confidence: `source`
        (regulator), `target`, `weight` (confidence, the sigmoid of the edge's logit), `sign` (1 or -1: sign of the
        residual covariance of source and target given the other regulators, in training cells), `in_prior`, and
        `status`: "kept" (in the prior and above the threshold), "added" (above it only), "dropped" (in the prior only).

        Raises
        ------
        ValueError
            If the threshold is not between 0 and 1.
        """
        self._check_if_trained(warn=True)
        if not 0 < threshold < 1:
            msg = f"threshold={threshold} must lie between 0 and 1; 0.3 is the default."
            raise ValueError(msg)
        module = self.module
        edges = module.active_edges(threshold)
        genes = self._genes.to_numpy()
        in_prior = torch.zeros(module.candidates.size, dtype=torch.bool, device=module.logit.device)
        in_prior[module.candidates.prior] = True
        columns = {
            "source": genes[edges.source.cpu().numpy()],
            "target": genes[edges.target.cpu().numpy()],
            "weight": torch.sigmoid(module.logit[edges.position]).cpu().numpy(),
            "sign": module.sign[edges.position].cpu().numpy(),
            "in_prior": in_prior[edges.position].cpu().numpy(),
        }
        frame = pd.DataFrame(columns)
        above = frame["weight"] > threshold
        frame["status"] = np.select([frame["in_prior"] & above, above], ["kept", "added"], "dropped")
        frame = frame[frame["source"] != frame["target"]]
        return frame.sort_values("weight", ascending=False, kind="stable", ignore_index=True)


def _candidates(
    candidates: Literal["regulators", "all"] | pd.DataFrame, prior: np.ndarray, genes: pd.Index
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return genes that may be sources, and pairs if the choice is a list of these."""
    if isinstance(candidates, pd.DataFrame):
        missing = [name for name in ("source", "target") if name not in candidates]
        if missing:
            msg = f"`candidates` has no column {missing}. Columns: {list(candidates.columns)}."
            raise KeyError(msg)
        source, target = (genes.get_indexer(pd.Index(candidates[name])) for name in ("source", "target"))
        known = (source >= 0) & (target >= 0)
        if not known.all():
            first = candidates.iloc[int(np.argmin(known))]
            msg = (
                f"{int((~known).sum())} `candidates` name genes that the data lack, first {first['source']} -> "
                f"{first['target']}. Remove them."
            )
            raise ValueError(msg)
        return np.unique(source), np.stack([source, target])
    if candidates == "regulators":
        return np.unique(prior[0, prior[0] != prior[1]]), None
    if candidates == "all":
        if len(genes) > MAX_GENES_ALL_PAIRS:
            msg = f'candidates="all" takes up to {MAX_GENES_ALL_PAIRS} genes, got {len(genes)}. Use "regulators".'
            raise ValueError(msg)
        return np.arange(len(genes)), None
    msg = f'candidates={candidates!r} must be "regulators", "all" or a data frame.'
    raise ValueError(msg)
