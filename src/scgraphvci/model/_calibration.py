"""Effects where there are none: control cells against control cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.model.base import BaseModelClass

from scgraphvci.data import TreatmentTable
from scgraphvci.data._read import require_column
from scgraphvci.estimate import Calibration, EffectSums, Groups, coarsen_strata, marginal_effects
from scgraphvci.model._checks import check_clusters
from scgraphvci.model._cross_fit import Predictor
from scgraphvci.model._effect_cells import effect_cells
from scgraphvci.model._guard import learn_guard
from scgraphvci.module._likelihood import Likelihood, is_count

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgraphvci.model._unseen import Target

MIN_COUNTS = 100.0  # with fewer the t interval of a skewed mean does not hold far out (benchmarks/interval_coverage.py)

_Base: Any = BaseModelClass if TYPE_CHECKING else object


class CalibrationMixin(_Base):
    """Calibration of the p-values of effects."""

    def calibration(
        self,
        groupby: Sequence[str] | str | None = None,
        *,
        guide_key: str | None = None,
        guides: Sequence[str] | None = None,
        cluster_key: str | None = None,
        n_splits: int = 5,
        min_cells: int = 10,
        alpha: float = 0.05,
        leak_guard: bool = True,
        seed: int = 0,
        adata: AnnData | MuData | None = None,
        batch_size: int | None = None,
    ) -> Calibration:
        """Compare control cells with control cells, as :meth:`marginal_effect` compares treatments with the control.

        Nothing differs, so p-values should be uniform. Control cells are split at random into two halves, in every
        stratum and cluster, as treatments are dealt out in a pooled screen; or every non-targeting guide is compared
        with the control cells of all other guides, which also shows what guides do whatever they target. Both arms are
        predicted under the control.

        Parameters
        ----------
        groupby, cluster_key, min_cells, alpha
            As in :meth:`marginal_effect`.
        leak_guard
            The guard by "share", or none. It is that of the screen: how far mean latents lie apart is measured on its
            treatments, and the share of the correction follows from the cells compared.
        guide_key
            Column of `obs` with the guide of each cell; random halves if None.
        guides
            Non-targeting guides; all guides of control cells if None.
        n_splits
            Number of random splits, where there is no `guide_key`.
        seed
            Of the splits.
        adata
            Data to take cells from; those of the set-up if None. Cells marked "ood" are never used.
        batch_size
            Cells per batch.

        Returns
        -------
        :class:`~scgraphvci.estimate.Calibration`

        Raises
        ------
        ValueError
            If `n_splits` is below one, a guide has no control cells or there is only one, or an option of
            :meth:`marginal_effect` is not allowed.
        KeyError
            If there is no column `guide_key` or `cluster_key`.
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        cells = effect_cells(self, adata, None, cluster_key)
        control = condition_code(cells.table, self._vector(self.treatments.control, None))
        chosen = np.flatnonzero(cells.condition == control)
        stratum = cells.groups.stratum[cells.group[chosen]]
        cluster = None if cells.cluster is None else cells.cluster[chosen]
        groups, group = Groups.from_codes(stratum, cluster, n_strata=cells.groups.n_strata, n_blocks=0)
        if guide_key is None:
            arms = _random_halves(group, n_splits, seed)
        else:
            guide = require_column(self._table(adata), guide_key, "guide_key").astype(str).to_numpy()
            arms = _guide_arms(guide[cells.cell[chosen]], guides)
        strata, reported = coarsen_strata(cells.strata, [groupby] if isinstance(groupby, str) else groupby)
        check_clusters(cluster_key, cluster, strata, reported[stratum])
        screen = [Predictor(self, adata, np.arange(cells.cell.size))]
        arm_variance = learn_guard(screen, cells, "share", batch_size).arm_variance if leak_guard else 0.0
        results = {
            estimator: marginal_effects(
                self._calibration_sums(adata, cells.cell[chosen], groups, group, arms, batch_size),
                strata=strata,
                genes=self._model_genes(),
                reported=reported,
                estimator=estimator,
                reference=self.treatments.control,
                min_cells=min_cells,
                min_counts=fewest_counts(self.module.likelihood),
                alpha=alpha,
                arm_variance=arm_variance,
                p_adjust=None,
                keep_influence=False,
                params={
                    "cluster_key": cluster_key,
                    "guide_key": guide_key,
                    "scale": "counts" if is_count(self.module.likelihood) else "log1p",
                },
            )
            for estimator in ("robust", "observed")
        }
        return Calibration(**results)

    @torch.inference_mode()
    def _calibration_sums(
        self,
        adata: AnnData | MuData,
        cells: np.ndarray,
        groups: Groups,
        group: np.ndarray,
        arms: Mapping[str, np.ndarray],
        batch_size: int | None,
    ) -> Iterator[tuple[str, EffectSums]]:
        """Sums of one comparison after the other; `arms` says which cells are in its first arm, all others are not."""
        vector = self._vector(self.treatments.control, None)
        for name, in_arm in arms.items():
            sums = EffectSums(groups, self.summary_stats["n_vars"])
            for encoded in self._encoded(adata, cells, batch_size):
                here = encoded.position
                predicted = self._counterfactual_mean(encoded, vector)
                outcome = encoded.batch["outcome"].cpu().numpy()
                sums.update(outcome, predicted, predicted, in_arm[here], ~in_arm[here], group[here])
            yield name, sums


def fewest_counts(likelihood: Likelihood) -> float:
    """Counts that an arm must lead to expect for a gene to have an interval; outcomes other than counts need none."""
    return MIN_COUNTS if is_count(likelihood) else 0.0


def condition_code(table: TreatmentTable, target: Target) -> int:
    """Code of the cells that received a treatment; -1, which no cell has, if none did."""
    row = None if target.received is None else table.condition(target.received)
    return -1 if row is None else row


def _random_halves(group: np.ndarray, n_splits: int, seed: int) -> dict[str, np.ndarray]:
    """Which cells are in the first half, by split; halves of a group differ by one cell at most."""
    if n_splits < 1:
        msg = f"`n_splits` is {n_splits}, must be at least 1."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    arms = {}
    for split in range(1, n_splits + 1):
        order = np.lexsort([rng.random(len(group)), group])
        in_arm = np.empty(len(group), dtype=bool)
        in_arm[order] = (np.arange(len(group)) + rng.integers(2)) % 2 == 0
        arms[f"split {split}"] = in_arm
    return arms


def _guide_arms(guide: np.ndarray, guides: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Which control cells have which guide."""
    present = sorted(set(guide))
    names = present if guides is None else list(guides)
    missing = [name for name in names if name not in set(present)]
    if missing or len(present) < 2:
        msg = f"Control cells have the guides {present[:20]}: at least two are needed, and no cell has {missing}."
        raise ValueError(msg)
    return {name: guide == name for name in names}
