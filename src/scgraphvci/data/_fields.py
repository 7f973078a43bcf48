"""Registration of strata, continuous covariates, size factors and the split with scvi-tools.

Discrete variables enter minibatches as one integer code per cell; the table the code points into lives in the registry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgraphvci._constants import KEYS, SPLITS
from scgraphvci.data._read import check_levels, require_column, require_number, require_text
from scgraphvci.data._screen_field import ScreenField, check_codes, check_equal, check_names, check_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData


class StratumField(ScreenField):
    """Categorical covariates: one code per cell into a table of their observed joint levels (strata)."""

    _registry_key = KEYS.STRATUM

    def __init__(self, categorical_covariate_keys: Sequence[str] | None, mod_key: str | None = None) -> None:
        super().__init__(mod_key)
        self._keys = list(categorical_covariate_keys or [])

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Tabulate levels and strata, in sorted order whatever the order of categories."""
        columns = self._columns(adata)
        for key in self._keys:
            check_levels(self._table(adata).obs[key], key)
        levels = {key: sorted(column.unique()) for key, column in columns.items()}
        return self._code(adata, columns, levels, np.empty((0, len(self._keys)), dtype=np.int64))

    def _check_state(self, state: Mapping[str, Any], registries: Mapping[str, Any]) -> None:
        levels, strata = stratum_levels(state), np.asarray(state["strata"])
        check_equal(sorted(levels), sorted(self._keys))
        check_equal(strata.shape, (len(strata), len(self._keys)))
        for key, codes in zip(levels, strata.T, strict=True):
            check_names(state["levels"][key], unique=True)
            check_codes(codes, len(strata), n=len(levels[key]))

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData | MuData, **kwargs: Any) -> dict:
        """Code new data by level name; new strata of known levels are fine, new levels are not."""
        columns = self._columns(adata_target)
        levels = stratum_levels(state_registry)
        for key, column in columns.items():
            unknown = sorted(set(column.unique()) - set(levels[key]))
            if unknown:
                msg = (
                    f"Unknown levels {unknown[:10]} in obs[{key!r}]. The model knows {levels[key][:20]}. Leave out "
                    "those cells, or train a model on data that have these levels."
                )
                raise ValueError(msg)
        strata = np.asarray(state_registry["strata"], dtype=np.int64)
        return self._code(adata_target, columns, levels, strata)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return the numbers of strata and covariates."""
        return {"n_strata": len(state_registry["strata"]), "n_categorical_covariates": len(state_registry["levels"])}

    def _columns(self, adata: AnnData | MuData) -> dict[str, pd.Series]:
        table = self._table(adata)
        return {key: require_text(table, key, "categorical_covariate_keys") for key in self._keys}

    def _code(
        self, adata: AnnData | MuData, columns: dict[str, pd.Series], levels: dict[str, list[str]], known: np.ndarray
    ) -> dict[str, Any]:
        """Write the stratum of each cell; strata beyond `known` are appended in sorted order."""
        n_obs = self._table(adata).n_obs
        codes = np.empty((n_obs, len(self._keys)), dtype=np.int64)
        for j, (key, column) in enumerate(columns.items()):
            codes[:, j] = pd.Categorical(column, categories=levels[key]).codes
        rows, inverse = codes[:1], np.zeros(n_obs, dtype=np.int64)  # without covariates all cells are one stratum
        if self._keys:
            rows, inverse = np.unique(codes, axis=0, return_inverse=True)
        row_of = {tuple(row): i for i, row in enumerate(known.tolist())}
        fresh = [row for row in rows.tolist() if tuple(row) not in row_of]
        row_of.update({tuple(row): len(known) + i for i, row in enumerate(fresh)})
        lookup = np.array([row_of[tuple(row)] for row in rows.tolist()], dtype=np.int64)
        self._write(adata, lookup[inverse.ravel()])
        strata = np.vstack([known, np.asarray(fresh, dtype=np.int64).reshape(len(fresh), len(self._keys))])
        return {"keys": self._keys, "levels": levels, "strata": strata}


def stratum_levels(state: Mapping[str, Any]) -> dict[str, list[str]]:
    """Levels of each covariate from the state of a `StratumField`, in the order of the columns of `strata`.

    scvi-tools hands states out as mappings that sort their keys; those of models saved before hold no order.
    """
    levels = state["levels"]
    keys = state["keys"] if "keys" in state else list(levels)
    return {key: list(levels[key]) for key in keys}


class ContinuousField(ScreenField):
    """Continuous covariates, standardised by the training cells."""

    _registry_key = KEYS.CONTINUOUS
    _attr_name = "obsm"

    def __init__(
        self,
        continuous_covariate_keys: Sequence[str] | None,
        split_key: str | None = None,
        mod_key: str | None = None,
    ) -> None:
        super().__init__(mod_key)
        self._keys = list(continuous_covariate_keys or [])
        self._split_key = split_key

    @property
    def is_empty(self) -> bool:
        """Whether no key was given."""
        return not self._keys

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Take mean and standard deviation over training cells and write standardised values."""
        values = self._values(adata)
        train = training_cells(self._table(adata), self._split_key)
        mean, sd = values[train].mean(axis=0), values[train].std(axis=0)
        return self._standardise(adata, values, mean, np.where(sd > 0, sd, 1.0))

    def _check_state(self, state: Mapping[str, Any], registries: Mapping[str, Any]) -> None:
        check_equal(list(state["keys"]), self._keys)
        check_numbers(state["mean"], len(self._keys))
        check_numbers(state["sd"], len(self._keys), above=0.0)

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData | MuData, **kwargs: Any) -> dict:
        """Standardise new data by the saved mean and standard deviation."""
        mean, sd = np.asarray(state_registry["mean"]), np.asarray(state_registry["sd"])
        return self._standardise(adata_target, self._values(adata_target), mean, sd)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return the number of continuous covariates."""
        return {"n_continuous_covariates": len(state_registry.get("keys", []))}

    def _values(self, adata: AnnData | MuData) -> np.ndarray:
        table = self._table(adata)
        columns = [require_column(table, key, "continuous_covariate_keys") for key in self._keys]
        return np.column_stack([require_number(column, str(column.name)) for column in columns])

    def _standardise(self, adata: AnnData | MuData, values: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> dict:
        self._table(adata).obsm[self.attr_key] = ((values - mean) / sd).astype(np.float32)
        return {"keys": self._keys, "mean": mean, "sd": sd}


class SizeFactorField(ScreenField):
    """Library size or size factor of each cell, used by count likelihoods in place of the row sum."""

    _registry_key = KEYS.SIZE_FACTOR

    def __init__(self, size_factor_key: str | None, mod_key: str | None = None) -> None:
        super().__init__(mod_key)
        self._key = size_factor_key

    @property
    def attr_key(self) -> str | None:
        """The user's own column."""
        return self._key

    @property
    def is_empty(self) -> bool:
        """Whether no key was given."""
        return self._key is None

    def validate_field(self, adata: AnnData | MuData) -> None:
        """Check that all size factors are positive and finite."""
        values = require_number(require_column(self._table(adata), str(self._key), "size_factor_key"), str(self._key))
        if np.any(values <= 0):
            msg = (
                f"obs[{self._key!r}] holds size factors of {values.min()}; all must be above 0. Leave out those cells, "
                "or name another column."
            )
            raise ValueError(msg)


class SplitField(ScreenField):
    """The split column: "train", "test" and "ood" cells. Never part of minibatches."""

    _registry_key = KEYS.SPLIT

    def __init__(self, split_key: str | None, mod_key: str | None = None) -> None:
        super().__init__(mod_key)
        self._key = split_key

    @property
    def attr_key(self) -> str | None:
        """The user's own column."""
        return self._key

    @property
    def is_empty(self) -> bool:
        """Whether no key was given."""
        return self._key is None

    def get_data_registry(self) -> dict[str, str]:
        """Return nothing, so that no minibatch loads the column."""
        return {}

    def validate_field(self, adata: AnnData | MuData) -> None:
        """Check that the column holds nothing but the three names, and some training cells."""
        values = require_text(self._table(adata), str(self._key), "split_key")
        unknown = sorted(set(values.unique()) - set(SPLITS))
        if unknown:
            msg = (
                f"obs[{self._key!r}] holds {unknown[:10]}; only {list(SPLITS)} are allowed. Rename them, or name "
                "another column by `split_key`."
            )
            raise ValueError(msg)
        if not (values == SPLITS.TRAIN).any():
            msg = (
                f"obs[{self._key!r}] has no {SPLITS.TRAIN!r} cells, so there is nothing to learn from. Mark some, or "
                "leave `split_key` out for a random split."
            )
            raise ValueError(msg)

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Return the name of the column."""
        self.validate_field(adata)
        return {"split_key": self._key}

    def _check_state(self, state: Mapping[str, Any], registries: Mapping[str, Any]) -> None:
        check_equal(state["split_key"], self._key)

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData | MuData, **kwargs: Any) -> dict:
        """Accept new data without the column: it matters in training only."""
        if self._key in self._table(adata_target).obs:
            return self.register_field(adata_target)
        return {"split_key": self._key}


def training_cells(adata: AnnData, split_key: str | None) -> np.ndarray:
    """Return whether each cell is for training, shape ``(n_cells,)``; all are where there is no split column."""
    if split_key is None or split_key not in adata.obs:
        return np.ones(adata.n_obs, dtype=bool)
    return np.asarray(adata.obs[split_key].astype(str) == SPLITS.TRAIN)
