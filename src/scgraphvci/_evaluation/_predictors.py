"""Who is evaluated, and what it predicts for a held-out condition."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi.model.base import BaseModelClass

from scgraphvci import baselines as simple
from scgraphvci._compat import forget_manager
from scgraphvci._evaluation._scale import Scale, find_scale
from scgraphvci._evaluation._screen import (
    CODER_KEYS,
    Screen,
    in_memory,
    outcome,
)
from scgraphvci.baselines import Baseline, Predictor
from scgraphvci.baselines._base import ScreenCoder

if TYPE_CHECKING:
    from scgraphvci.datasets import Truth

SIMPLE: dict[str, type[Any]] = {
    "no change": simple.NoChange,
    "train mean": simple.TrainMean,
    "stratum mean": simple.StratumMean,
    "control level": simple.ControlLevel,
    "context shift": simple.ContextShift,
    "additive": simple.Additive,
    "ridge pca": simple.RidgePCA,
}
DRAWN_CELLS = 2_000  # draws behind a mean profile of a model of counts, if 20 draws per cell make as many


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
    _passed: tuple[Start, AnnData] | None = field(default=None, init=False, repr=False)

    def predict(self, start: Start) -> Prediction:
        """Predict once.

        Raises
        ------
        ValueError
            If predictions are not finite, or not of the source cells and genes.
        """
        with _quiet_registration():
            return self._predict(start)

    def _predict(self, start: Start) -> Prediction:
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
        """Cells, dose and data to pass on: source cells alone, and none to predictors that hold these data."""
        is_own = not start.levels and getattr(self.model, "adata", self.data) is self.data
        arguments: dict[str, Any] = {"indices": (start.cells[positions] if is_own else positions).tolist()}
        if not is_own:
            arguments["adata"] = self._source_data(start)
        if start.dose is not None:
            arguments["dose"] = start.dose
        return arguments

    def _source_data(self, start: Start) -> AnnData:
        """Source cells in memory, their covariates overwritten if asked for; kept until others are asked for."""
        if self._passed is not None:
            last, passed = self._passed
            if last.levels == start.levels and np.array_equal(last.cells, start.cells):
                return passed
            if isinstance(self.model, BaseModelClass):
                forget_manager(self.model, passed)  # else scvi-tools keeps the cells
        passed = in_memory(self.data, start.cells)
        for key, level in start.levels.items():
            passed.obs[key] = pd.Categorical([level] * start.cells.size)
        self._passed = start, passed
        return passed

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
        If nothing says how the screen is set up, predictors read expression on different scales, or one has the name
        of a simple baseline without being it.
    TypeError
        If the data are not an AnnData, or a model was set up on a MuData.
    """
    named: dict[str, Any] = dict(models) if isinstance(models, Mapping) else {type(models).__name__: models}
    settings = {name: setting for name, model in named.items() if (setting := _setting(model)) is not None}
    first, adata = _first_setting(settings, adata)
    if baselines not in ("simple", None):
        msg = f"Unknown baselines {baselines!r}. Choose 'simple' or None."
        raise ValueError(msg)

    scale = find_scale(named, settings, adata, first["layer"] if layer is None else layer, layer is None, truth)
    coded = {key: first[key] for key in CODER_KEYS}
    for name in SIMPLE.keys() & named.keys():
        _check_simple(name, named[name], scale, coded)
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


def _check_simple(name: str, model: Any, scale: Scale, coded: Mapping[str, Any]) -> None:
    """Check that what is named like a simple baseline is that baseline: every model is judged against it.

    Raises
    ------
    ValueError
        If it is of another class, or fitted on other data or with other settings.
    """
    cls = SIMPLE[name]
    if type(model) is not cls:
        msg = f"{name!r} is the name of a simple baseline, and this {type(model).__name__} is not a {cls.__name__}. "
    elif model.adata is not scale.adata:
        msg = f"The {cls.__name__} named {name!r} was not fitted on the data of the evaluation. "
    else:
        expected = {**coded, "layer": scale.layer}
        others = [key for key, value in expected.items() if not _same(model.settings[key], value)]
        if not others:
            return
        msg = f"The {cls.__name__} named {name!r} was fitted with {others} other than the first predictor's. "
    raise ValueError(msg + "Name it otherwise; the baseline itself is added.")


def _same(a: Any, b: Any) -> bool:
    """Whether two settings are the same, lists and tuples alike; no covariates are none."""
    if isinstance(a, str) or isinstance(b, str):
        return bool(a == b)
    return list(a or ()) == list(b or ())


@contextmanager
def _quiet_registration() -> Iterator[None]:
    """Keep from the screen that scvi-tools registers the data that are passed on, of every stratum and model."""
    logger = logging.getLogger("scvi")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_setting(
    settings: Mapping[str, Mapping[str, Any]], adata: AnnData | None
) -> tuple[Mapping[str, Any], AnnData]:
    """Set-up of the first predictor that has one, and the data."""
    if not settings:
        msg = "No predictor says how the screen is set up. Add one of scgraphvci's baselines or models to `models`."
        raise ValueError(msg)
    for name, setting in settings.items():
        if "modality" in setting:
            msg = (
                f"{name!r} was set up with `setup_mudata`, and Evaluation reads an AnnData. Set it up with "
                f"`setup_anndata` on the modality, mdata[{setting['modality']!r}], and train it on that."
            )
            raise TypeError(msg)
    first = next(iter(settings.values()))
    if first["split_key"] is None:
        msg = "The set-up has no split column, so that no cell is held out. Set up with `split_key=`."
        raise ValueError(msg)
    adata = first["adata"] if adata is None else adata
    if adata is None:
        msg = "The model holds no data. Pass `adata=`, or load the model with data."
        raise ValueError(msg)
    if not isinstance(adata, AnnData):
        msg = (
            f"Evaluation needs an AnnData, not {type(adata).__name__}. Pass the modality that the model was trained on."
        )
        raise TypeError(msg)
    return first, adata


def _setting(model: Any) -> dict[str, Any] | None:
    """Set-up and data of a model or baseline of this package; None of anything else."""
    if isinstance(model, Baseline):
        return {**model.settings, "adata": model.adata}
    registry = getattr(model, "registry", None)
    return {**registry["setup_args"], "adata": model.adata} if isinstance(registry, Mapping) else None
