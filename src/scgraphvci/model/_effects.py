"""Average effects of treatments in strata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from scgraphvci._constants import KEYS
from scgraphvci.data import TreatmentTable
from scgraphvci.data._fields import stratum_levels
from scgraphvci.data._read import require_column
from scgraphvci.estimate import EffectSums, Groups, MarginalEffects, coarsen_strata, marginal_effects, median_effects
from scgraphvci.estimate._accumulate import ARM, N_ROLES, REFERENCE
from scgraphvci.estimate._arm_variance import ArmVariance, concentration
from scgraphvci.estimate._cell_states import CellStates, ConditionPredictions, StatePredictions
from scgraphvci.estimate._guarded import GuardedSums
from scgraphvci.estimate._request import check_request
from scgraphvci.model._calibration import CalibrationMixin, condition_code, fewest_counts
from scgraphvci.model._checks import check_clusters, warn_of_few_clusters, warn_of_small_panel
from scgraphvci.model._copies import Copies
from scgraphvci.model._cross_fit import (
    Predictor,
    assign_folds,
    covariate_levels,
    fit_folds,
    release,
    repetition_seeds,
)
from scgraphvci.module._likelihood import is_count
from scgraphvci.train._splitter import not_held_out

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgraphvci.data._treatments import Dose
    from scgraphvci.estimate._estimands import Estimand
    from scgraphvci.estimate._influence import Estimator
    from scgraphvci.estimate._request import EffectAdjustment

LeakGuard = bool | Literal["states", "share"]

MAX_SUMS_BYTES = 1_000_000_000  # sums of as many treatments as fit are gathered in one pass over the cells

MAX_CELL_INFLUENCE_BYTES = 4_000_000_000
"""Most that the estimation may take with influence values of single cells."""


class _Cells(NamedTuple):
    """Codes of the cells an effect is estimated from."""

    cell: np.ndarray
    condition: np.ndarray
    groups: Groups
    group: np.ndarray
    cluster: np.ndarray | None
    strata: pd.DataFrame
    table: TreatmentTable


class _Guard(NamedTuple):
    """What keeps leaks out of Eq. 4.

    Attributes
    ----------
    states
        Predictions from states of cells; `None` if the guard is by share alone.
    arm_variance, concentrated
        For the share of the model's correction, where there are no predictions from states.
    """

    states: StatePredictions | None = None
    arm_variance: float = 0.0
    concentrated: np.ndarray | None = None

    @property
    def name(self) -> LeakGuard:
        """Value of `leak_guard` that asks for it."""
        if self.states is not None:
            return "states"
        return False if self.concentrated is None else "share"


class EffectsMixin(CalibrationMixin):
    """Marginal effects; needs the prediction mixin."""

    def marginal_effect(
        self,
        treatments: str | Sequence[str] | None = None,
        groupby: Sequence[str] | str | None = None,
        reference: str | None = "control",
        estimator: Estimator = "robust",
        *,
        estimand: Estimand = "difference",
        pseudocount: float = 0.0,
        dose: Dose = None,
        cluster_key: str | None = None,
        pooled: bool = False,
        min_cells: int = 10,
        min_counts: float | None = None,
        alpha: float = 0.05,
        p_adjust: EffectAdjustment | None = "fdr_bh",
        max_leak: float = 0.0,
        leak_guard: LeakGuard = True,
        keep_influence: bool | Literal["float64", "bands", "cells"] = True,
        cross_fit: int = 0,
        n_repeats: int = 1,
        train_kwargs: dict[str, Any] | None = None,
        seed: int = 0,
        adata: AnnData | MuData | None = None,
        batch_size: int | None = None,
    ) -> MarginalEffects:
        r"""Estimate what treatments do on average in strata, with standard errors.

        The default is the paper's Eq. 4, :math:`\hat\Psi(a, x) = \bar Y_a + s (\bar m_x - \bar m_a)`, with a guard
        :math:`s \le 1` (see `leak_guard`): the observed mean of the treated cells, corrected by the difference between
        the mean prediction over the stratum and over the treated. It is more precise than the observed mean if the
        latent carries no trace of the treatment received, and biased otherwise; `observed` needs no such assumption and
        is always in the result. Rows of "robust" in which a test finds such a trace have the status `leak_detected`;
        `leakage` and `sensitivity` of the result tell more.

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
        estimand
            "difference" of means; "ratio" or "log_fold_change" (base 2) of means of counts, for NB and ZINB alone: a
            difference of means of log1p expression is a log fold change already, to base e and of pseudocount 1.
        pseudocount
            Added to both means of a ratio or fold change, in counts.
        dose
            Dose of the treatments; each one's most frequent training dose if None.
        cluster_key
            Column of `obs` with the units of replication, such as donors: errors are then cluster-robust.
        pooled
            With a coarser `groupby`: take its cells together instead of averaging stratum effects.
        min_cells
            Fewest cells, in arm and reference, for an interval to be given.
        min_counts
            Fewest counts to be expected in the smaller arm (its cells times the mean over both arms) for a gene to have
            an interval; below, its status in frames is `too_few_cells`. If None 100 for NB and ZINB, else 0.
        alpha
            One minus the level of the intervals.
        p_adjust
            Adjustment of p-values over the genes of each treatment and stratum: "fdr_bh", "holm", "bonferroni",
            "romano_wolf" (family-wise error, using the correlation of genes), None.
        max_leak
            Share of a treatment's predicted effect that may leak into the predictions of cells that received it: the
            intervals of "robust" then hold the truth for every leak up to it. 0.05 allows for 5 %.
        leak_guard
            Keep out of Eq. 4's correction what predictions know of the treatment received. True is "share": only the
            share of the correction is made that chance explains. Mean latents of a stratum's arms should differ only by
            the cells drawn, and how far they differ beyond that over the whole screen (``params["arm_variance"]``)
            tells how much of a correction is a leak. With many cells in an arm "robust" then comes near "observed".
            "states", for log1p expression, tells cells from leaks by genes: Eq. 4 corrects along what moves together
            within arms (outcomes regressed on the latents), weighing genes by how little they respond to the treatment
            in other strata, and errors hold what responses that differ between strata add. Treatments that cells of one
            stratum alone received keep the guard by share, and so do all without such strata. It gains more, and fails
            where a treatment moves cells as their states do (see the estimands guide). False gives Eq. 4 as published.
            ``params["leak_guard"]`` of the result is what was used: "states", "share" or False.
        keep_influence
            Keep influence totals in the result (float32, treatments x strata x clusters x genes; without `cluster_key`
            50 random blocks of cells for clusters), for joint bands, Romano-Wolf p-values, contrasts and pooling.
            "float64" keeps all digits, "bands" only what joint bands need; "cells" the influence value of every single
            cell, divided by the cells of its stratum: entry k is that of its k-th cell, of those not held out, in the
            order of `obs`. Errors are then of independent cells.
        cross_fit
            Number of folds, 0 for none. Each fold's cells are predicted by a model of its own, trained on the other
            folds as this model was. Folds hold whole clusters where there is a `cluster_key`, and every level of a
            covariate is in two folds at least if it has two cells or clusters. Covariates of which most cells have a
            level that their fold has for itself, such as donors that are clusters, are left out of these models, and
            `params` of the result names them. Rare levels of others only cause a warning.
        n_repeats
            Repetitions of cross-fitting, each with folds and trainings of its own. Estimates are their medians, and
            errors hold what the draw of folds and weights adds (Chernozhukov et al. 2018, definition 3.3); influence
            totals, and with them joint bands and contrasts, are the mean over repetitions scaled to these errors.
        train_kwargs
            Arguments of :meth:`train` for the models of folds; those of this model's training in this session if None,
            or the defaults after loading.
        seed
            Of the folds and the training of their models.
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
            If a treatment, covariate or option is unknown, the reference is among the treatments, there are fewer
            cells or clusters than folds, or influence values of cells would not fit in memory.
        KeyError
            If there is no column `cluster_key`.

        Notes
        -----
        Without `cross_fit` predictions come from the model's own training, which has seen these cells; with strong
        overfitting errors are too small. Standard errors follow the influence function of Theorem 2, centred (see the
        estimands guide).
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        cells = self._effect_cells(adata, groupby if pooled else None, cluster_key)
        keys = [groupby] if isinstance(groupby, str) else groupby
        strata, reported = coarsen_strata(cells.strata, None if pooled else keys)
        if estimator != "plugin":
            check_clusters(cluster_key, cells.cluster, strata, reported[cells.groups.stratum[cells.group]])
        control = self.treatments.control
        reference = control if reference == "control" else reference
        names = self._effect_treatments(treatments, reference)
        _check_repeats(n_repeats, cross_fit)
        kept: bool | Literal["float64", "bands"] = True
        if keep_influence == "cells":
            cells = self._by_cell(cells, reported, len(names), cluster_key)
        else:
            kept = keep_influence
        scale = "counts" if is_count(self.module.likelihood) else "log1p"
        if scale == "log1p" and estimand in ("ratio", "log_fold_change"):
            msg = (
                f"{estimand!r} compares means of counts, and this model's outcome is log1p expression: its "
                "'difference' is a natural log fold change already. Use that, or train with likelihood 'nb'."
            )
            raise ValueError(msg)
        least_counts = fewest_counts(self.module.likelihood) if min_counts is None else min_counts
        self._check_guard(leak_guard)
        check_request(
            estimator, reference, estimand, pseudocount, min_cells, least_counts, alpha, p_adjust, max_leak,
            kept,
        )  # fmt: skip
        for name in [*names, *([] if reference is None else [reference])]:
            self._vector(name, dose if name in names else None)
        left_out: list[str] = []

        def estimate(predictors: list[Predictor]) -> MarginalEffects:
            guard = self._guard(predictors, cells, leak_guard, batch_size)
            return marginal_effects(
                self._effect_sums(predictors, cells, names, reference, dose, batch_size, guard.states),
                strata=strata,
                genes=self._model_genes(),
                reported=reported,
                estimator=estimator,
                reference=reference,
                estimand=estimand,
                pseudocount=pseudocount,
                min_cells=min_cells,
                min_counts=least_counts,
                alpha=alpha,
                p_adjust=p_adjust,
                max_leak=max_leak,
                arm_variance=guard.arm_variance,
                concentrated=guard.concentrated,
                keep_influence=kept,
                params={
                    "perturbation_key": self.registry["setup_args"]["perturbation_key"],
                    "layer": self.registry["setup_args"]["layer"],
                    "cluster_key": cluster_key,
                    "cells": _fingerprint(self._table(adata).obs_names[cells.cell]),
                    "scale": scale,
                    "doses": self._doses(names, dose),
                    "leak_guard": guard.name,
                    "pooled": pooled,
                    "cross_fit": cross_fit,
                    "n_repeats": n_repeats,
                    "left_out_of_folds": left_out,
                },
            )

        def cross_fitted(seed: int) -> MarginalEffects:
            stratum = cells.groups.stratum[cells.group]
            levels = covariate_levels(self, adata, cells.cell).apply(lambda level: pd.factorize(level)[0]).to_numpy()
            fold = assign_folds(cross_fit, stratum, cells.condition, cells.cluster, seed, levels)
            predictors, unseen = fit_folds(self, adata, cells.cell, fold, train_kwargs, seed)
            left_out.extend(key for key in unseen if key not in left_out)
            try:
                return estimate(predictors)
            finally:
                release(predictors)

        if not cross_fit:
            effects = estimate([Predictor(self, adata, np.arange(cells.cell.size))])
        elif n_repeats == 1:
            effects = cross_fitted(seed)
        else:
            effects = median_effects(cross_fitted(one) for one in repetition_seeds(seed, n_repeats))
        warn_of_few_clusters(effects)
        warn_of_small_panel(effects)
        return effects

    def _check_guard(self, leak_guard: LeakGuard) -> None:
        if leak_guard not in (True, False, "states", "share"):
            msg = f"Unknown `leak_guard` {leak_guard!r}. Choose one of True, False, 'states', 'share'."
            raise ValueError(msg)
        if leak_guard == "states" and is_count(self.module.likelihood):
            msg = (
                f"leak_guard='states' is for log1p expression, and this model's likelihood is "
                f"{self.module.likelihood!r}: the variance of counts within arms depends on their mean. Choose 'share'."
            )
            raise ValueError(msg)

    @torch.inference_mode()
    def _guard(
        self, predictors: list[Predictor], cells: _Cells, leak_guard: LeakGuard, batch_size: int | None
    ) -> _Guard:
        """Learn the guard in one pass over the cells.

        The variance between arms is averaged over predictors by their cells. Latents of several predictors mean
        different things: each has columns of its own, 0 for cells of others.
        """
        if leak_guard is False:
            return _Guard()
        stratum = cells.groups.stratum[cells.group]
        factors = cells.strata.apply(lambda column: pd.factorize(column)[0])
        levels = factors.to_numpy().reshape(cells.groups.n_strata, -1)  # of a single stratum, no columns
        by_states = leak_guard == "states"
        states = CellStates(stratum, cells.condition, levels)
        found = []
        for k, predictor in enumerate(predictors):
            arms = ArmVariance(stratum[predictor.position], cells.condition[predictor.position])
            for encoded in predictor.model._encoded(predictor.adata, cells.cell[predictor.position], batch_size):
                latent = encoded.qz.mean.cpu().numpy()
                arms.update(latent, encoded.position)
                if by_states:
                    columns = np.zeros((len(latent), len(predictors), latent.shape[1]), dtype=latent.dtype)
                    columns[:, k] = latent
                    outcome = predictor.scale * encoded.batch["outcome"].cpu().numpy()
                    states.update(outcome, columns.reshape(len(latent), -1), predictor.position[encoded.position])
            found.append(arms.estimate())
        arm_variance = float(np.average(found, weights=[len(predictor.position) for predictor in predictors]))
        predictions = states.fit() if by_states else None
        if predictions is not None and not predictions.n_known:
            predictions = None
        return _Guard(predictions, arm_variance, concentration(stratum, cells.condition, cells.groups.n_strata))

    def _doses(self, names: list[str], dose: Dose) -> dict[str, str]:
        """Dose of each treatment as text; nothing for a screen without doses."""
        table = self.treatments
        if table.max_dose is None:
            return {}
        return {name: str((self._usual_dose(name) or "") if dose is None else dose) for name in names}

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
            for j, (key, levels) in enumerate(stratum_levels(state).items())
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
        return _Cells(index, condition, groups, group, cluster, frame.iloc[present].reset_index(drop=True), table)

    def _by_cell(self, cells: _Cells, reported: np.ndarray, n_treatments: int, cluster_key: str | None) -> _Cells:
        """The same cells, each a group of its own."""
        if cluster_key is not None:
            msg = (
                f"keep_influence='cells' is for errors of independent cells, and `cluster_key` is {cluster_key!r}. "
                "Leave it out, or keep the totals of its clusters with True."
            )
            raise ValueError(msg)
        stratum = cells.groups.stratum[cells.group]
        largest, n_strata = int(np.bincount(reported[stratum]).max()), int(reported.max()) + 1
        # Float32 in the result; float64 twice for one treatment at a time, beside the sums of three variables, and the
        # products of all pairs of cells in the leak test.
        by_gene = n_strata * largest * (4 * n_treatments + 16) + 24 * len(stratum)
        needed = by_gene * self.summary_stats["n_vars"] + 8 * largest**2
        if needed > MAX_CELL_INFLUENCE_BYTES:
            msg = (
                f"Influence values of cells need {needed:,} bytes for {n_treatments} treatments x {n_strata} strata x "
                f"{largest} cells (of the largest stratum) x {self.summary_stats['n_vars']} genes, allowed are "
                f"{MAX_CELL_INFLUENCE_BYTES:,}. Choose fewer `treatments`, give an `adata` of fewer cells or strata, "
                "or keep the totals of blocks with keep_influence=True."
            )
            raise ValueError(msg)
        groups, group = Groups.of_cells(stratum, reported)
        return cells._replace(groups=groups, group=group)

    def _effect_sums(
        self,
        predictors: list[Predictor],
        cells: _Cells,
        names: list[str],
        reference: str | None,
        dose: Dose,
        batch_size: int | None,
        states: StatePredictions | None = None,
    ) -> Iterator[tuple[str, EffectSums | GuardedSums]]:
        """Sums for each treatment, for as many at a time as memory allows; with predictions from states if given."""
        n_genes = self.summary_stats["n_vars"]
        doses: dict[str, Dose] = dict.fromkeys(names, dose)
        if reference is not None:
            doses[reference] = None
        if self.treatments.max_dose is not None:  # models of folds have usual doses of their own
            doses = {name: self._usual_dose(name) if one is None else one for name, one in doses.items()}
        size = 8 * n_genes * 3 * (3 * cells.groups.n_groups + 6 * cells.groups.n_strata)
        chunk = max(1, MAX_SUMS_BYTES // (size if states is None else 2 * size))
        copies = Copies(cells.cell.size)
        for start in range(0, len(names), chunk):
            here = names[start : start + chunk]
            sums = {name: EffectSums(cells.groups, n_genes, with_reference=reference is not None) for name in here}
            of_states = None if states is None else self._of_states(states, cells, here, doses, reference)
            seen = None if start else copies
            for predictor in predictors:
                self._gather(predictor, cells, sums, doses, reference, batch_size, seen, of_states)
            if not start:
                copies.warn(cells.cluster)
            yield from sums.items() if of_states is None else of_states.with_model(sums)

    def _of_states(
        self,
        states: StatePredictions,
        cells: _Cells,
        names: list[str],
        doses: dict[str, Dose],
        reference: str | None,
    ) -> _StateSums:
        """Predictions from states for some treatments and the reference, and sums for them."""
        wanted = [*names, *([] if reference is None else [reference])]
        by_name = {name: states.of(condition_code(cells.table, self._vector(name, doses[name]))) for name in wanted}
        n_genes, with_reference = self.summary_stats["n_vars"], reference is not None
        made = {name: EffectSums(cells.groups, n_genes, with_reference=with_reference) for name in names}
        return _StateSums(by_name, reference, made)

    @torch.inference_mode()
    def _gather(
        self,
        predictor: Predictor,
        cells: _Cells,
        sums: dict[str, EffectSums],
        doses: dict[str, Dose],
        reference: str | None,
        batch_size: int | None,
        copies: Copies | None,
        of_states: _StateSums | None,
    ) -> None:
        """Add the cells of a predictor to the sums of some treatments, and to the copies if asked to, in one pass."""
        arm = {name: condition_code(cells.table, self._vector(name, dose)) for name, dose in doses.items()}
        model, scale = predictor.model, predictor.scale
        vectors = {name: model._vector(name, doses[name]) for name in doses}
        for encoded in model._encoded(predictor.adata, cells.cell[predictor.position], batch_size):
            here = predictor.position[encoded.position]
            outcome = scale * encoded.batch["outcome"].cpu().numpy()
            if copies is not None:
                copies.update(encoded.batch["outcome"].cpu().numpy(), here)
            condition, group = cells.condition[here], cells.group[here]
            baseline = in_reference = made_baseline = None
            if reference is not None:
                baseline = scale * model._counterfactual_mean(encoded, vectors[reference])
                in_reference = condition == arm[reference]
                if of_states is not None:
                    made_baseline = of_states.predict(reference, outcome, here, baseline)
            for name, total in sums.items():
                predicted = scale * model._counterfactual_mean(encoded, vectors[name])
                in_arm = condition == arm[name]
                total.update(outcome, predicted, baseline, in_arm, in_reference, group)
                if of_states is not None:
                    made = of_states.predict(name, outcome, here, predicted)
                    of_states.sums[name].update(outcome, made, made_baseline, in_arm, in_reference, group)


class _StateSums(NamedTuple):
    """Predictions from states of cells, and sums with them, for some treatments."""

    by_name: dict[str, ConditionPredictions]
    reference: str | None
    sums: dict[str, EffectSums]

    def predict(self, name: str, outcome: np.ndarray, cells: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """Predictions from states where they are known, `otherwise` elsewhere, ``(batch, n_genes)``."""
        one = self.by_name[name]
        known = one.known[one.stratum[cells]]
        made = np.array(otherwise)
        made[known] = one.predict(outcome[known], cells[known])
        return made

    def with_model(self, sums: dict[str, EffectSums]) -> Iterator[tuple[str, GuardedSums]]:
        """Yield them beside sums with the model's predictions."""
        for name, of_model in sums.items():
            by_states = np.ones((of_model.groups.n_strata, N_ROLES), dtype=bool)
            by_states[:, ARM] = self.by_name[name].known
            unexpected = self.by_name[name].unexpected
            if self.reference is not None:
                by_states[:, REFERENCE] = self.by_name[self.reference].known
                unexpected = unexpected + self.by_name[self.reference].unexpected
            yield name, GuardedSums(of_model, self.sums[name], by_states, unexpected)


def _check_repeats(n_repeats: int, cross_fit: int) -> None:
    if n_repeats < 1 or (n_repeats > 1 and not cross_fit):
        msg = (
            f"`n_repeats` is {n_repeats} with cross_fit={cross_fit}: it must be at least 1, and 1 without folds to "
            "draw anew. Give `cross_fit` too."
        )
        raise ValueError(msg)


def _fingerprint(names: pd.Index) -> str:
    """Tell whether two results are of the same cells in the same order."""
    by_cell = pd.util.hash_pandas_object(names, index=False).to_numpy()
    return f"{len(names)} cells, {hashlib.sha256(by_cell.tobytes()).hexdigest()[:16]}"
