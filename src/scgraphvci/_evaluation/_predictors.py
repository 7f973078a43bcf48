"""Who is evaluated, and what it predicts for a held-out condition."""

from __future__ import annotations

import inspect
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
    means
        Means of the same cells; None for what predicts no single cells.
    sampling_variance
        Variance of such a mean where it is one of draws, shape ``(n_genes,)``.
    """

    mean: np.ndarray
    cells: np.ndarray
    means: np.ndarray | None = None
    sampling_variance: np.ndarray | float = 0.0


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
        TypeError
            If they are no AnnData.
        """
        with _quiet_registration():
            return self._predict(start)

    def _predict(self, start: Start) -> Prediction:
        if self.library is not None:
            n_draws = int(np.clip(np.ceil(DRAWN_CELLS / start.cells.size), 2, 20))
            values = self._draw(start, np.arange(start.cells.size), n_draws)
            draws = values.reshape(n_draws, start.cells.size, -1)[:, start.shown].astype(np.float64)
            noise = draws.var(axis=0, ddof=1).mean(axis=0) / n_draws
            return Prediction(values.mean(axis=0, dtype=np.float64), draws[0], draws.mean(axis=0), noise)
        arguments = self._arguments(start, np.arange(start.cells.size))
        values = self._checked(self.model.predict(start.treatment, **arguments), start, start.cells.size)
        can_draw = callable(getattr(self.model, "sample", None))
        shown = self._draw(start, start.shown, 1) if can_draw else values[start.shown]
        means = values[start.shown].astype(np.float64)
        return Prediction(values.mean(axis=0, dtype=np.float64), shown.astype(np.float64), means)

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

    def _checked(self, predicted: Any, start: Start, n_cells: int) -> np.ndarray:
        """Values of a prediction, its genes in the order of the data."""
        if not isinstance(predicted, AnnData):
            msg = (
                f"`predict` of {self.name!r} returned {type(predicted).__name__}. It must return an AnnData of the "
                "source cells, with predictions in `X` and gene names in `var_names`."
            )
            raise TypeError(msg)
        order = self._gene_order(predicted.var_names)
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
        return values if order is None else values[:, order]

    def _gene_order(self, names: pd.Index) -> np.ndarray | None:
        """Where the genes of the data are among predicted ones; None if in the same places.

        Raises
        ------
        ValueError
            If predicted genes are not those of the data.
        """
        expected = self.data.var_names
        if names.equals(expected):
            return None
        missing, other = expected.difference(names, sort=False), names.difference(expected, sort=False)
        if len(missing) or len(other) or len(names) != len(expected):
            msg = (
                f"{self.name!r} predicts {len(names)} genes that are not the {len(expected)} of the data: "
                f"{len(missing)} are missing, such as {missing[:5].tolist()}, and {len(other)} unknown, such as "
                f"{other[:5].tolist()}. Return an AnnData with the `var_names` of the data, in any order."
            )
            raise ValueError(msg)
        return names.get_indexer(expected)


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
        If the data are not an AnnData, a model was set up on a MuData, or something is no predictor.
    """
    named = _named(models)
    settings = {name: setting for name, model in named.items() if (setting := set_up_of(model)) is not None}
    first, adata = _first_setting(settings, adata)
    if baselines not in ("simple", None):
        msg = f"Unknown baselines {baselines!r}. Choose 'simple' or None."
        raise ValueError(msg)

    is_named = layer is not None
    scale = find_scale(named, settings, adata, layer if is_named else first["layer"], is_named=is_named, truth=truth)
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


def _named(models: Any) -> dict[str, Any]:
    """Predictors by name.

    Raises
    ------
    TypeError
        If they are several without names, or one has no ``predict(treatment, indices=)``.
    ValueError
        If there are none.
    """
    if isinstance(models, Mapping):
        named = dict(models)
    elif callable(getattr(models, "predict", None)):
        named = {type(models).__name__: models}
    else:
        msg = f"`models` must be a dict {{name: model}}, or one predictor, not {type(models).__name__}."
        raise TypeError(msg)
    if not named:
        msg = "`models` is empty: it must be a dict {name: model} with at least one predictor."
        raise ValueError(msg)
    for name, model in named.items():
        predict = getattr(model, "predict", None)
        if isinstance(model, type) or not callable(predict):
            what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
            msg = f"{name!r} is {what}, which cannot `predict`. Pass an object with `predict(treatment, indices)`."
            raise TypeError(msg)
        parameters = inspect.signature(predict).parameters
        if "indices" not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            msg = (
                f"`predict` of {name!r} takes {list(parameters)}, and must take `indices`: the positions of the cells "
                "to start from, `predict(treatment, indices)`."
            )
            raise TypeError(msg)
    return named


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
        msg = (
            "No predictor says how the screen is set up: which columns hold treatments, covariates and the split. Add "
            "a model or simple baseline of this package, such as {**models, 'shift': sgv.baselines.ContextShift(adata, "
            "perturbation_key='perturbation', control='control', categorical_covariate_keys=['cell_type'], "
            "split_key='split')}."
        )
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


def set_up_of(model: Any) -> dict[str, Any] | None:
    """Set-up and data of a model or baseline of this package; None of anything else."""
    if isinstance(model, Baseline):
        return {**model.settings, "adata": model.adata}
    registry = getattr(model, "registry", None)
    return {**registry["setup_args"], "adata": model.adata} if isinstance(registry, Mapping) else None
