"""Scores of predictors on held-out strata, beside simple baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from scgraphvci import baselines as simple
from scgraphvci._constants import SPLITS
from scgraphvci.baselines import Baseline, Predictor
from scgraphvci.baselines._base import ScreenCoder
from scgraphvci.data import OutcomeField, stratum_moments
from scgraphvci.data._sources import source_cells
from scgraphvci.metrics import pearson_shift, r2

if TYPE_CHECKING:
    from scgraphvci.datasets import Truth

SIMPLE: dict[str, type[Any]] = {
    "no change": simple.NoChange,
    "train mean": simple.TrainMean,
    "stratum mean": simple.StratumMean,
    "context shift": simple.ContextShift,
    "additive": simple.Additive,
}
METRICS = ("r2", "r2_de", "pearson_shift")
_CODER_KEYS = (
    "perturbation_key",
    "control",
    "dose_key",
    "combination_sep",
    "categorical_covariate_keys",
    "split_key",
)


def evaluate(
    models: Predictor | Mapping[str, Predictor],
    adata: AnnData | None = None,
    split: str = "ood",
    baselines: Literal["simple"] | None = "simple",
    source: str = "control",
    *,
    groupby: Sequence[str] | str | None = None,
    layer: str | None = None,
    truth: Truth | None = None,
    n_de: int = 50,
    min_cells: int = 5,
) -> pd.DataFrame:
    """Score predicted mean profiles of held-out treatments, averaged over pairs of stratum and treatment.

    Parameters
    ----------
    models
        A fitted predictor, or several by name. At least one is a model or baseline of this package: its set-up says
        where treatments, covariates and the split are.
    adata
        The screen; the data of the first model if None.
    split
        Which cells are the truth: "ood" or "test".
    baselines
        "simple" adds no change, train mean, stratum mean, context shift and additive, fitted on train cells; or None.
    source
        Treatment of the cells that predictions start from, in the same stratum; "ood" cells never are.
    groupby
        Covariates whose joint levels are the strata of the score; the model's categorical covariates if None.
    layer
        Layer with the truth; where the models read expression if None. For count likelihoods, name a layer with counts
        per median library, which is what they predict.
    truth
        Truth of a simulated screen: scores are then against its noise-free means.
    n_de
        Number of differentially expressed genes.
    min_cells
        Pairs with fewer held-out cells are left out.

    Returns
    -------
    Frame of predictors x metrics: `r2`, `r2_de` (over the `n_de` genes of largest Welch t of held-out against control
    cells of the stratum, or of largest true shift), `pearson_shift`, and `n_pairs`.

    Raises
    ------
    ValueError
        If no pair can be scored, or nothing says how the screen is set up.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci.evaluate import evaluate
    >>> adata = sgv.datasets.simulate(n_cells=600, n_genes=60, n_perturbations=4, seed=0)
    >>> shift = sgv.baselines.ContextShift(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> scores = evaluate({"mine": shift}, baselines=None, truth=sgv.datasets.truth(adata))
    >>> scores.columns.tolist()
    ['r2', 'r2_de', 'pearson_shift', 'n_pairs']
    """
    pairs = evaluate_pairs(
        models, adata, split, baselines, source, groupby=groupby, layer=layer, truth=truth, n_de=n_de,
        min_cells=min_cells,
    )  # fmt: skip
    grouped = pairs.groupby("predictor", sort=False)
    scores = grouped[list(METRICS)].mean()
    scores["n_pairs"] = grouped.size()
    return scores


def evaluate_pairs(
    models: Predictor | Mapping[str, Predictor],
    adata: AnnData | None = None,
    split: str = "ood",
    baselines: Literal["simple"] | None = "simple",
    source: str = "control",
    *,
    groupby: Sequence[str] | str | None = None,
    layer: str | None = None,
    truth: Truth | None = None,
    n_de: int = 50,
    min_cells: int = 5,
) -> pd.DataFrame:
    """Score every held-out pair of stratum and treatment; parameters are those of :func:`evaluate`.

    Returns
    -------
    One row per pair and predictor: `predictor`, `treatment`, `dose`, one column per covariate, `n_cells`, `r2`,
    `r2_de`, `pearson_shift`.
    """
    named, adata, setting = _resolve(models, adata, baselines, layer)
    rows = []
    for pair in _pairs(adata, setting, split, source, groupby, layer, truth, n_de, min_cells):
        for name, model in named.items():
            predicted = pair.predict(model)
            de = pair.de_genes
            scores = (
                r2(pair.true, predicted),
                r2(pair.true[de], predicted[de]),
                pearson_shift(pair.true, predicted, pair.reference),
            )
            rows.append({"predictor": name, **pair.labels, **dict(zip(METRICS, scores, strict=True))})
    return pd.DataFrame(rows)


def predicted_shifts(
    models: Predictor | Mapping[str, Predictor],
    adata: AnnData | None = None,
    split: str = "ood",
    baselines: Literal["simple"] | None = "simple",
    source: str = "control",
    *,
    groupby: Sequence[str] | str | None = None,
    layer: str | None = None,
    truth: Truth | None = None,
    min_cells: int = 5,
) -> pd.DataFrame:
    """Predicted and true shift from control of every gene in every held-out pair.

    :func:`scgraphvci.pl.shift_scatter` draws it. Parameters are those of :func:`evaluate`.

    Returns
    -------
    One row per pair, predictor and gene: `predictor`, `treatment`, `dose`, one column per covariate, `n_cells`, `gene`,
    `true`, `predicted`.
    """
    named, adata, setting = _resolve(models, adata, baselines, layer)
    parts = [
        pd.DataFrame(
            {
                "predictor": name,
                **pair.labels,
                "gene": adata.var_names,
                "true": pair.true - pair.reference,
                "predicted": pair.predict(model) - pair.reference,
            }
        )
        for pair in _pairs(adata, setting, split, source, groupby, layer, truth, 1, min_cells)
        for name, model in named.items()
    ]
    return pd.concat(parts, ignore_index=True)


class _Pair(NamedTuple):
    """A held-out pair of stratum and treatment.

    Attributes
    ----------
    labels
        Treatment, dose, levels of the stratum and number of held-out cells.
    treatment, dose
        What to predict.
    sources
        Cells to predict from.
    true, reference
        True mean profiles under the treatment and under control, shape ``(n_genes,)``.
    de_genes
        Positions of differentially expressed genes.
    """

    labels: dict[str, Any]
    treatment: str
    dose: str | None
    sources: np.ndarray
    true: np.ndarray
    reference: np.ndarray
    de_genes: np.ndarray

    def predict(self, model: Predictor) -> np.ndarray:
        """Mean prediction, shape ``(n_genes,)``."""
        dose = {} if self.dose is None else {"dose": self.dose}
        values = model.predict(self.treatment, indices=self.sources.tolist(), **dose).X
        return np.asarray(values, dtype=np.float64).mean(axis=0)


def _resolve(
    models: Predictor | Mapping[str, Predictor],
    adata: AnnData | None,
    baselines: Literal["simple"] | None,
    layer: str | None,
) -> tuple[dict[str, Predictor], AnnData, dict[str, Any]]:
    """Name the predictors, find the data and the set-up, and fit the baselines."""
    named = dict(models) if isinstance(models, Mapping) else {type(models).__name__: models}
    settings = [setting for setting in map(_settings, named.values()) if setting is not None]
    if not settings:
        msg = "No predictor says how the screen is set up. Add one of scgraphvci's baselines or models to `models`."
        raise ValueError(msg)
    setting = {key: settings[0][key] for key in (*_CODER_KEYS, "layer")}
    if setting["split_key"] is None:
        msg = "The set-up has no split column, so that no cell is held out. Set up with `split_key=`."
        raise ValueError(msg)
    if adata is None:
        adata = settings[0]["adata"]
    if adata is None:
        msg = "The model holds no data. Pass `adata=`, or load the model with data."
        raise ValueError(msg)
    if layer is None:
        counts = [name for name, model in named.items() if _predicts_counts(model)]
        if counts:
            msg = (
                f"{counts} predict counts at the median training library, on which the registered counts are not. Pass "
                "`layer=` with counts scaled to `model.module.library_size`, and `baselines=None` or baselines of it."
            )
            raise ValueError(msg)
    if baselines == "simple":
        named.update({name: cls(adata, **setting) for name, cls in SIMPLE.items() if name not in named})
    elif baselines is not None:
        msg = f"Unknown baselines {baselines!r}. Choose 'simple' or None."
        raise ValueError(msg)
    return named, adata, setting


def _predicts_counts(model: Any) -> bool:
    """Whether a predictor is a model with a likelihood for counts."""
    return getattr(getattr(model, "module", None), "likelihood", "normal") != "normal"


def _settings(model: Any) -> dict[str, Any] | None:
    """Set-up and data of a model or baseline of this package; None of anything else."""
    if isinstance(model, Baseline):
        return {**model.settings, "adata": model.adata}
    registry = getattr(model, "registry", None)
    return {**registry["setup_args"], "adata": model.adata} if isinstance(registry, Mapping) else None


def _pairs(
    adata: AnnData,
    setting: dict[str, Any],
    split: str,
    source: str,
    groupby: Sequence[str] | str | None,
    layer: str | None,
    truth: Truth | None,
    n_de: int,
    min_cells: int,
) -> Iterator[_Pair]:
    """Yield the held-out pairs that can be scored: enough cells, and controls and source cells in the stratum."""
    keys = setting["categorical_covariate_keys"] if groupby is None else groupby
    keys = [keys] if isinstance(keys, str) else list(keys or [])
    coder = ScreenCoder(**{**{key: setting[key] for key in _CODER_KEYS}, "categorical_covariate_keys": keys})
    codes, splits = coder.code(adata), coder.split(adata)
    size = len(codes.strata), len(codes.table.design)
    is_source = np.zeros(adata.n_obs, dtype=bool)
    is_source[source_cells(codes.table, codes.condition, source, None)] = True

    matrix = OutcomeField(setting["layer"] if layer is None else layer).get_field_data(adata)
    held_out = stratum_moments(matrix, codes.stratum, codes.condition, *size, np.flatnonzero(splits == split))
    controls = np.flatnonzero((codes.condition == 0) & (splits != SPLITS.OOD))
    control = stratum_moments(matrix, codes.stratum, codes.condition, *size, controls)

    n_pairs = 0
    for stratum, condition in zip(*np.nonzero(held_out.row[:, 1:] >= 0), strict=True):
        condition += 1
        row, base = held_out.row[stratum, condition], control.row[stratum, 0]
        sources = np.flatnonzero(is_source & (codes.stratum == stratum) & (splits != SPLITS.OOD))
        if held_out.n_cells[row] < min_cells or base < 0 or sources.size == 0:
            continue
        n_pairs += 1
        treatment, dose = codes.table.names[condition], codes.table.doses[condition] or None
        levels = codes.strata.iloc[stratum].to_dict()
        true, reference = held_out.mean[row].astype(np.float64), control.mean[base].astype(np.float64)
        error = np.sqrt(
            held_out.variance[row] / held_out.n_cells[row] + control.variance[base] / control.n_cells[base] + 1e-12
        )
        if truth is not None:
            true = _true_mean(truth, treatment, dose, levels)
            reference = _true_mean(truth, "control", None, levels)
            error = np.ones_like(true)
        de_genes = np.argsort(-np.abs(true - reference) / error, kind="stable")[:n_de]
        labels = {"treatment": treatment, "dose": dose or "", **levels, "n_cells": int(held_out.n_cells[row])}
        yield _Pair(labels, treatment, dose, sources, true, reference, de_genes)
    if n_pairs == 0:
        msg = (
            f"No pair of stratum and treatment has {min_cells} {split!r} cells, and controls and {source!r} cells that "
            "are not held out. Lower `min_cells`, or choose a coarser `groupby`."
        )
        raise ValueError(msg)


def _true_mean(truth: Truth, treatment: str, dose: str | None, levels: dict[str, Any]) -> np.ndarray:
    """Noise-free mean of a stratum."""
    means = truth.stratum_mean(treatment, list(levels), dose)
    level = tuple(levels.values())
    return means.loc[level if len(level) > 1 else level[0]].to_numpy(dtype=np.float64)
