"""The result of a marginal-effect estimation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from scgraphvci.estimate._accumulate import FloatArray, IntArray
from scgraphvci.estimate._bands import N_DRAWS, SEED, InfluenceTotals, JointLevels, romano_wolf_p_values
from scgraphvci.estimate._combine import contrast
from scgraphvci.estimate._estimands import NULL
from scgraphvci.estimate._joint_bands import joint_bands
from scgraphvci.estimate._leak import Leaks
from scgraphvci.estimate._leakage import Leakage
from scgraphvci.estimate._multiplicity import adjust_p_values
from scgraphvci.estimate._pool import pool
from scgraphvci.estimate._sensitivity import sensitivity_frame
from scgraphvci.estimate._summary import overlap_frame, summary
from scgraphvci.estimate._tables import Strata, long_frame, positions, stratum_mask, to_adata

if TYPE_CHECKING:
    from anndata import AnnData

_GENE_COLUMNS = ("estimate", "std_error", "ci_low", "ci_high", "p_value", "p_value_adj", "robust", "observed", "plugin")
_ROW_COLUMNS = ("n_treated", "n_reference", "n_stratum", "n_clusters", "status")


@dataclass(frozen=True, repr=False)
class MarginalEffects:
    """Effects of treatments on the mean of every gene, in every stratum, with errors, intervals and p-values.

    Arrays are float64 of shape ``(n_treatments, n_strata, n_genes)`` unless said. An effect is the difference of means
    between treatment and reference, in units of the outcome; without a reference it is the mean under the treatment.
    With ``params["estimand"]`` it is the ratio or the log2 fold change of the two means instead.
    A contrast of two results holds their difference, whatever they are of.
    `robust`, `observed` and `plugin` are always given; error, interval and p-value belong to `estimate`.

    Parameters
    ----------
    treatments
        Names of the treatments.
    strata
        One row per stratum, one column per stratum key; a frame of one row and no column if there are no keys.
    genes
        Names of the genes.
    estimate
        The estimate by ``params["estimator"]``. Where the arm has no cells and the estimator is `robust`, the
        difference of predictions, with status `extrapolated`.
    std_error
        Standard error; NaN where the data allow none (see `status`).
    df
        Degrees of freedom of the t distribution; the last axis may have length one.
    robust, observed, plugin
        Eq. 4 of Wu et al. (ICLR 2023); difference of observed means; difference of mean predictions.
    n_treated, n_reference, n_stratum
        Cells of the stratum that received the treatment, that received the reference, and all of them,
        ``(n_treatments, n_strata)``.
    n_clusters
        Clusters with cells in the arm or in the reference, whichever are fewer, ``(n_treatments, n_strata)``;
        0 if errors are not clustered.
    share
        Share of the stratum's cells that the estimate averages over, ``(n_treatments, n_strata)``: below one where
        strata without both arms were left out of an average.
    status
        `ok`, `extrapolated`, `no_reference`, `too_few_cells`, `too_few_clusters` or `leak_detected`,
        ``(n_treatments, n_strata)``.
    params
        How the result was made: `estimator`, `reference`, `alpha`, `p_adjust`, `max_leak` and what the caller adds.
    influence
        Influence totals of clusters, for joint bands and Romano-Wolf p-values; `None` if they were not kept.
    leaks
        What `leakage` reports; `None` if the sums had neither clusters nor blocks.
    bands
        Levels of joint bands, where these were found in the place of keeping influence totals.
    third_cumulant
        Third cumulant of the estimate where outcomes are counts, for joint bands; `None` elsewhere.

    Raises
    ------
    ValueError
        If the name of a stratum key is also a column of `to_frame`, or a shape is wrong.
    """

    treatments: pd.Index
    strata: pd.DataFrame
    genes: pd.Index
    estimate: FloatArray
    std_error: FloatArray
    df: FloatArray
    robust: FloatArray
    observed: FloatArray
    plugin: FloatArray
    n_treated: IntArray
    n_reference: IntArray
    n_stratum: IntArray
    n_clusters: IntArray
    share: FloatArray
    status: NDArray[np.object_]
    params: Mapping[str, Any]
    influence: InfluenceTotals | None = None
    leaks: Leaks | None = None
    bands: JointLevels | None = None
    third_cumulant: FloatArray | None = None

    def __post_init__(self) -> None:
        reserved = {"treatment", "gene", *_GENE_COLUMNS, *_ROW_COLUMNS}
        taken = sorted(reserved.intersection(self.strata.columns))
        if taken:
            msg = f"Stratum keys {taken} are names of result columns. Rename those columns of `obs`."
            raise ValueError(msg)
        by_row = (len(self.treatments), len(self.strata))
        for name in ("estimate", "std_error", "robust", "observed", "plugin"):
            if getattr(self, name).shape != (*by_row, len(self.genes)):
                msg = f"`{name}` has shape {getattr(self, name).shape}, expected {(*by_row, len(self.genes))}."
                raise ValueError(msg)

    @cached_property
    def p_value(self) -> FloatArray:
        """Two-sided p-value of the t-test of no effect, or of one no larger than the bias that is allowed for.

        NaN without a reference (a mean has no null value) and where the standard error is zero or NaN.
        """
        if self.params["reference"] is None and not self.is_contrast:
            return np.full_like(self.estimate, np.nan)
        testable = self.std_error > 0
        null = NULL[self.params.get("estimand", "difference")]
        beyond = np.maximum(np.abs(self.estimate - null) - self._allowed_bias, 0.0)
        t = np.divide(beyond, self.std_error, out=np.full_like(self.estimate, np.nan), where=testable)
        return 2.0 * special.stdtr(self.df, -t)

    @cached_property
    def p_value_adj(self) -> FloatArray:
        """P-value adjusted over the genes of each treatment and stratum by ``params["p_adjust"]``."""
        if self.params["p_adjust"] == "romano_wolf":
            return romano_wolf_p_values(self._kept_influence(), self.p_value)
        return adjust_p_values(self.p_value, self.params["p_adjust"])

    @property
    def is_contrast(self) -> bool:
        """Whether this is the difference of two results."""
        return "contrast_of" in self.params

    @property
    def _allowed_bias(self) -> FloatArray | float:
        max_leak = self.params.get("max_leak", 0.0)
        return max_leak * np.abs(self.plugin) if max_leak else 0.0

    @cached_property
    def _half_width(self) -> FloatArray:
        quantile = special.stdtrit(self.df, 1.0 - self.params["alpha"] / 2.0)
        return quantile * self.std_error + self._allowed_bias

    @property
    def ci_low(self) -> FloatArray:
        """Lower end of the pointwise interval of level ``1 - params["alpha"]``."""
        return self.estimate - self._half_width

    @property
    def ci_high(self) -> FloatArray:
        """Upper end of the pointwise interval of level ``1 - params["alpha"]``."""
        return self.estimate + self._half_width

    def joint_bands(
        self, n_draws: int = N_DRAWS, seed: int = SEED
    ) -> tuple[FloatArray, FloatArray, NDArray[np.object_]]:
        """Bands that hold all genes of a treatment and stratum together with probability ``1 - params["alpha"]``.

        From 12 clusters of like size on, the critical value is a quantile of the largest t statistic over genes, drawn
        by a multiplier bootstrap: influence totals of whole clusters change their signs at random, and every draw is
        divided by its own standard error. Genes keep their correlation. Without clusters, 50 random blocks of cells
        take their place, and the critical value is applied at each gene's own degrees of freedom, though no more than
        the cells of the smaller arm less one: an estimate of them, as Welch's is, errs where the error is too small,
        which counts far out. Otherwise the bands are Bonferroni's.

        Means of counts are skewed, and bands around them miss to one side. With `min_counts` and independent cells the
        band of a difference reaches further on that side, by Hall's transformation (1992) with the third cumulant of
        negative binomial counts. Intervals and p-values of single genes are as they are.

        Parameters
        ----------
        n_draws
            Draws of the bootstrap.
        seed
            Seed of the draws.

        Returns
        -------
        Lower and upper ends, ``(n_treatments, n_strata, n_genes)``, and the method of every treatment and stratum,
        "multiplier_bootstrap" or "bonferroni", `None` where there is no error.

        Raises
        ------
        ValueError
            If influence totals were not kept.
        """
        return joint_bands(self, n_draws, seed)

    def leakage(self) -> Leakage:
        """Report how far predictions tell the arms of a stratum apart, which `robust` assumes they do not.

        Raises
        ------
        ValueError
            If the leak was not measured.
        """
        if self.leaks is None:
            msg = (
                "This result has no leak measured: it is a contrast, or pooled (ask the results it was made of), or of "
                "sums without clusters or blocks."
            )
            raise ValueError(msg)
        return Leakage(self)

    def sensitivity(
        self,
        leaks: float | Iterable[float] = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2),
        treatments: str | Sequence[str] | None = None,
        strata: Strata = None,
        genes: str | Sequence[str] | None = None,
    ) -> pd.DataFrame:
        r"""Show what estimate and interval of `robust` become as larger and larger leaks are allowed for.

        If a share l of the treatment's predicted effect leaks into the predictions of cells that received it, the
        contrast is off by :math:`-l` times that effect (see the guide on estimands). For every leak up to l, of either
        sign, the truth then lies within the interval widened by l times the predicted effect on both sides.

        Parameters
        ----------
        leaks
            Shares of the predicted effect, at least 0.
        treatments, strata, genes
            As in `to_frame`.

        Returns
        -------
        One row per treatment, stratum, gene and leak: `leak`, `estimate`, `estimate_low`, `estimate_high` (the
        estimates possible), `ci_low`, `ci_high` (the interval valid for every leak up to this one), `p_value`, and
        `leak_to_insignificance`: the leak from which on the effect is no longer significant at level
        ``params["alpha"]``; 0 where it is not without leak, infinite where no effect is predicted.

        Raises
        ------
        ValueError
            If the result is not of `robust` with a reference or is a contrast, or a leak is negative.
        """
        return sensitivity_frame(self.select(treatments, strata), leaks, positions(self.genes, genes, "gene"))

    def overlap(self) -> pd.DataFrame:
        """Count what every estimate rests on, one row per treatment and stratum.

        Returns
        -------
        Columns `treatment`, one per stratum key, `n_treated`, `n_reference`, `n_stratum`, `n_clusters`, `propensity`
        (treated over all cells of the stratum), `share` (see the class), `n_effective` (harmonic: the number of cells
        per arm of a balanced comparison of the same precision at equal variances), `status`.
        """
        return overlap_frame(self)

    def _kept_influence(self) -> InfluenceTotals:
        if self.influence is None:
            msg = (
                "This result holds no influence totals. Estimate 'robust' or 'observed' with `keep_influence=True` "
                "(and, on arrays, with clusters or blocks)."
            )
            raise ValueError(msg)
        return self.influence

    def select(self, treatments: str | Sequence[str] | None = None, strata: Strata = None) -> MarginalEffects:
        """The same result for some treatments and strata.

        Parameters
        ----------
        treatments
            Names to keep, in this order; all by default.
        strata
            For any stratum keys, the level or levels to keep, as in ``{"cell_type": ["B", "T"]}``; of a single key also
            without it, as in ``["B", "T"]``.

        Raises
        ------
        KeyError
            If a treatment, stratum key or level is not in the result.
        """
        return self._take(
            positions(self.treatments, treatments, "treatment"), np.flatnonzero(stratum_mask(self.strata, strata))
        )

    def contrast(self, other: MarginalEffects, *, independent: bool = False) -> MarginalEffects:
        """Difference of two results: of two treatments, two strata or two doses, say.

        Influence totals of the same clusters (of the same random blocks of independent cells) are subtracted, so that
        cells in both results, such as those of a common reference, count once. Errors have G - 1 degrees of freedom,
        G the fewer clusters or blocks of both. So those of independent cells rest on 50 blocks, and are off by about
        10 %: estimate the difference of two treatments with one of them as `reference`, or with
        ``keep_influence="cells"``, for errors from every cell.

        Parameters
        ----------
        other
            What to subtract. A result of one treatment or one stratum is subtracted from all.
        independent
            Whether the results share no cell and no cluster: variances then add, and totals are not needed.

        Returns
        -------
        Treatments and levels that differ are named "a - b". Counts are the smaller ones; `status` is that of this
        result, or of the other where this one is `ok`.

        Raises
        ------
        ValueError
            If genes, stratum keys, estimator or scale differ, shapes do not match, a result allows for a leak, or the
            covariance is not known.
        """
        return contrast(self, other, independent=independent)

    def pool(
        self, over: str | Sequence[str] | None = None, *, weights: Literal["cells", "precision"] = "cells"
    ) -> MarginalEffects:
        r"""Average strata over some of their keys: the effect in a cell type, from effects in cell type and donor, say.

        Influence totals of a cluster are summed over the strata it has cells in, so that strata which share donors are
        not taken for independent; joint bands, contrasts and further pooling work on the average as on any result.

        Parameters
        ----------
        over
            Stratum keys to average over; all of them if None.
        weights
            "cells": strata count by all their cells. The result is that of `marginal_effect` with the coarser
            `groupby`, in which a cluster's own mixture of strata is part of the error.
            "precision": strata count by :math:`n_a n_0 / (n_a + n_0)`, cells of the arm and of the reference (by
            :math:`n_a` without one): the inverse variance where cells vary equally. The average leans to strata with
            large and balanced arms and is more precise than the mean over cells; it answers the same question only
            where strata have the same effect. With `observed` it is the coefficient of the treatment in a least-squares
            fit with an intercept for each stratum. Weights by estimated variances are not offered: they favour strata
            whose error is small by chance, and the interval would not know.

        Returns
        -------
        Strata in the order of their first appearance, averaged over those that have both arms; `share` states the cells
        these hold. There is no report on the leak (`leakage`), which needs the predictions of all strata together: the
        status is `leak_detected` where a leak is found in a stratum, by Bonferroni's bound over strata, or in the
        average by what strata that share no cluster bring to it, and `robust` and `observed` lie .41 standard errors
        apart.

        Raises
        ------
        KeyError
            If `over` names no stratum key.
        ValueError
            If `weights` is unknown, influence totals were not kept, or the result is a contrast, or of a ratio or fold
            change.

        Notes
        -----
        Kept in float32, totals give clustered errors to about 7 digits; ``keep_influence="float64"`` gives all.

        Examples
        --------
        >>> import numpy as np, pandas as pd
        >>> from scgraphvci.estimate import EffectSums, Groups, marginal_effects
        >>> rng = np.random.default_rng(0)
        >>> donor, treated = np.repeat([0, 1], 100), np.tile([True, False], 100)
        >>> groups, group = Groups.from_codes(donor)
        >>> sums = EffectSums(groups, n_genes=1)
        >>> outcome = rng.normal(size=(200, 1)) + 2 * treated[:, None]
        >>> sums.update(outcome, np.full((200, 1), 2.0), np.zeros((200, 1)), treated, ~treated, group)
        >>> strata = pd.DataFrame({"donor": ["1", "2"]})
        >>> effects = marginal_effects([("STAT1", sums)], strata=strata, genes=["g"])
        >>> pooled = effects.pool("donor")
        >>> bool(np.isclose(pooled.estimate[0, 0, 0], effects.estimate[0, :, 0].mean()))
        True
        """
        return pool(self, over, weights)

    def _take(self, treatments: IntArray, strata: IntArray) -> MarginalEffects:
        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changes[field.name] = value[np.ix_(treatments, strata)]
            elif isinstance(value, InfluenceTotals | JointLevels | Leaks):
                changes[field.name] = value.take(treatments, strata)
        kept = self.strata.iloc[strata].reset_index(drop=True)
        return replace(self, treatments=self.treatments[treatments], strata=kept, **changes)

    def to_frame(
        self,
        treatments: str | Sequence[str] | None = None,
        strata: Strata = None,
        genes: str | Sequence[str] | None = None,
        *,
        joint: bool = False,
    ) -> pd.DataFrame:
        """Long frame with one row per treatment, stratum and gene.

        P-values are adjusted over all genes of the result, whichever are asked for here.

        Parameters
        ----------
        treatments, strata
            As in `select`.
        genes
            Genes to keep, in this order; all by default.
        joint
            Add the bands of `joint_bands`, over all genes of the result.

        Returns
        -------
        Columns `treatment`, one per stratum key, `gene`, `estimate`, `std_error`, `ci_low`, `ci_high`, `p_value`,
        `p_value_adj`, `robust`, `observed`, `plugin`, `n_treated`, `n_reference`, `n_stratum`, `n_clusters`, `status`;
        with `joint` also `band_low`, `band_high`, `band_method`. Of a screen with doses also `dose`, as text, after
        `treatment`, unless a stratum key is so called.

        Raises
        ------
        KeyError
            If a treatment, stratum key, level or gene is not in the result.
        """
        chosen = self.select(treatments, strata)
        by_gene = {name: getattr(chosen, name) for name in _GENE_COLUMNS}
        by_row = {name: getattr(chosen, name) for name in _ROW_COLUMNS}
        if joint:
            by_gene["band_low"], by_gene["band_high"], by_row["band_method"] = chosen.joint_bands()
        kept = positions(self.genes, genes, "gene")
        frame = long_frame(chosen, by_row, by_gene, kept)
        if self.params.get("doses") and "dose" not in frame:
            frame.insert(1, "dose", frame["treatment"].map(self.params["doses"]))
        frame.loc[chosen._without_error[:, :, kept].ravel(), "status"] = "too_few_cells"
        return frame

    @property
    def _without_error(self) -> NDArray[np.bool_]:
        """Genes without an error in rows that have one: too few counts, or an outcome that is the same in all cells."""
        with_error = np.isin(self.status, ("ok", "leak_detected")) & (self.params["estimator"] != "plugin")
        return with_error[:, :, None] & np.isnan(self.std_error) & np.isfinite(self.estimate)

    def to_adata(self) -> AnnData:
        """AnnData with one row per treatment and stratum and one column per gene, for scanpy's plots.

        Returns
        -------
        ``X`` holds `estimate`; ``layers`` the other columns of `to_frame` that vary over genes; ``obs`` the treatment,
        the stratum keys (both categorical), `n_treated`, `n_reference`, `n_stratum`, `n_clusters`, `share` and
        `status`; ``uns["marginal_effects"]`` the parameters that are set.
        """
        return to_adata(self, _GENE_COLUMNS)

    def __repr__(self) -> str:
        """Return size, estimator and how many rows have which status."""
        return "\n".join(["MarginalEffects", *(f"    {name}: {value}" for name, value in summary(self))])

    def _repr_html_(self) -> str:
        table = pd.DataFrame(summary(self)).to_html(header=False, index=False, border=0)
        return f"<strong>MarginalEffects</strong>{table}"
