"""Who is evaluated, and what it predicts for a held-out condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgraphvci import baselines as simple
from scgraphvci._evaluation._screen import CODER_KEYS, Screen, dense_rows, library, log_normalised, outcome
from scgraphvci.baselines import Baseline, Predictor
from scgraphvci.baselines._base import ScreenCoder

if TYPE_CHECKING:
    from scgraphvci.datasets import Truth

SIMPLE: dict[str, type[Any]] = {
    "no change": simple.NoChange,
    "train mean": simple.TrainMean,
    "stratum mean": simple.StratumMean,
    "context shift": simple.ContextShift,
    "additive": simple.Additive,
    "ridge pca": simple.RidgePCA,
}
DRAWN_CELLS = 2_000  # draws behind a mean profile of a model of counts, if 20 draws per cell make as many
CHECKED_CELLS = 50


class Start(NamedTuple):
    """Where a prediction starts and where it goes.

    Attributes
    ----------
    treatment, dose
        What to predict.
    cells
        Cells to start from, ascending.
    shown
        Positions in `cells` of those whose distribution is looked at, ascending.
    levels
        Covariates to overwrite before predicting; none for cells of the stratum itself.
    seed
        Of draws.
    """

    treatment: str
    dose: str | None
    cells: np.ndarray
    shown: np.ndarray
    levels: dict[str, str]
    seed: int


class Prediction(NamedTuple):
    """What is kept of a prediction.

    Attributes
    ----------
    mean
        Mean over all source cells, shape ``(n_genes,)``.
    cells
        Some cells, shape ``(n_shown, n_genes)``: draws of predictors that can draw. No rows for what is a mean
        profile alone.
    """

    mean: np.ndarray
    cells: np.ndarray


@dataclass
class Entrant:
    """A predictor under evaluation.

    Attributes
    ----------
    name
        As in the results.
    kind
        "model", or "baseline" for the simple ones.
    model
        The predictor.
    data
        Data whose rows are the cells of the screen, as the predictor reads them.
    library
        Library size of every cell for models of counts, shape ``(n_cells,)``; None for others.
    library_size
        Library that predicted counts are scaled to.
    """

    name: str
    kind: Literal["model", "baseline"]
    model: Any
    data: AnnData
    library: np.ndarray | None = None
    library_size: float = 1.0
    _moved: tuple[dict[str, str], AnnData] | None = field(default=None, init=False, repr=False)

    def predict(self, start: Start) -> Prediction:
        """Predict once.

        Raises
        ------
        ValueError
            If predictions are not finite, or not of the source cells and genes.
        """
        if self.library is not None:
            n_draws = int(np.clip(np.ceil(DRAWN_CELLS / start.cells.size), 2, 20))
            values = self._draw(start, np.arange(start.cells.size), n_draws)
            return Prediction(values.mean(axis=0, dtype=np.float64), values[start.shown].astype(np.float64))
        arguments = self._arguments(start, np.arange(start.cells.size))
        values = self._checked(self.model.predict(start.treatment, **arguments), start, start.cells.size)
        can_draw = callable(getattr(self.model, "sample", None))
        shown = self._draw(start, start.shown, 1) if can_draw else values[start.shown]
        return Prediction(values.mean(axis=0, dtype=np.float64), shown.astype(np.float64))

    def _draw(self, start: Start, positions: np.ndarray, n_draws: int) -> np.ndarray:
        """Draws for some source cells, draw by draw, on the scale of the scores."""
        arguments: dict[str, Any] = {"n_samples": n_draws, "seed": start.seed, **self._arguments(start, positions)}
        if self.library is None:
            return self._checked(self.model.sample(start.treatment, **arguments), start, positions.size)
        drawn = self.model.sample(start.treatment, library="observed", **arguments)
        counts = self._checked(drawn, start, n_draws * positions.size)
        own = np.tile(self.library[start.cells[positions]], n_draws)
        return np.log1p(counts * (self.library_size / own).astype(np.float32)[:, None])

    def _arguments(self, start: Start, positions: np.ndarray) -> dict[str, Any]:
        """Cells, dose and data to pass on. Predictors that hold these data need not be able to take others."""
        arguments: dict[str, Any] = {"indices": (positions if start.levels else start.cells[positions]).tolist()}
        if start.levels:
            arguments["adata"] = self._with_levels(start)
        elif getattr(self.model, "adata", self.data) is not self.data:
            arguments["adata"] = self.data
        if start.dose is not None:
            arguments["dose"] = start.dose
        return arguments

    def _with_levels(self, start: Start) -> AnnData:
        """Source cells with their covariates overwritten; kept until other levels are asked for."""
        if self._moved is None or self._moved[0] != start.levels:
            moved = self.data[start.cells].copy()
            for key, level in start.levels.items():
                moved.obs[key] = pd.Categorical([level] * start.cells.size)
            self._moved = start.levels, moved
        return self._moved[1]

    def _checked(self, predicted: AnnData, start: Start, n_cells: int) -> np.ndarray:
        values = predicted.X.toarray() if sparse.issparse(predicted.X) else np.asarray(predicted.X)
        if values.shape != (n_cells, self.data.n_vars):
            msg = (
                f"{self.name!r} predicts {values.shape[0]} cells x {values.shape[1]} genes for {n_cells} source cells "
                f"x {self.data.n_vars} genes. It must return the source cells, in order, with the genes of the data."
            )
            raise ValueError(msg)
        if not np.isfinite(values).all():
            msg = f"{self.name!r} predicts NaN or infinite values for {start.treatment!r}; they cannot be scored."
            raise ValueError(msg)
        return values


def resolve(
    models: Predictor | Mapping[str, Predictor],
    adata: AnnData | None,
    baselines: Literal["simple"] | None,
    groupby: Sequence[str] | str | None,
    layer: str | None,
    truth: Truth | None,
    seed: int,
) -> tuple[Screen, list[Entrant]]:
    """Name the predictors, find data, set-up and scale, and fit the simple baselines.

    Parameters are those of :class:`scgraphvci.Evaluation`.

    Raises
    ------
    ValueError
        If nothing says how the screen is set up, or predictors read expression on different scales.
    TypeError
        If the data are not an AnnData.
    """
    named: dict[str, Any] = dict(models) if isinstance(models, Mapping) else {type(models).__name__: models}
    settings = {name: setting for name, model in named.items() if (setting := _setting(model)) is not None}
    first, adata = _first_setting(settings, adata)
    impostors = [name for name, model in named.items() if name in SIMPLE and not isinstance(model, Baseline)]
    if impostors:
        msg = f"{impostors} have names of simple baselines and are none. Name them otherwise than {list(SIMPLE)}."
        raise ValueError(msg)
    if baselines not in ("simple", None):
        msg = f"Unknown baselines {baselines!r}. Choose 'simple' or None."
        raise ValueError(msg)

    scale = _scale(named, settings, adata, first["layer"] if layer is None else layer, layer is None, truth)
    coded = {key: first[key] for key in CODER_KEYS}
    entrants = [
        Entrant(name, "baseline" if name in SIMPLE else "model", model, adata, scale.libraries.get(name), scale.size)
        for name, model in named.items()
    ]
    if baselines == "simple":
        entrants += [
            Entrant(name, "baseline", cls(scale.adata, layer=scale.layer, **coded), scale.adata)
            for name, cls in SIMPLE.items()
            if name not in named
        ]
    if groupby is not None:
        coded["categorical_covariate_keys"] = [groupby] if isinstance(groupby, str) else list(groupby)
    return Screen(adata, outcome(scale.adata, scale.layer), ScreenCoder(**coded), seed), entrants


def _first_setting(
    settings: Mapping[str, Mapping[str, Any]], adata: AnnData | None
) -> tuple[Mapping[str, Any], AnnData]:
    """Set-up of the first predictor that has one, and the data."""
    if not settings:
        msg = "No predictor says how the screen is set up. Add one of scgraphvci's baselines or models to `models`."
        raise ValueError(msg)
    first = next(iter(settings.values()))
    if first["split_key"] is None:
        msg = "The set-up has no split column, so that no cell is held out. Set up with `split_key=`."
        raise ValueError(msg)
    adata = first["adata"] if adata is None else adata
    if adata is None:
        msg = "The model holds no data. Pass `adata=`, or load the model with data."
        raise ValueError(msg)
    if not isinstance(adata, AnnData):
        msg = f"Evaluation needs an AnnData, not {type(adata).__name__}. Set the model up with one modality as AnnData."
        raise TypeError(msg)
    return first, adata


def _setting(model: Any) -> dict[str, Any] | None:
    """Set-up and data of a model or baseline of this package; None of anything else."""
    if isinstance(model, Baseline):
        return {**model.settings, "adata": model.adata}
    registry = getattr(model, "registry", None)
    return {**registry["setup_args"], "adata": model.adata} if isinstance(registry, Mapping) else None


def _predicts_counts(model: Any) -> bool:
    """Whether a predictor is a model with a likelihood for counts."""
    return getattr(getattr(model, "module", None), "likelihood", "normal") != "normal"


class _Scale(NamedTuple):
    """Where expression is read on the scale of the scores, and how predicted counts get there."""

    adata: AnnData
    layer: str | None
    libraries: dict[str, np.ndarray]
    size: float


def _scale(
    named: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    adata: AnnData,
    layer: str | None,
    is_checked: bool,
    truth: Truth | None,
) -> _Scale:
    """Find the scale: what the first predictor reads, or log-normalised counts if there is a model of counts.

    Raises
    ------
    ValueError
        If `is_checked`, and a predictor reads other values.
    """
    counts = [name for name, model in named.items() if _predicts_counts(model)]
    libraries = {name: library(adata, settings[name]) for name in counts}
    size = 1.0
    if counts:
        size = float(named[counts[0]].module.library_size) if truth is None else truth.library
    scale = _Scale(adata, layer, libraries, size)
    if not is_checked:
        return scale
    meaning = "the values that the first predictor reads"
    if counts:
        values = log_normalised(outcome(adata, settings[counts[0]]["layer"]), libraries[counts[0]], size)
        scale = _Scale(AnnData(values, obs=adata.obs, var=adata.var), None, libraries, size)
        meaning = f"log1p(counts / library * {size:g})"
    cells = np.arange(min(CHECKED_CELLS, adata.n_obs))
    expected = dense_rows(outcome(scale.adata, scale.layer), cells)
    for name, setting in settings.items():
        read = expected if name in counts else dense_rows(outcome(adata, setting["layer"]), cells)
        if not np.allclose(read, expected, rtol=1e-3, atol=1e-3):
            msg = (
                f"{name!r} does not read {meaning}, on which it would be scored. Fit it on a layer with that, evaluate "
                "it apart, or name the layer that is the truth with `layer=`."
            )
            raise ValueError(msg)
    return scale
