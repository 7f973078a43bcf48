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
    *,
    is_named: bool,
    truth: Truth | None,
) -> Scale:
    """Find the scale: what the first predictor reads, or log-normalised counts if there is a model of counts.

    Parameters
    ----------
    named, settings
        Predictors, and the set-up of those that have one, by name.
    adata
        The screen.
    layer
        Layer of the first predictor, or the one with the truth.
    is_named
        Whether the layer was asked for: it is then the scale, whatever the predictors are.
    truth
        Truth of a simulated screen.

    Raises
    ------
    ValueError
        If a predictor reads values on another scale.
    """
    counts = [name for name, model in named.items() if _predicts_counts(model)]
    libraries = {name: library(adata, settings[name]) for name in counts}
    size = 1.0
    if counts:
        size = float(named[counts[0]].module.library_size) if truth is None else truth.library
    scale = Scale(adata, layer, libraries, size)
    meaning = f"layer {layer!r}" if is_named else "the values that the first predictor reads"
    if counts and not is_named:
        values = log_normalised(outcome(adata, settings[counts[0]]["layer"]), libraries[counts[0]], size)
        scale = Scale(AnnData(values, obs=adata.obs, var=adata.var), None, libraries, size)
        meaning = f"log1p(counts / library * {size:g})"
    cells = np.arange(min(CHECKED_CELLS, adata.n_obs))
    expected = dense_rows(outcome(scale.adata, scale.layer), cells)
    for name, setting in settings.items():
        read = dense_rows(outcome(adata, setting["layer"]), cells)
        if name in counts:
            read = log_normalised(read, libraries[name][cells], size)
        if not np.allclose(read, expected, rtol=1e-3, atol=1e-3):
            verb = "predict" if name in counts else "read"
            msg = f"{name!r} does not {verb} {meaning}, on which it would be scored. Put all on one scale: "
            raise ValueError(msg + _recipe(settings[counts[0]] if counts else setting, layer, size if counts else None))
    return scale


def _recipe(setting: Mapping[str, Any], layer: str | None, size: float | None) -> str:
    """Say by code how predictors come to read the same scale."""
    if size is None:
        return f"set it up again with `layer={layer!r}`, or evaluate it apart."
    counts = "adata.X" if setting["layer"] is None else f"adata.layers[{setting['layer']!r}]"
    key = setting.get("size_factor_key")
    library = f"{counts}.sum(axis=1)" if key is None else f"adata.obs[{key!r}]"
    return (
        f"`adata.layers['log'] = scipy.sparse.csr_matrix({counts}).multiply({size!r} / "
        f"numpy.asarray({library}).reshape(-1, 1)).log1p().tocsr()`, fit all that is no model of counts with "
        "`layer='log'`, and evaluate with `layer='log'` or none."
    )
