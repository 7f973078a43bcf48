"""Treatments and strata of an AnnData as codes, before any model is set up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scgraphvci.data import TreatmentField
from scgraphvci.data._read import require_column

if TYPE_CHECKING:
    from anndata import AnnData


class Screen(NamedTuple):
    """Who received what, and where.

    Attributes
    ----------
    treatments
        Names of the treatments, the control first, the others sorted.
    treatment
        Position in `treatments` of every cell, shape ``(n_cells,)``; 0 is control.
    strata
        Joint levels of the covariates as text, sorted, one column per covariate.
    stratum
        Row of `strata` of every cell, shape ``(n_cells,)``.
    """

    treatments: list[str]
    treatment: np.ndarray
    strata: pd.DataFrame
    stratum: np.ndarray


def read_screen(
    adata: AnnData, perturbation_key: str, control: str, covariate_keys: Sequence[str] | str | None
) -> Screen:
    """Code the treatments and strata of a screen.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If values are missing, the control has no cells, there is no other treatment, or the treatment is also named
        as a covariate.
    """
    control = str(control)
    TreatmentField(perturbation_key, control).validate_field(adata)
    received = require_column(adata, perturbation_key, "perturbation_key").astype(str)
    treatments = [control, *sorted(set(received) - {control})]
    keys = [covariate_keys] if isinstance(covariate_keys, str) else list(covariate_keys or [])
    if perturbation_key in keys:
        msg = f"{perturbation_key!r} is the treatment and cannot also be a covariate. Leave it out of {keys}."
        raise ValueError(msg)
    levels = pd.DataFrame(
        {key: require_column(adata, key, "covariate_keys").astype(str).to_numpy() for key in keys},
        index=pd.RangeIndex(adata.n_obs),
    )
    strata, stratum = pd.DataFrame(index=pd.RangeIndex(1)), np.zeros(adata.n_obs, dtype=np.int64)
    if keys:
        stratum = levels.groupby(keys, sort=True).ngroup().to_numpy(dtype=np.int64)
        strata = levels.drop_duplicates().sort_values(keys).reset_index(drop=True)
    return Screen(treatments, pd.Index(treatments).get_indexer(pd.Index(received)), strata, stratum)
