"""How each data set becomes an experiment: columns, control, preparation, and what is held out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scgraphvci import pp
from scgraphvci._constants import SPLITS
from scgraphvci.data._read import require_column
from scgraphvci.datasets._l008 import L008
from scgraphvci.datasets._marson import MARSON
from scgraphvci.datasets._preparation import PERTURBATION, Preparation, log_normalise
from scgraphvci.datasets._sciplex import SCIPLEX
from scgraphvci.pp._split import find_candidates

SPLIT_KEY = "split"
TEST_SHARE = 0.2  # the paper's 4 : 1


Splits = Callable[[AnnData, "Recipe", int], Iterator[str]]
"""Writes ``obs["split"]`` and yields its name, once per split, given data, recipe and seed."""


@dataclass(frozen=True)
class Recipe:
    """One way to make an experiment of a screen.

    Attributes
    ----------
    perturbation_key, control, covariates, dose_key, combination_sep
        As in :meth:`scgraphvci.GraphVCI.setup_anndata`.
    splits
        What is held out.
    name_columns
        Makes these columns of the file's `obs`; None where they are there.
    prepare
        Makes log-normalised data of the file's, given these and names of genes to keep in any case; None where they
        are.
    note
        What readers of a table should know of the data.
    """

    perturbation_key: str
    control: str
    covariates: tuple[str, ...]
    splits: Splits
    dose_key: str | None = None
    combination_sep: str | None = None
    name_columns: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    prepare: Callable[..., AnnData] | None = None
    note: str = ""

    @property
    def setup(self) -> dict[str, Any]:
        """Arguments of a set-up, but for the network."""
        return {
            "perturbation_key": self.perturbation_key,
            "control": self.control,
            "dose_key": self.dose_key,
            "combination_sep": self.combination_sep,
            "categorical_covariate_keys": list(self.covariates),
            "split_key": SPLIT_KEY,
        }


def as_given(adata: AnnData, recipe: Recipe, seed: int) -> Iterator[str]:
    """Take the split the data come with."""
    require_column(adata, SPLIT_KEY, "split_key")
    yield "as given"


@dataclass(frozen=True)
class HeldOutCategory:
    """Splits as the paper does: the hardest treatments, out of one category.

    Attributes
    ----------
    category
        Levels by column.
    n_hardest
        Number of treatments.
    """

    category: Mapping[str, str]
    n_hardest: int

    def __call__(self, adata: AnnData, recipe: Recipe, seed: int) -> Iterator[str]:
        """Split."""
        pp.split_ood(
            adata,
            recipe.perturbation_key,
            recipe.control,
            list(self.category),
            list(self.category.values()),
            n_hardest=self.n_hardest,
            key_added=SPLIT_KEY,
            test_share=TEST_SHARE,
            seed=seed,
        )
        yield " ".join(self.category.values())

    def check(self, adata: AnnData, recipe: Recipe) -> None:
        """Find out from `obs` whether the split can be made.

        Raises
        ------
        KeyError
            If a column is missing.
        ValueError
            If the category has no cells, or too few treatments can be held out of it.
        """
        columns, levels = list(self.category), list(self.category.values())
        find_candidates(adata, recipe.perturbation_key, recipe.control, columns, levels, self.n_hardest)


def hold_out_category(category: Mapping[str, str], n_hardest: int = 20) -> Splits:
    """Split as the paper does: the hardest treatments, out of one category given as {column: level}."""
    return HeldOutCategory(category, n_hardest)


def hold_out_each_level(column: str, n_hardest: int) -> Splits:
    """Split once for every level of a column, holding the hardest treatments out of it."""

    def splits(adata: AnnData, recipe: Recipe, seed: int) -> Iterator[str]:
        for level in sorted(require_column(adata, column, "covariates").astype(str).unique()):
            yield from hold_out_category({column: level}, n_hardest)(adata, recipe, seed)

    return splits


def hold_out_cells(name: str, groups: Sequence[Mapping[str, str]]) -> Splits:
    """Hold out the cells that match one of several {column: level}."""

    def splits(adata: AnnData, recipe: Recipe, seed: int) -> Iterator[str]:
        is_test = np.random.default_rng(seed).random(adata.n_obs) < TEST_SHARE
        split = np.where(is_test, SPLITS.TEST, SPLITS.TRAIN).astype(object)
        for group in groups:
            columns = [(require_column(adata, key, "covariates"), level) for key, level in group.items()]
            split[np.logical_and.reduce([column.astype(str) == level for column, level in columns])] = SPLITS.OOD
        adata.obs[SPLIT_KEY] = pd.Categorical(split, categories=list(SPLITS))
        yield name

    return splits


def _prepare_kang(adata: AnnData, keep: Collection[str] = ()) -> AnnData:
    return log_normalise(adata, keep, n_top_genes=1500)


def _prepared(preparation: Preparation, note: str) -> Recipe:
    """Recipe for a public screen that :mod:`scgraphvci.datasets`, or the authors, prepared."""
    return Recipe(
        perturbation_key=PERTURBATION,
        control=preparation.control,
        covariates=preparation.covariates,
        splits=hold_out_category(preparation.held_out),
        dose_key=preparation.dose_key,
        name_columns=preparation.name_columns,
        note=note,
    )


_COMBINATIONS = ("KLF1+MAP2K6", "MAP2K3+SLC38A2", "MAPK1+TGFBR2")  # their members occur alone in the same line
_PAIRS = (("MAP4K3", "A172"), ("SGK1", "T98G"), ("TGFBR2", "U87MG"), ("MAP3K21", "A172"))

RECIPES: dict[str, Recipe] = {
    "simulated": Recipe(
        perturbation_key="perturbation",
        control="control",
        covariates=("cell_type", "donor"),
        splits=as_given,
        note="Simulated, a new screen for each run; half of the treatments held out, each in one cell type.",
    ),
    "kang": Recipe(
        perturbation_key="perturbation",
        control="control",
        covariates=("cell_type",),
        splits=hold_out_each_level("cell_type", n_hardest=1),
        prepare=_prepare_kang,
        note="Kang 2018, counts normalised to 1,000 and log1p, 1,500 highly variable genes chosen on all cells. "
        "Interferon held out of one cell type at a time; mean over types.",
    ),
    "schraivogel": Recipe(
        perturbation_key="perturbation",
        control="control",
        covariates=("sample",),
        splits=hold_out_each_level("sample", n_hardest=7),
        prepare=log_normalise,
        note="Schraivogel 2020 (TAP-seq, K562), counts normalised to 1,000 and log1p. The 7 of 14 treatments farthest "
        "from the rest held out of one sample at a time; mean over samples.",
    ),
    "perturbench": Recipe(
        perturbation_key="perturbation",
        control="control",
        covariates=("cell_type",),
        dose_key="dose",
        combination_sep="+",
        splits=hold_out_cells(
            "combinations and pairs",
            [
                *({"perturbation": name} for name in _COMBINATIONS),
                *({"perturbation": name, "cell_type": line} for name, line in _PAIRS),
            ],
        ),
        note="Parts of Norman 2019 and McFaline-Figueroa 2024, 500 genes. Held out: the combinations "
        f"{', '.join(_COMBINATIONS)}, and {', '.join(' in '.join(pair) for pair in _PAIRS)}.",
    ),
    "sciplex": _prepared(
        SCIPLEX,
        "sci-Plex, prepared as in the paper: cells with more than 500 counts, more than 750 genes and less than "
        "20 % mitochondrial counts, then half of them; 2,000 highly variable genes; dose over the largest dose.",
    ),
    "marson": _prepared(
        MARSON,
        "Schmidt 2022 (Marson), prepared as in the paper: cells with more than 750 genes, less than 20 % "
        "mitochondrial counts, an assigned donor and type; 2,000 highly variable genes and the targets.",
    ),
    "l008": _prepared(
        L008,
        "L008, prepared as in the paper: cells with a known target, more than 500 counts, more than 750 genes and "
        "less than 20 % mitochondrial counts; 2,000 highly variable genes and the targets.",
    ),
}
