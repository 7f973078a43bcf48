"""Whether p-values are uniform where nothing differs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from scgraphvci.estimate._accumulate import FloatArray
from scgraphvci.estimate._result import MarginalEffects
from scgraphvci.estimate._tables import long_frame

_CHI2_MEDIAN = float(stats.chi2.ppf(0.5, df=1))


@dataclass(frozen=True, repr=False)
class Calibration:
    """P-values of comparisons of control cells with control cells, which should be uniform.

    Parameters
    ----------
    robust, observed
        The comparisons by either estimator. "Treatments" are random halves of the control cells, or guides.

    Raises
    ------
    ValueError
        If the two results are not of the same comparisons.
    """

    robust: MarginalEffects
    observed: MarginalEffects

    def __post_init__(self) -> None:
        if self.robust.estimate.shape != self.observed.estimate.shape:
            msg = f"The results have shapes {self.robust.estimate.shape} and {self.observed.estimate.shape}."
            raise ValueError(msg)

    def to_frame(self) -> pd.DataFrame:
        """P-values, one row per comparison, stratum and gene.

        Returns
        -------
        Columns `treatment`, one per stratum key, `gene`, `p_robust`, `p_observed`; NaN where there is no error.
        """
        by_gene = {f"p_{name}": effects.p_value for name, effects in self._both()}
        return long_frame(self.robust, {}, by_gene, np.arange(len(self.robust.genes)))

    def summary(self) -> pd.DataFrame:
        """How far p-values are from uniform, one row per estimator, comparison and stratum.

        Returns
        -------
        Columns `estimator`, `treatment`, one per stratum key, and

        * `inflation`: median of the chi-square statistics of all genes over its expectation, .4549 (Devlin and Roeder,
          Biometrics 1999): one if p-values are uniform, above one if they are too small;
        * `share_significant`: share of p-values of at most ``params["alpha"]``;
        * `ks_statistic`, `ks_p_value`: Kolmogorov-Smirnov test of uniformity. It takes genes for independent, so
          correlated genes make it reject too often: judge single comparisons by several of them;
        * `n_genes` with a p-value, `status`.
        """
        parts = []
        for name, effects in self._both():
            found = [_uniformity(p, effects.params["alpha"]) for p in effects.p_value.reshape(-1, len(effects.genes))]
            shape = effects.status.shape
            by_row = {key: np.array([one[key] for one in found]).reshape(shape) for key in found[0]}
            frame = long_frame(effects, by_row | {"status": effects.status})
            frame.insert(0, "estimator", name)
            parts.append(frame)
        return pd.concat(parts, ignore_index=True)

    def _both(self) -> list[tuple[str, MarginalEffects]]:
        return [("robust", self.robust), ("observed", self.observed)]

    def __repr__(self) -> str:
        """Return the median inflation, and the share of p-values below the level, of both estimators."""
        table = self.summary().groupby("estimator", sort=False)[["inflation", "share_significant"]].median()
        lines = [
            f"    {name}: inflation {row['inflation']:.2f}, {row['share_significant']:.1%} significant at level "
            f"{self.robust.params['alpha']:g}"
            for name, row in table.iterrows()
        ]
        shape = f"{len(self.robust.treatments)} comparisons x {len(self.robust.strata)} strata"
        return "\n".join(["Calibration", f"    size: {shape} x {len(self.robust.genes)} genes", *lines])


def _uniformity(p_value: FloatArray, alpha: float) -> dict[str, float]:
    known = p_value[np.isfinite(p_value)]
    if not known.size:
        return dict.fromkeys(("inflation", "share_significant", "ks_statistic", "ks_p_value"), np.nan) | {"n_genes": 0}
    test = stats.kstest(known, "uniform")
    return {
        "inflation": float(np.median(stats.chi2.isf(known, df=1))) / _CHI2_MEDIAN,
        "share_significant": float((known <= alpha).mean()),
        "ks_statistic": float(test.statistic),
        "ks_p_value": float(test.pvalue),
        "n_genes": known.size,
    }
