"""The report on the leak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import special

from scgraphvci.estimate._leak import Leaks
from scgraphvci.estimate._tables import long_frame, positions

if TYPE_CHECKING:
    from scgraphvci.estimate._result import MarginalEffects

POWER = 0.8
"""Probability with which a leak of the size called detectable is found."""


@dataclass(frozen=True, repr=False)
class Leakage:
    """How far predictions tell the arms of a stratum apart.

    `robust` is unbiased only if the prediction under a treatment has the same mean in cells that received it as in the
    rest of the stratum. `to_frame` gives that difference gene by gene, `summary` tests it over all genes. Intervals
    and tests have the level of the result, and its clusters.

    Parameters
    ----------
    effects
        The result the report is on.
    """

    effects: MarginalEffects

    @property
    def _leaks(self) -> Leaks:
        if self.effects.leaks is None:
            msg = "The leak was not measured for this result."
            raise ValueError(msg)
        return self.effects.leaks

    def summary(self) -> pd.DataFrame:
        """Test the leak over genes, one row per treatment and stratum.

        Two tests share the level. One asks for a leak in any direction: the sum over genes of squared t statistics of
        `robust` less `observed` against the same sum when signs of clusters' contributions (of 50 random blocks of
        independent cells) are drawn at random. It is valid for correlated genes, and for more genes than clusters; with
        fewer than 7 clusters it cannot reject at 5 %. The other looks where a leak would show: it regresses minus that
        difference on the predicted effect and tests the slope, which is the share of the effect that leaks, by t-test.

        Returns
        -------
        Columns `treatment`, one per stratum key, and

        * `p_value`: of both tests together (twice the smaller one), with `detected` where it is at most the level;
        * `p_any`, `p_share`: of each;
        * `share`, `share_low`, `share_high`: the share of the predicted effect that leaks, and its interval; NaN
          without a reference, where no effect is predicted;
        * `share_detectable`: the smallest share that a test at this n would find with probability .8;
        * `dispersion`: mean over genes of the squared t statistic of `robust` less `observed`, about one without a
          leak;
        * `p_fitted`: p-value that the two agree no better than chance allows: small where predictions were fitted to
          these very cells so closely that their errors cannot be trusted;
        * `bias_in_errors`: root mean square over genes of the bias that the leak leaves in `robust` as it was made,
          with the guard or without, in standard errors of the estimate, beyond chance: in any direction or along the
          effect, whichever is larger. The status is `leak_detected` where the test that found a leak finds this to be
          at least .41, with which 95 % intervals hold the truth in 93 % of cases;
        * `n_treated`, `n_stratum`, `n_clusters`, `status`.

        All but `bias_in_errors` are of Eq. 4 as published: what the model leaks, whatever a guard makes of it.
        """
        leaks = self._leaks
        quantile = special.stdtrit(leaks.share_df, 1.0 - self._alpha / 2.0)
        by_row = {
            "p_value": leaks.p_value,
            "detected": leaks.p_value <= self._alpha,
            "p_any": leaks.p_any,
            "p_share": leaks.p_share,
            "share": leaks.share,
            "share_low": leaks.share - quantile * leaks.share_error,
            "share_high": leaks.share + quantile * leaks.share_error,
            "share_detectable": (quantile + special.stdtrit(leaks.share_df, POWER)) * leaks.share_error,
            "dispersion": leaks.dispersion,
            "p_fitted": leaks.p_fitted,
            "bias_in_errors": np.sqrt(np.maximum(np.fmax(leaks.excess, leaks.excess_share), 0.0)),
        }
        counts = {name: getattr(self.effects, name) for name in ("n_treated", "n_stratum", "n_clusters", "status")}
        return long_frame(self.effects, by_row | counts)

    def to_frame(
        self,
        treatments: str | Sequence[str] | None = None,
        strata: Mapping[str, Any] | None = None,
        genes: str | Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Leak of every gene, one row per treatment, stratum and gene.

        Parameters
        ----------
        treatments, strata, genes
            As in `MarginalEffects.to_frame`.

        Returns
        -------
        Columns `treatment`, one per stratum key, `gene`, and

        * `leak`: mean prediction under the treatment in the cells that received it less that in the rest of the
          stratum, in units of the outcome, with `std_error`, `ci_low`, `ci_high`, `p_value`;
        * `leak_reference`, `leak_reference_error`: the same against the cells of the reference;
        * `bias`: `robust` less `observed`, which is what the leaks of both arms do to the contrast;
        * `detectable`: the smallest leak found with probability .8 at this n, gene by gene; `detectable_in_errors`: the
          same in standard errors of the effect.

        Raises
        ------
        KeyError
            If a treatment, stratum key, level or gene is not in the result.
        """
        effects = self.effects.select(treatments, strata)
        leaks = Leakage(effects)._leaks
        df = leaks.df[:, :, None]
        error = leaks.leak_error.astype(np.float64)
        quantile = special.stdtrit(df, 1.0 - self._alpha / 2.0)
        testable = error > 0
        t = np.divide(leaks.leak, error, out=np.full(error.shape, np.nan), where=testable)
        detectable = (quantile + special.stdtrit(df, POWER)) * error
        by_gene = {
            "leak": leaks.leak,
            "std_error": error,
            "ci_low": leaks.leak - quantile * error,
            "ci_high": leaks.leak + quantile * error,
            "p_value": 2.0 * special.stdtr(df, -np.abs(t)),
            "leak_reference": leaks.leak_reference,
            "leak_reference_error": leaks.leak_reference_error,
            "bias": effects.robust - effects.observed,
            "detectable": detectable,
            "detectable_in_errors": np.divide(
                detectable, effects.std_error, out=np.full(error.shape, np.nan), where=effects.std_error > 0
            ),
        }
        return long_frame(effects, {}, by_gene, positions(effects.genes, genes, "gene"))

    @property
    def _alpha(self) -> float:
        return float(self.effects.params["alpha"])

    def __repr__(self) -> str:
        """Return in how many rows a leak was found, and how large a leak is."""
        summary = self.summary()
        tested = summary[np.isfinite(summary["p_value"])]
        lines = [
            "Leakage",
            f"    tested: {len(tested)} of {len(summary)} treatments and strata",
            f"    detected: {int(tested['detected'].sum())} at level {self._alpha:g}, by chance about "
            f"{self._alpha * len(tested):.1f}",
        ]
        if np.isfinite(tested["share"]).any():
            lines.append(
                f"    share of the effect: median {tested['share'].median():.3f}; "
                f"detectable with {POWER:.0%} power: median {tested['share_detectable'].median():.3f}"
            )
        return "\n".join(lines)
