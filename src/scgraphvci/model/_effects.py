"""Average effects of treatments in strata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scgraphvci.estimate import MarginalEffects, coarsen_strata, marginal_effects, median_effects
from scgraphvci.estimate._request import check_request
from scgraphvci.model._calibration import CalibrationMixin, fewest_counts
from scgraphvci.model._checks import check_clusters, warn_of_few_clusters, warn_of_small_panel
from scgraphvci.model._cross_fit import Predictor, covariate_levels, fit_folds, release
from scgraphvci.model._effect_cells import by_cell, effect_cells, fingerprint
from scgraphvci.model._effect_sums import effect_sums
from scgraphvci.model._folds import assign_folds, repetition_seeds
from scgraphvci.model._guard import check_guard, learn_guard
from scgraphvci.module._likelihood import is_count

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgraphvci.data._treatments import Dose
    from scgraphvci.estimate._estimands import Estimand
    from scgraphvci.estimate._influence import Estimator
    from scgraphvci.estimate._request import EffectAdjustment
    from scgraphvci.model._guard import LeakGuard


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
            `params` of the result names them. Rare levels of others only cause a warning. Within
            ``joblib.parallel_config`` with processes the models are trained in parallel.
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
        cells = effect_cells(self, adata, groupby if pooled else None, cluster_key)
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
            cells = by_cell(cells, reported, len(names), self.summary_stats["n_vars"], cluster_key)
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
        check_guard(leak_guard, self.module.likelihood)
        check_request(
            estimator, reference, estimand, pseudocount, min_cells, least_counts, alpha, p_adjust, max_leak,
            kept,
        )  # fmt: skip
        for name in [*names, *([] if reference is None else [reference])]:
            self._vector(name, dose if name in names else None)
        left_out: list[str] = []

        def estimate(predictors: list[Predictor]) -> MarginalEffects:
            guard = learn_guard(predictors, cells, leak_guard, batch_size)
            return marginal_effects(
                effect_sums(self, predictors, cells, names, reference, dose, batch_size, guard.states),
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
                    "cells": fingerprint(self._table(adata).obs_names[cells.cell]),
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
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            msg = f"`treatments` names {repeated} more than once. Name each treatment once."
            raise ValueError(msg)
        return names


def _check_repeats(n_repeats: int, cross_fit: int) -> None:
    if n_repeats < 1 or (n_repeats > 1 and not cross_fit):
        msg = (
            f"`n_repeats` is {n_repeats} with cross_fit={cross_fit}: it must be at least 1, and 1 without folds to "
            "draw anew. Give `cross_fit` too."
        )
        raise ValueError(msg)
