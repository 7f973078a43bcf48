"""Marginal effects in the slot that scanpy's plots of ranked genes read."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scgraphvci.estimate import MarginalEffects
from scgraphvci.estimate._one_stratum import one_stratum

logger = logging.getLogger(__name__)


def rank_effects(
    adata: AnnData,
    effects: MarginalEffects,
    *,
    key_added: str = "rank_effects",
    stratum: Mapping[str, Any] | Hashable | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Rank genes by the effects of each treatment, as `scanpy.tl.rank_genes_groups` would store them.

    `scanpy.get.rank_genes_groups_df` and `scanpy.pl.rank_genes_groups` with its variants then work with
    ``key=key_added``; for ``values_to_plot`` see the notes. Genes are sorted by score, largest first, within each
    treatment. Treatments without a standard error in the stratum (their status says why) are left out, with a warning.

    Parameters
    ----------
    adata
        Data the effects were estimated on: holds the genes, and the treatments in ``obs``.
    effects
        Differences to a reference, with `perturbation_key` among their parameters.
    key_added
        Key of ``adata.uns`` to write.
    stratum
        One level for stratum keys, as in ``{"cell_type": "B"}``, or ``"B"`` itself where there is one key. May be left
        out if there is one stratum only.
    copy
        Write to a copy and return it.

    Returns
    -------
    `None`, or the copy. Writes ``adata.uns[key_added]`` with

    * `names` (object), `scores` (float32, estimate over standard error; 0 where the error is 0), `logfoldchanges`
      (float32), `pvals` and `pvals_adj` (float64; 1 where there is no p-value): record arrays of all genes, one field
      per treatment. `logfoldchanges` is the effect on the natural ``log1p`` scale divided by ln 2: a difference of
      mean logarithms to base two, not the logarithm of a ratio of means. It is NaN if ``effects.params["scale"]`` is
      not ``"log1p"``.
    * `params`: `groupby`, `reference`, `method`, `use_raw`, `layer`, `corr_method`, `stratum`.

    Raises
    ------
    KeyError
        If the perturbation column or a gene is not in `adata`, or the stratum is not in the result.
    ValueError
        If the effects have no reference or are ratios, the stratum is not unique, or no treatment has a standard error
        in it.
    TypeError
        If `stratum` is a level, and there is not one stratum key to say of what.

    Notes
    -----
    With ``values_to_plot`` (the score or fold change as colour), scanpy's dot plot draws all levels of the perturbation
    column and looks each up among the treatments here. The reference is never among them, nor is what was left out, so
    scanpy raises a KeyError, as it does for its own ``rank_genes_groups(reference=...)``. Pass the cells of the
    treatments here, as in the example; a matrix plot takes all cells.

    Examples
    --------
    >>> import scanpy as sc
    >>> effects = model.marginal_effect(groupby=["cell_type"])  # doctest: +SKIP
    >>> rank_effects(adata, effects, stratum="B")  # doctest: +SKIP
    >>> sc.pl.rank_genes_groups(adata, key="rank_effects")  # doctest: +SKIP

    Fold changes as colours:

    >>> ranked = adata.obs["perturbation"].isin(adata.uns["rank_effects"]["names"].dtype.names)  # doctest: +SKIP
    >>> sc.pl.rank_genes_groups_dotplot(
    ...     adata[ranked].copy(), key="rank_effects", values_to_plot="logfoldchanges", dendrogram=False
    ... )  # doctest: +SKIP
    """
    perturbation_key = _check_fit(adata, effects)
    chosen = one_stratum(effects, stratum)
    has_error = np.asarray(np.isfinite(chosen.std_error[:, 0]).any(axis=1))
    if not has_error.any():
        reasons = sorted(set(chosen.status[:, 0]))
        msg = (
            f"No treatment has a standard error in stratum {_describe(chosen)} (estimator "
            f"{chosen.params['estimator']!r}, status {reasons}). Choose another stratum or estimator."
        )
        raise ValueError(msg)
    if not has_error.all():
        logger.warning(
            "Left out of `uns[%r]`, having no standard error in stratum %s: %s",
            key_added,
            _describe(chosen),
            ", ".join(map(str, chosen.treatments[~has_error])),
        )
    chosen = chosen.select(list(chosen.treatments[has_error]))

    adata = adata.copy() if copy else adata
    adata.uns[key_added] = {
        "params": {
            "groupby": perturbation_key,
            "reference": chosen.params["reference"],
            "method": f"marginal_effect_{chosen.params['estimator']}",
            "use_raw": False,
            "layer": chosen.params.get("layer"),
            "corr_method": chosen.params["p_adjust"],
            "stratum": {key: str(level) for key, level in chosen.strata.iloc[0].items()},
        },
        **_ranked(chosen),
    }
    return adata if copy else None


def _ranked(effects: MarginalEffects) -> dict[str, np.recarray]:
    """Record arrays of one stratum, one field per treatment, each sorted by that treatment's scores."""
    estimate, std_error = effects.estimate[:, 0], effects.std_error[:, 0]
    scores = np.divide(estimate, std_error, out=np.zeros_like(estimate), where=std_error > 0)
    statistics: dict[str, np.ndarray] = {
        "scores": scores.astype(np.float32),
        "logfoldchanges": _log_fold_change(effects).astype(np.float32),
        "pvals": np.nan_to_num(effects.p_value[:, 0], nan=1.0),
        "pvals_adj": np.nan_to_num(effects.p_value_adj[:, 0], nan=1.0),
    }
    order = np.argsort(-scores, axis=1, kind="stable")
    sorted_statistics = {
        "names": effects.genes.to_numpy(dtype=object)[order],
        **{name: np.take_along_axis(value, order, axis=1) for name, value in statistics.items()},
    }
    return {
        name: pd.DataFrame(value.T, columns=effects.treatments).to_records(index=False)
        for name, value in sorted_statistics.items()
    }


def _log_fold_change(effects: MarginalEffects) -> np.ndarray:
    """Estimates of one stratum as log fold changes to base 2, NaN where they are not on a log scale."""
    estimate = effects.estimate[:, 0]
    if effects.params.get("estimand") == "log_fold_change":
        return estimate
    return estimate / np.log(2) if effects.params.get("scale") == "log1p" else np.full_like(estimate, np.nan)


def _check_fit(adata: AnnData, effects: MarginalEffects) -> str:
    """Return the perturbation key, once effects and data are known to belong together."""
    if effects.params["reference"] is None:
        msg = "These effects are means, not differences, and rank nothing. Estimate them with a `reference`."
        raise ValueError(msg)
    if effects.params.get("estimand") == "ratio":
        msg = "Ratios are compared with 1, and ranks with 0. Estimate with `estimand='log_fold_change'`."
        raise ValueError(msg)
    perturbation_key = effects.params["perturbation_key"]
    if perturbation_key not in adata.obs:
        msg = f"Perturbation column {perturbation_key!r} is not in `adata.obs`, which has {list(adata.obs.columns)}."
        raise KeyError(msg)
    missing = effects.genes.difference(adata.var_names)
    if len(missing):
        msg = (
            f"{len(missing)} genes of the effects are not in `adata.var_names`, for example {missing[0]!r}. "
            "Pass the data the effects were estimated on."
        )
        raise KeyError(msg)
    return str(perturbation_key)


def _describe(effects: MarginalEffects) -> str:
    return ", ".join(f"{key}={level}" for key, level in effects.strata.iloc[0].items()) or "of all cells"
