"""The result of a marginal-effect estimation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from scgraphvci.estimate._accumulate import BoolArray, FloatArray, IntArray
from scgraphvci.estimate._multiplicity import adjust_p_values

if TYPE_CHECKING:
    from anndata import AnnData

STATUS = ("ok", "extrapolated", "no_reference", "too_few_cells", "too_few_clusters", "leak_detected")
"""What a row of a result can say of itself."""

_GENE_COLUMNS = ("estimate", "std_error", "ci_low", "ci_high", "p_value", "p_value_adj", "robust", "observed", "plugin")
_ROW_COLUMNS = ("n_treated", "n_stratum", "n_clusters", "status")


@dataclass(frozen=True, repr=False)
class MarginalEffects:
    """Effects of treatments on the mean of every gene, in every stratum, with errors, intervals and p-values.

    Arrays are float64 of shape ``(n_treatments, n_strata, n_genes)`` unless said. An effect is the difference of means
    between treatment and reference, in units of the outcome; without a reference it is the mean under the treatment.
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
        One of `STATUS`, ``(n_treatments, n_strata)``.
    params
        How the result was made: `estimator`, `reference`, `alpha`, `p_adjust` and what the caller adds.

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
        """Two-sided p-value of the t-test that the effect is zero.

        NaN without a reference (a mean has no null value) and where the standard error is zero or NaN.
        """
        if self.params["reference"] is None:
            return np.full_like(self.estimate, np.nan)
        testable = self.std_error > 0
        t = np.divide(self.estimate, self.std_error, out=np.full_like(self.estimate, np.nan), where=testable)
        return 2.0 * special.stdtr(self.df, -np.abs(t))

    @cached_property
    def p_value_adj(self) -> FloatArray:
        """P-value adjusted over the genes of each treatment and stratum by ``params["p_adjust"]``."""
        return adjust_p_values(self.p_value, self.params["p_adjust"])

    @cached_property
    def _half_width(self) -> FloatArray:
        return special.stdtrit(self.df, 1.0 - self.params["alpha"] / 2.0) * self.std_error

    @property
    def ci_low(self) -> FloatArray:
        """Lower end of the pointwise interval of level ``1 - params["alpha"]``."""
        return self.estimate - self._half_width

    @property
    def ci_high(self) -> FloatArray:
        """Upper end of the pointwise interval of level ``1 - params["alpha"]``."""
        return self.estimate + self._half_width

    def select(
        self, treatments: str | Sequence[str] | None = None, strata: Mapping[str, Any] | None = None
    ) -> MarginalEffects:
        """The same result for some treatments and strata.

        Parameters
        ----------
        treatments
            Names to keep, in this order; all by default.
        strata
            For any stratum keys, the level or levels to keep, as in ``{"cell_type": ["B", "T"]}``.

        Raises
        ------
        KeyError
            If a treatment, stratum key or level is not in the result.
        """
        rows = _positions(self.treatments, treatments, "treatment")
        keep = np.flatnonzero(self._stratum_mask(strata))
        changes: dict[str, Any] = {
            field.name: getattr(self, field.name)[np.ix_(rows, keep)]
            for field in fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        strata_kept = self.strata.iloc[keep].reset_index(drop=True)
        return replace(self, treatments=self.treatments[rows], strata=strata_kept, **changes)

    def to_frame(
        self,
        treatments: str | Sequence[str] | None = None,
        strata: Mapping[str, Any] | None = None,
        genes: str | Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Long frame with one row per treatment, stratum and gene.

        P-values are adjusted over all genes of the result, whichever are asked for here.

        Parameters
        ----------
        treatments, strata
            As in `select`.
        genes
            Genes to keep, in this order; all by default.

        Returns
        -------
        Columns `treatment`, one per stratum key, `gene`, `estimate`, `std_error`, `ci_low`, `ci_high`, `p_value`,
        `p_value_adj`, `robust`, `observed`, `plugin`, `n_treated`, `n_stratum`, `n_clusters`, `status`.

        Raises
        ------
        KeyError
            If a treatment, stratum key, level or gene is not in the result.
        """
        chosen = self.select(treatments, strata)
        columns = _positions(self.genes, genes, "gene")
        n_treatments, n_strata, n_genes = len(chosen.treatments), len(chosen.strata), len(columns)
        stratum = np.tile(np.repeat(np.arange(n_strata), n_genes), n_treatments)
        frame = pd.DataFrame({"treatment": np.repeat(chosen.treatments.to_numpy(), n_strata * n_genes)})
        for key in chosen.strata.columns:
            frame[key] = chosen.strata[key].array.take(stratum)
        frame["gene"] = np.tile(self.genes[columns].to_numpy(), n_treatments * n_strata)
        for name in _GENE_COLUMNS:
            frame[name] = getattr(chosen, name)[:, :, columns].reshape(-1)
        for name in _ROW_COLUMNS:
            frame[name] = np.repeat(getattr(chosen, name).reshape(-1), n_genes)
        return frame

    def to_adata(self) -> AnnData:
        """AnnData with one row per treatment and stratum and one column per gene, for scanpy's plots.

        Returns
        -------
        ``X`` holds `estimate`; ``layers`` the other columns of `to_frame` that vary over genes; ``obs`` the treatment,
        the stratum keys (both categorical), `n_treated`, `n_reference`, `n_stratum`, `n_clusters`, `share` and
        `status`; ``uns["marginal_effects"]`` the parameters that are set.
        """
        from anndata import AnnData

        n_treatments, n_strata = len(self.treatments), len(self.strata)
        n_rows = n_treatments * n_strata
        obs = pd.DataFrame({"treatment": pd.Categorical(np.repeat(self.treatments, n_strata), self.treatments)})
        stratum = np.tile(np.arange(n_strata), n_treatments)
        for key in self.strata.columns:
            obs[key] = pd.Categorical(self.strata[key]).take(stratum)
        for name in ("n_treated", "n_reference", "n_stratum", "n_clusters", "share"):
            obs[name] = getattr(self, name).reshape(-1)
        obs["status"] = pd.Categorical(self.status.reshape(-1), STATUS)
        obs.index = pd.Index([" | ".join(map(str, row)) for row in obs[["treatment", *self.strata.columns]].to_numpy()])
        layers = {name: getattr(self, name).reshape(n_rows, -1) for name in _GENE_COLUMNS[1:]}
        adata = AnnData(self.estimate.reshape(n_rows, -1).copy(), obs=obs, var=pd.DataFrame(index=self.genes))
        for name, layer in layers.items():
            adata.layers[name] = layer.copy()
        adata.uns["marginal_effects"] = {key: value for key, value in self.params.items() if value is not None}
        return adata

    def _stratum_mask(self, strata: Mapping[str, Any] | None) -> BoolArray:
        mask = np.ones(len(self.strata), dtype=bool)
        for key, wanted in (strata or {}).items():
            if key not in self.strata:
                msg = f"{key!r} is not a stratum key of this result. Choose from {list(self.strata.columns)}."
                raise KeyError(msg)
            levels = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Sequence) else list(wanted)
            missing = [level for level in levels if level not in set(self.strata[key])]
            if missing:
                msg = f"{missing} are not levels of {key!r}. Choose from {sorted(set(self.strata[key]), key=str)}."
                raise KeyError(msg)
            mask &= self.strata[key].isin(levels).to_numpy()
        return mask

    def _summary(self) -> list[tuple[str, str]]:
        reference = self.params["reference"]
        names, counts = np.unique(self.status.astype(str), return_counts=True)
        shape = f"{len(self.treatments)} treatments x {len(self.strata)} strata x {len(self.genes)} genes"
        return [
            ("estimand", "mean under the treatment" if reference is None else f"difference to {reference!r}"),
            ("size", shape),
            ("strata", ", ".join(map(str, self.strata.columns)) or "none"),
            ("estimator", str(self.params["estimator"])),
            ("errors", "clustered" if self.n_clusters.any() else "independent cells"),
            ("status", ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))),
        ]

    def __repr__(self) -> str:
        """Return size, estimator and how many rows have which status."""
        return "\n".join(["MarginalEffects", *(f"    {name}: {value}" for name, value in self._summary())])

    def _repr_html_(self) -> str:
        table = pd.DataFrame(self._summary()).to_html(header=False, index=False, border=0)
        return f"<strong>MarginalEffects</strong>{table}"


def _positions(index: pd.Index, wanted: str | Sequence[str] | None, what: str) -> IntArray:
    if wanted is None:
        return np.arange(len(index))
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    positions = index.get_indexer(pd.Index(names, dtype=object))
    missing = [name for name, position in zip(names, positions, strict=True) if position < 0]
    if missing:
        shown = ", ".join(map(str, index[:10])) + (", ..." if len(index) > 10 else "")
        msg = f"Unknown {what} {missing}. This result has {len(index)}: {shown}."
        raise KeyError(msg)
    return positions.astype(np.int64)
