"""From the sums of every treatment to `MarginalEffects`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scgraphvci.estimate._accumulate import EffectSums, FloatArray, IntArray
from scgraphvci.estimate._average import StratumAverage
from scgraphvci.estimate._bands import InfluenceTotals, JointLevels, joint_levels
from scgraphvci.estimate._clusters import Clusters
from scgraphvci.estimate._estimands import Estimand, error_totals
from scgraphvci.estimate._guarded import GuardedSums
from scgraphvci.estimate._influence import Estimator, stratum_moments
from scgraphvci.estimate._leak import Leaks, measure_leak
from scgraphvci.estimate._request import EffectAdjustment, check_request
from scgraphvci.estimate._result import MarginalEffects
from scgraphvci.estimate._rows import Rows, estimate_rows
from scgraphvci.estimate._skewness import third_cumulant
from scgraphvci.estimate._stack import Stack


def marginal_effects(
    sums: Iterable[tuple[str, EffectSums | GuardedSums]],
    *,
    strata: pd.DataFrame,
    genes: Sequence[str] | pd.Index,
    reported: ArrayLike | None = None,
    estimator: Estimator = "robust",
    reference: str | None = "control",
    estimand: Estimand = "difference",
    pseudocount: float = 0.0,
    min_cells: int = 10,
    min_counts: float = 0.0,
    alpha: float = 0.05,
    p_adjust: EffectAdjustment | None = "fdr_bh",
    max_leak: float = 0.0,
    arm_variance: float = 0.0,
    concentrated: ArrayLike | None = None,
    keep_influence: bool | Literal["float64", "bands"] = True,
    params: Mapping[str, Any] | None = None,
) -> MarginalEffects:
    """Marginal effects of treatments, from sums over cells.

    Errors are clustered if the sums were made with clusters. Intervals are t intervals: with Welch and Satterthwaite's
    degrees of freedom at the level of cells, with G - 1 for G clusters. Where the leak test rejects at level `alpha`
    and the bias that is left makes intervals cover less than about .93, `robust` has the status `leak_detected`.

    Parameters
    ----------
    sums
        Pairs of treatment name and its sums. Taken one at a time, so a generator need hold one only. With
        `GuardedSums`, `robust` is made with other predictions than the model's, and its errors hold what these bring.
    strata
        Reported strata: one row each, one column per stratum key.
    genes
        Names of the genes.
    reported
        Row of `strata` for each stratum of the sums, ``(n_strata,)``, as `coarsen_strata` gives; by default each
        stratum is reported. Strata that share a row are averaged with weights proportional to their cells, over those
        that have both arms; the share of cells these hold is in the result. For the raw mean over a coarser stratum,
        make the sums with coarser strata instead.
    estimator
        `"robust"` (Eq. 4), `"observed"` or `"plugin"` (which has no error).
    reference
        Name of the reference; `None` if the sums were made without one.
    estimand
        `"difference"` of means, their `"ratio"`, or `"log_fold_change"` to base 2, of means in units of the outcome and
        standardised over strata before they are compared (delta method). A mean alone has no reference.
    pseudocount
        Added to both means of a ratio or fold change, in units of the outcome; NaN where a mean is then not above zero.
    min_cells
        Fewest cells, in the arm and in the reference, for an error to be given; at least 2.
    min_counts
        Fewest counts to be expected in the smaller arm, its cells times the mean over both arms, for a gene to have an
        error: 100 where outcomes are counts. Genes that vary more than 1.9 times their mean need more, for as little
        skewness. With fewer the mean is skewed and no t interval holds its level far out,
        where p-values of many genes are read. Joint bands of independent cells then allow for the skewness of counts,
        see `MarginalEffects.joint_bands`. 0 where outcomes are no counts.
    alpha
        One minus the level of the intervals.
    p_adjust
        Adjustment over the genes of each treatment and stratum, see `adjust_p_values`; or `"romano_wolf"`, which
        controls the family-wise error and uses the correlation of genes.
    max_leak
        Share of the treatment's predicted effect that may leak into predictions: the interval of `robust` then holds
        the truth for every leak up to it. Its width grows by twice `max_leak` times the predicted effect, and p-values
        test whether the effect exceeds that bound. Needs a reference.
    arm_variance
        How far the latents of a stratum's arms lie apart beyond chance, in units of the variance within arms. `robust`
        makes the share ``v / (v + f * arm_variance)`` of Eq. 4's correction, with ``v = 1 / n_arm - 1 / n_stratum`` and
        `f` about 1 (see `concentrated`): the more cells an arm has, the less of a difference between predictions is due
        to the cells drawn.
    concentrated
        Sum over the arms of each stratum of their squared shares of its cells, ``(n_strata,)``: f is 1 plus that, less
        twice the arm's own share. If None, cells in neither arm are taken to be of many small arms.
    keep_influence
        Keep the influence totals of every cluster (or of 50 random blocks of cells) in the result, float32, for joint
        bands, Romano-Wolf p-values, contrasts and pooling: ``(n_treatments, n_strata, n_clusters, n_genes)``.
        ``"float64"`` keeps all their digits; ``"bands"`` what joint bands need, a number for each row. Influence values
        of single cells are the totals of sums made with `Groups.of_cells`.
    params
        Further entries for the parameters of the result (`perturbation_key`, `cluster_key`, `scale`, ...).

    Returns
    -------
    The effects, treatments in the order given.

    Raises
    ------
    ValueError
        If an option is not allowed, no treatment is given, or sums, strata and genes do not fit each other.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgraphvci.estimate import EffectSums, Groups
    >>> rng = np.random.default_rng(0)
    >>> treated = np.repeat([True, False], 50)
    >>> groups, group = Groups.from_codes(np.zeros(100, dtype=int))
    >>> sums = EffectSums(groups, n_genes=1)
    >>> outcome = rng.normal(size=(100, 1)) + 2 * treated[:, None]
    >>> sums.update(outcome, np.full((100, 1), 2.0), np.zeros((100, 1)), treated, ~treated, group)
    >>> marginal_effects([("STAT1", sums)], strata=pd.DataFrame(index=[0]), genes=["g"])
    MarginalEffects
        estimand: difference to 'control'
        size: 1 treatments x 1 strata x 1 genes
        strata: none
        estimator: robust
        errors: independent cells
        status: ok 1
    """
    check_request(
        estimator, reference, estimand, pseudocount, min_cells, min_counts, alpha, p_adjust, max_leak, keep_influence
    )
    names: list[str] = []
    rows, leaks, influence, bands = Stack(), Stack(), Stack(), Stack()
    independent = False
    squared_shares = None if concentrated is None else np.asarray(concentrated, dtype=np.float64)
    for name, given in sums:
        model_sums = given.model if isinstance(given, GuardedSums) else given
        codes = _reported_codes(model_sums, reported, strata, genes, with_reference=reference is not None)
        names.append(name)
        of_model = stratum_moments(model_sums, arm_variance, squared_shares)
        treatment_sums, moments, made = model_sums, of_model, None
        if isinstance(given, GuardedSums):
            treatment_sums, moments = made = given.made, given.moments(of_model, arm_variance, squared_shares)
        average = StratumAverage.of(moments, codes, len(strata))
        groups, totals = treatment_sums.groups, None
        clusters = None if groups.cluster is None else average.clusters(treatment_sums)
        if estimator != "plugin" and clusters is not None and (groups.clustered or keep_influence):
            totals = error_totals(treatment_sums, moments, average, estimator, estimand, pseudocount)
        row, variance, df = estimate_rows(
            moments, average, clusters, estimator, estimand, pseudocount, min_cells, min_counts, totals
        )
        if keep_influence and clusters is not None and totals is not None:
            independent = groups.independent
            held = totals if keep_influence == "float64" else totals.astype(np.float32)
            kept = _kept(clusters, held, variance, df)
            if keep_influence == "bands":
                bands.add(_levels(kept, row, alpha, independent=independent))
            else:
                influence.add(kept)
        del totals
        if clusters is not None:
            leak = measure_leak(model_sums, of_model, average, clusters, row.std_error, made)
            if estimator == "robust":
                row.status[(row.status == "ok") & leak.harmful(alpha)] = "leak_detected"
            leaks.add(vars(leak))
        skewed = min_counts > 0 and estimator != "plugin" and estimand == "difference" and not groups.clustered
        rows.add(vars(row) | ({"third_cumulant": third_cumulant(moments, average, estimator)} if skewed else {}))
        del given, model_sums, treatment_sums, of_model, moments, made, groups  # before the next sums are made
    if not names:
        msg = "No treatment to estimate an effect of. Give at least one pair of name and sums."
        raise ValueError(msg)
    made_with = {
        "estimator": estimator,
        "reference": reference,
        "estimand": estimand,
        "alpha": alpha,
        "p_adjust": p_adjust,
        "max_leak": max_leak,
        "arm_variance": arm_variance,
        "min_counts": min_counts,
    }
    return MarginalEffects(
        treatments=pd.Index(names, dtype=object),
        strata=strata.reset_index(drop=True),
        genes=pd.Index(genes),
        params={**made_with, "min_cells": min_cells, "pseudocount": pseudocount, **(params or {})},
        leaks=Leaks(**leaks.arrays) if leaks.arrays else None,
        influence=InfluenceTotals(**influence.arrays, independent=independent) if influence.arrays else None,
        bands=JointLevels(**bands.arrays) if bands.arrays else None,
        **rows.arrays,
    )


def _levels(kept: dict[str, NDArray[Any]], row: Rows, alpha: float, *, independent: bool) -> dict[str, NDArray[Any]]:
    """Levels of joint bands of one treatment, and how they were found."""
    one = InfluenceTotals(kept["total"][None], kept["n_clusters"][None], kept["effective"][None], independent)
    found = joint_levels(one, (row.std_error > 0)[None], alpha)
    return {"level": found.level[0], "method": found.method[0]}


def _kept(clusters: Clusters, totals: NDArray[Any], variance: FloatArray, df: FloatArray) -> dict[str, NDArray[Any]]:
    """Entries of the influence totals of one treatment."""
    kept = {"total": totals, "n_clusters": clusters.n, "effective": clusters.effective, "cells": clusters.cells}
    return kept | {"variance": variance, "df": df} if clusters.independent else kept


def _reported_codes(
    sums: EffectSums,
    reported: ArrayLike | None,
    strata: pd.DataFrame,
    genes: Sequence[str] | pd.Index,
    *,
    with_reference: bool,
) -> IntArray:
    n_strata = sums.groups.n_strata
    codes = np.arange(n_strata) if reported is None else np.asarray(reported, dtype=np.int64)
    if codes.shape != (n_strata,) or (n_strata and not 0 <= codes.min() <= codes.max() < len(strata)):
        msg = (
            f"The sums have {n_strata} strata, `strata` {len(strata)} rows: `reported` must give each of the "
            f"{n_strata} a row in 0 to {len(strata) - 1}. Use `coarsen_strata`."
        )
        raise ValueError(msg)
    if len(genes) != sums.n_genes:
        msg = f"`genes` has {len(genes)} names, the sums have {sums.n_genes} genes. Give one name per gene."
        raise ValueError(msg)
    if sums.with_reference != with_reference:
        msg = f"The sums were made with_reference={sums.with_reference}; `reference` must be None if and only if not."
        raise ValueError(msg)
    return codes
