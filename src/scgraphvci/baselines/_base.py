"""The interface all predictors share, and what simple ones have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgraphvci._constants import KEYS, SPLITS
from scgraphvci.baselines._means import TrainMeans
from scgraphvci.data import OutcomeField, SplitField, StratumField, TreatmentField, TreatmentTable, stratum_moments
from scgraphvci.data._fields import stratum_levels
from scgraphvci.data._sources import as_counterfactual, source_cells

if TYPE_CHECKING:
    from scgraphvci.data._treatments import Dose


class Predictor(Protocol):
    """Anything that predicts what cells would express under another treatment."""

    def predict(
        self,
        treatment: str,
        source: str | None = None,
        indices: Sequence[int] | None = None,
        dose: Dose = None,
        adata: AnnData | None = None,
    ) -> AnnData:
        """Return the source cells with predictions in `X`; see :meth:`scgraphvci.GraphVCI.predict`."""


class Codes(NamedTuple):
    """Treatment and stratum of every cell of some data.

    Attributes
    ----------
    table
        Treatments, with those of these data appended.
    condition
        Row of ``table.design`` of every cell, shape ``(n_cells,)``.
    strata
        Levels of each stratum, one column per covariate.
    stratum
        Row of `strata` of every cell, shape ``(n_cells,)``.
    """

    table: TreatmentTable
    condition: np.ndarray
    strata: pd.DataFrame
    stratum: np.ndarray


class ScreenCoder:
    """Codes treatments and strata exactly as the models' set-up does, without writing to the data.

    Parameters
    ----------
    perturbation_key, control, dose_key, combination_sep, categorical_covariate_keys, split_key
        As in :meth:`scgraphvci.GraphVCI.setup_anndata`.
    """

    def __init__(
        self,
        perturbation_key: str,
        control: str,
        dose_key: str | None,
        combination_sep: str | None,
        categorical_covariate_keys: Sequence[str] | None,
        split_key: str | None,
    ) -> None:
        self._split = SplitField(split_key)
        self._split_key = split_key
        self._treatment = TreatmentField(perturbation_key, control, dose_key, combination_sep, split_key)
        self._stratum = StratumField(categorical_covariate_keys)
        self._states: list[dict[str, Any]] = []

    def code(self, adata: AnnData) -> Codes:
        """Code data: the first time their own levels are learned, later data are coded against those.

        Raises
        ------
        KeyError
            If a column is missing.
        ValueError
            If values are missing, unknown or not allowed.
        """
        shell = AnnData(obs=adata.obs.copy())
        if self._states:
            treatment = self._treatment.transfer_field(self._states[0], shell)
            stratum = self._stratum.transfer_field(self._states[1], shell)
        else:
            if not self._split.is_empty:
                self._split.validate_field(shell)
            treatment, stratum = self._treatment.register_field(shell), self._stratum.register_field(shell)
            self._states = [treatment, stratum]
        levels = {
            key: np.asarray(names, dtype=object)[np.asarray(stratum["strata"])[:, j]]
            for j, (key, names) in enumerate(stratum_levels(stratum).items())
        }
        return Codes(
            table=TreatmentTable.from_state(treatment),
            condition=shell.obs[f"_{KEYS.TREATMENT}"].to_numpy(dtype=np.int64),
            strata=pd.DataFrame(levels, index=pd.RangeIndex(len(stratum["strata"]))),
            stratum=shell.obs[f"_{KEYS.STRATUM}"].to_numpy(dtype=np.int64),
        )

    def split(self, adata: AnnData) -> np.ndarray:
        """Return the split of every cell; all are "train" without a split column."""
        if self._split_key is None:
            return np.full(adata.n_obs, SPLITS.TRAIN, dtype=object)
        return adata.obs[self._split_key].astype(str).to_numpy()


class Baseline(ABC):
    """A predictor made of means: it moves each cell by a difference of two mean profiles.

    A cell of stratum x that received t becomes, under t', its own expression + profile(x, t') - profile(x, t). The
    subclasses differ in the profile. For control cells profile(x, t) is the mean of the stratum's training controls
    (of all training controls where the stratum has none).

    Parameters
    ----------
    adata
        Cells x genes. Nothing is written to it.
    perturbation_key, control, layer, dose_key, combination_sep, categorical_covariate_keys, split_key
        As in :meth:`scgraphvci.GraphVCI.setup_anndata`. Means are those of "train" cells, or of all cells without
        `split_key`. Expression should be on a scale where shifts add up, such as log1p.

    Attributes
    ----------
    train_indices
        Positions of the cells that means were taken of.

    Raises
    ------
    KeyError
        If a column or layer is missing.
    ValueError
        If values are missing, not finite or not allowed.
    """

    def __init__(
        self,
        adata: AnnData,
        perturbation_key: str = "perturbation",
        control: str = "control",
        layer: str | None = None,
        dose_key: str | None = None,
        combination_sep: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        split_key: str | None = None,
    ) -> None:
        self.settings = {
            "perturbation_key": perturbation_key,
            "control": control,
            "layer": layer,
            "dose_key": dose_key,
            "combination_sep": combination_sep,
            "categorical_covariate_keys": categorical_covariate_keys,
            "split_key": split_key,
        }
        self.adata = adata
        self._outcome = OutcomeField(layer)
        self._outcome_state = self._outcome.register_field(adata)
        self._coder = ScreenCoder(
            perturbation_key, control, dose_key, combination_sep, categorical_covariate_keys, split_key
        )
        self._codes = self._coder.code(adata)
        self.train_indices = np.flatnonzero(self._coder.split(adata) == SPLITS.TRAIN)
        moments = stratum_moments(
            self._outcome.get_field_data(adata),
            stratum=self._codes.stratum,
            condition=self._codes.condition,
            n_strata=len(self._codes.strata),
            n_conditions=len(self._codes.table.design),
            cells=self.train_indices,
        )
        self._means = TrainMeans(moments, self._codes.table.design)

    @abstractmethod
    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the predicted mean of a stratum under a treatment.

        Parameters
        ----------
        stratum
            Code of the stratum; one beyond the training strata has no training cells.
        vector
            Treatment vector, shape ``(n_perturbations,)``; not the control's.

        Returns
        -------
        Shape ``(n_genes,)``.
        """

    def predict(
        self,
        treatment: str,
        source: str | None = None,
        indices: Sequence[int] | None = None,
        dose: Dose = None,
        adata: AnnData | None = None,
    ) -> AnnData:
        """Predict what cells would express had they received a treatment.

        Parameters
        ----------
        treatment
            A treatment of the screen, a combination of its perturbations, or the control.
        source
            Which cells to start from: "control" (the default), "all" or a treatment.
        indices
            Exactly these cells instead, in this order, whatever they received.
        dose
            Dose of the treatment; its most frequent training dose if None.
        adata
            Data to take the cells from, with the same genes in the same order; those fitted on if None.

        Returns
        -------
        AnnData of the source cells with predictions in `X`, as :meth:`scgraphvci.GraphVCI.predict` returns it.

        Raises
        ------
        ValueError
            If the treatment, its dose or a level is unknown, or there are no such cells.
        """
        codes = self._codes
        if adata is None:
            adata = self.adata
        else:
            self._outcome.transfer_field(self._outcome_state, adata)
            codes = self._coder.code(adata)
        cells = source_cells(codes.table, codes.condition, source, indices)
        target = self._codes.table.vector(str(treatment), dose)
        received, group = np.unique(
            np.stack([codes.stratum[cells], codes.condition[cells]]), axis=1, return_inverse=True
        )
        moves = np.stack(
            [self._profile(s, target) - self._profile(s, codes.table.design[c]) for s, c in received.T.tolist()]
        )
        rows = self._outcome.get_field_data(adata)[cells]
        values = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
        used: str | None = None
        if codes.table.max_dose is not None:
            used = str(codes.table.usual_dose(treatment) if dose is None else dose)
        predicted = (values + moves[group.ravel()]).astype(np.float32)
        return as_counterfactual(adata, cells, predicted, treatment, used, "outcome")

    def _profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        return self.profile(stratum, vector) if np.any(vector) else self._means.control(stratum)
