"""The scale of the scores: what predictors read, or log-normalised counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from anndata import AnnData

from scgraphvci._evaluation._screen import dense_rows, library, log_normalised, outcome

if TYPE_CHECKING:
    from scgraphvci.datasets import Truth

CHECKED_CELLS = 50


def _predicts_counts(model: Any) -> bool:
    """Whether a predictor is a model with a likelihood for counts."""
    return getattr(getattr(model, "module", None), "likelihood", "normal") != "normal"


class Scale(NamedTuple):
    """Where expression is read on the scale of the scores, and how predicted counts get there."""

    adata: AnnData
    layer: str | None
    libraries: dict[str, np.ndarray]
    size: float


def find_scale(
    named: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    adata: AnnData,
    layer: str | None,
    is_checked: bool,
    truth: Truth | None,
) -> Scale:
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
    scale = Scale(adata, layer, libraries, size)
    if not is_checked:
        return scale
    meaning = "the values that the first predictor reads"
    if counts:
        values = log_normalised(outcome(adata, settings[counts[0]]["layer"]), libraries[counts[0]], size)
        scale = Scale(AnnData(values, obs=adata.obs, var=adata.var), None, libraries, size)
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
