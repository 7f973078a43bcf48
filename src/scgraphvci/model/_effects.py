"""Average effects of treatments in strata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scvi.model.base import BaseModelClass

from scgraphvci._constants import KEYS
from scgraphvci.data import TreatmentTable
from scgraphvci.data._read import require_column
from scgraphvci.estimate import EffectSums, Groups, MarginalEffects, coarsen_strata, marginal_effects
from scgraphvci.module._likelihood import is_count
from scgraphvci.train._splitter import not_held_out

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgraphvci.data._treatments import Dose
    from scgraphvci.estimate._influence import Estimator
    from scgraphvci.estimate._multiplicity import Adjustment

_Base: Any = BaseModelClass if TYPE_CHECKING else object

MAX_SUMS_BYTES = 1_000_000_000  # sums of as many treatments as fit are gathered in one pass over the cells


class _Cells(NamedTuple):
    """Codes of the cells an effect is estimated from."""

    cell: np.ndarray
    condition: np.ndarray
    groups: Groups
    group: np.ndarray
    strata: pd.DataFrame
    table: TreatmentTable


class EffectsMixin(_Base):
    """Marginal effects; needs the prediction mixin."""

    def marginal_effect(
        self,
        treatments: str | Sequence[str] | None = None,
        groupby: Sequence[str] | str | None = None,
        reference: str | None = "control",
        estimator: Estimator = "robust",
        *,
        dose: Dose = None,
        cluster_key: str | None = None,
        pooled: bool = False,
        min_cells: int = 10,
        alpha: float = 0.05,
        p_adjust: Adjustment | None = "fdr_bh",
        adata: AnnData | MuData | None = None,
        batch_size: int | None = None,
    ) -> MarginalEffects:
        r"""Estimate what treatments do on average in strata, with standard errors.

        The default is the paper's Eq. 4, :math:`\hat\Psi(a, x) = \bar Y_a + (\bar m_x - \bar m_a)`: the observed mean
        of the treated cells, corrected by the difference between the mean prediction over the stratum and over the
        treated. It is more precise than the observed mean if the latent carries no trace of the treatment received,
        and biased otherwise; `observed` needs no such assumption and is always in the result.

        Parameters
        ----------
        treatments
            Treatments to estimate; all but the control if None.
        groupby
            Registered covariates whose joint levels are reported; None for all of them. A coarser grouping averages
            the effects of its strata by their cells, over strata that have both arms.
        reference
            Treatment to subtract; "control" is the registered control, whatever its name. None gives means of arms.
        estimator
            "robust" (Eq. 4), "observed" (mean of treated cells) or "plugin" (mean prediction; no interval).
        dose
            Dose of the treatments; each one's most frequent training dose if None.
        cluster_key
            Column of `obs` with the units of replication, such as donors: errors are then cluster-robust.
        pooled
            With a coarser `groupby`: take its cells together instead of averaging stratum effects.
        min_cells
            Fewest cells, in arm and reference, for an interval to be given.
        alpha
            One minus the level of the intervals.
        p_adjust
            Adjustment of p-values over the genes of each treatment and stratum: "fdr_bh", "holm", "bonferroni", None.
        adata
            Data to estimate from; those of the set-up if None. Cells marked "ood" are never used.
        batch_size
            Cells per batch.

        Returns
        -------
        :class:`~scgraphvci.estimate.MarginalEffects`, on the model's scale: expression for normal, counts at the median
        training library for NB and ZINB.

        Raises
        ------
        ValueError
            If a treatment, covariate or option is unknown, or the reference is among the treatments.
        KeyError
            If there is no column `cluster_key`.

        Notes
        -----
        Predictions come from the model's own training, which has seen these cells; with strong overfitting errors are
        too small. Standard errors follow the influence function of Theorem 2, centred (see the estimands guide).
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        cells = self._effect_cells(adata, groupby if pooled else None, cluster_key)
        keys = [groupby] if isinstance(groupby, str) else groupby
        strata, reported = coarsen_strata(cells.strata, None if pooled else keys)
        control = self.treatments.control
        reference = control if reference == "control" else reference
        names = self._effect_treatments(treatments, reference)
        return marginal_effects(
            self._effect_sums(adata, cells, names, reference, dose, batch_size),
            strata=strata,
            genes=self._model_genes(),
            reported=reported,
            estimator=estimator,
            reference=reference,
            min_cells=min_cells,
            alpha=alpha,
            p_adjust=p_adjust,
            params={
                "perturbation_key": self.registry["setup_args"]["perturbation_key"],
                "layer": self.registry["setup_args"]["layer"],
                "cluster_key": cluster_key,
                "scale": "counts" if is_count(self.module.likelihood) else "log1p",
                "doses": self._doses(names, dose),
                "pooled": pooled,
            },
        )

    def _doses(self, names: list[str], dose: Dose) -> dict[str, str]:
        """Dose of each treatment as text; nothing for a screen without doses."""
        table = self.treatments
        if table.max_dose is None:
            return {}
        return {name: str(table.usual_dose(name) if dose is None else dose) for name in names}

    def _effect_treatments(self, treatments: str | Sequence[str] | None, reference: str | None) -> list[str]:
        if treatments is None:
            left_out = (self.treatments.control, reference)
            return [name for name in dict.fromkeys(self.treatments.names) if name not in left_out]
        names = [treatments] if isinstance(treatments, str) else list(treatments)
        if reference in names:
            msg = f"Treatment {reference!r} is also the reference. Leave it out, or choose another `reference`."
            raise ValueError(msg)
        return names

    def _effect_cells(
        self, adata: AnnData | MuData, pool: Sequence[str] | str | None, cluster_key: str | None
    ) -> _Cells:
        """Codes of the cells that are not held out; strata are pooled over all keys but `pool` if that is given."""
        manager = self.get_anndata_manager(adata, required=True)
        index = not_held_out(manager)
        state = manager.get_state_registry(KEYS.STRATUM)
        codes = np.asarray(state["strata"])
        columns = {
            key: np.asarray(levels, dtype=object)[codes[:, j]]
            for j, (key, levels) in enumerate(state["levels"].items())
        }
        frame = pd.DataFrame(columns, index=pd.RangeIndex(len(codes)))
        stratum = np.asarray(manager.get_from_registry(KEYS.STRATUM)).ravel().astype(np.int64)[index]
        if pool is not None:
            frame, coarse = coarsen_strata(frame, [pool] if isinstance(pool, str) else pool)
            stratum = coarse[stratum]
        present, stratum = np.unique(stratum, return_inverse=True)
        cluster = None
        if cluster_key is not None:
            column = require_column(self._table(adata), cluster_key, "cluster_key")
            cluster = pd.factorize(column.astype(str))[0][index]
        groups, group = Groups.from_codes(stratum, cluster, n_strata=len(present))
        condition = np.asarray(manager.get_from_registry(KEYS.TREATMENT)).ravel().astype(np.int64)[index]
        table = TreatmentTable.from_state(manager.get_state_registry(KEYS.TREATMENT))
        return _Cells(index, condition, groups, group, frame.iloc[present].reset_index(drop=True), table)

    def _effect_sums(
        self,
        adata: AnnData | MuData,
        cells: _Cells,
        names: list[str],
        reference: str | None,
        dose: Dose,
        batch_size: int | None,
    ) -> Iterator[tuple[str, EffectSums]]:
        """Sums for each treatment, for as many at a time as memory allows."""
        n_genes = self.summary_stats["n_vars"]
        vectors = {name: self._vector(name, dose) for name in names}
        reference_vector = None if reference is None else self._vector(reference, None)
        size = 8 * n_genes * 3 * (3 * cells.groups.n_groups + 6 * cells.groups.n_strata)
        chunk = max(1, MAX_SUMS_BYTES // size)
        for start in range(0, len(names), chunk):
            sums = {
                name: EffectSums(cells.groups, n_genes, with_reference=reference is not None)
                for name in names[start : start + chunk]
            }
            self._gather(adata, cells, sums, vectors, reference_vector, batch_size)
            yield from sums.items()

    @torch.inference_mode()
    def _gather(
        self,
        adata: AnnData | MuData,
        cells: _Cells,
        sums: dict[str, EffectSums],
        vectors: dict[str, np.ndarray],
        reference: np.ndarray | None,
        batch_size: int | None,
    ) -> None:
        """Add all cells to the sums of some treatments, in one pass."""
        arm = {name: _condition(cells.table, vectors[name]) for name in sums}
        reference_arm = None if reference is None else _condition(cells.table, reference)
        position = 0
        for encoded in self._encoded(adata, cells.cell, batch_size):
            here = slice(position, position + len(encoded.cells))
            position = here.stop
            outcome = encoded.batch["outcome"].cpu().numpy()
            condition, group = cells.condition[here], cells.group[here]
            baseline = None if reference is None else self._counterfactual_mean(encoded, reference)
            for name, total in sums.items():
                predicted = self._counterfactual_mean(encoded, vectors[name])
                in_reference = None if reference is None else condition == reference_arm
                total.update(outcome, predicted, baseline, condition == arm[name], in_reference, group)


def _condition(table: TreatmentTable, vector: np.ndarray) -> int:
    """Code of the cells that received a treatment vector; -1, which no cell has, if none did."""
    row = table.condition(vector)
    return -1 if row is None else row
