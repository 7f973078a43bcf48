"""The paper's split: hold the hardest treatments out of one category of cells."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgraphvci._constants import SPLITS
from scgraphvci._warn import warn
from scgraphvci.data import OutcomeField, stratum_moments
from scgraphvci.data._outcome_field import looks_like_counts
from scgraphvci.data._read import require_column
from scgraphvci.pp._screen import Screen, read_screen

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


def split_ood(
    adata: AnnData,
    perturbation_key: str,
    control: str,
    covariate_key: str | Sequence[str],
    category: str | Sequence[str],
    n_hardest: int = 20,
    key_added: str = "split",
    test_share: float = 0.2,
    layer: str | None = None,
    seed: int = 0,
    *,
    copy: bool = False,
) -> AnnData | None:
    r"""Hold the hardest treatments out of one category of cells, as in the paper (appendix E.2).

    A treatment is the harder the farther its pseudobulk is from that of all other cells, controls included:
    :math:`\lVert \bar y_t - \bar y_{\neg t} \rVert_2`. All cells of the category that received one of the `n_hardest`
    treatments become "ood". The rest is split into "train" and "test" at random. Candidates are the treatments with
    cells both in the category and outside, so that what is held out in one place is seen in another.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised expression (raw counts warn); sparse or backed data are read in blocks.
    perturbation_key
        Column of `obs` with the treatment. All doses of a treatment are held out together.
    control
        Its control level, which is never held out.
    covariate_key
        Column of `obs` such as the cell type; several columns for a joint category.
    category
        The level to hold out in; one per column of `covariate_key`.
    n_hardest
        Number of treatments to hold out.
    key_added
        Column of `obs` and key of `uns` to write.
    test_share
        Share of "test" among the cells that are not held out.
    layer
        Layer with expression; `X` if None.
    seed
        Of the random part.
    copy
        Write to a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    * `obs[key_added]`: categorical with the values "train", "test" and "ood"; the `split_key` of set-ups
    * `uns[key_added]`: dict with `params`, `held_out` (frame with one row per treatment held out: treatment, category,
      `distance`, `n_cells`), and `sha256` of names and split of the cells, whatever their order

    Raises
    ------
    KeyError
        If a column or layer is missing.
    ValueError
        If the control or category has no cells, fewer than `n_hardest` treatments can be held out, a number is out of
        range, or expression is not finite. Then nothing is written.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=4, seed=0)
    >>> sgv.pp.split_ood(adata, "perturbation", "control", "cell_type", "type1", n_hardest=2)
    >>> len(adata.uns["split"]["held_out"])
    2
    >>> sorted(adata.obs["split"].unique())
    ['ood', 'test', 'train']
    """
    check_share(test_share)
    screen, in_category, candidate = find_candidates(
        adata, perturbation_key, control, covariate_key, category, n_hardest
    )
    inside = np.bincount(screen.treatment[in_category], minlength=len(screen.treatments))
    distance = _distance_to_rest(adata, screen.treatment, layer)
    hardest = np.argsort(-np.where(candidate, distance, -1.0), kind="stable")[:n_hardest]
    held_out = in_category & np.isin(screen.treatment, hardest)
    keys, levels = _as_list(covariate_key), _as_list(category)
    place = ", ".join(map(str, levels))
    if inside[0] == 0:
        logger.warning("No control cells in %s: what is held out there cannot be compared with control.", place)

    adata = adata.copy() if copy else adata
    split = draw_train_test(adata.n_obs, test_share, seed)
    split[held_out] = SPLITS.OOD
    names = [screen.treatments[code] for code in hardest]
    pairs = pd.DataFrame(
        {
            perturbation_key: names,
            **dict(zip(keys, ([str(level)] * n_hardest for level in levels), strict=True)),
            "distance": distance[hardest],
            "n_cells": inside[hardest],
        },
        index=pd.Index([str(rank) for rank in range(n_hardest)]),
    )
    params = {
        "perturbation_key": perturbation_key,
        "control": str(control),
        "covariate_key": keys,
        "category": [str(level) for level in levels],
        "n_hardest": n_hardest,
        "test_share": test_share,
        "layer": layer,
        "seed": seed,
    }
    adata.obs[key_added] = as_split_column(split, adata.obs_names)
    adata.uns[key_added] = {
        "params": {name: value for name, value in params.items() if value is not None},
        "held_out": pairs,
        "sha256": split_hash(split, adata.obs_names),
    }
    logger.info("Held out of %s: %s; %d cells.", place, ", ".join(names), held_out.sum())
    return adata if copy else None


def find_candidates(
    adata: AnnData,
    perturbation_key: str,
    control: str,
    covariate_key: str | Sequence[str],
    category: str | Sequence[str],
    n_hardest: int,
) -> tuple[Screen, np.ndarray, np.ndarray]:
    """Find the treatments that can be held out of a category, reading `obs` alone.

    Parameters are those of :func:`split_ood`.

    Returns
    -------
    The screen, the cells in the category, shape ``(n_cells,)``, and which of its treatments are candidates, both
    boolean.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the control or category has no cells, or fewer than `n_hardest` treatments can be held out.
    """
    screen = read_screen(adata, perturbation_key, control, None)
    in_category = _category_cells(adata, covariate_key, category)
    inside = np.bincount(screen.treatment[in_category], minlength=len(screen.treatments))
    candidate = (inside > 0) & (np.bincount(screen.treatment) > inside)
    candidate[0] = False
    n = int(candidate.sum())
    if n == 0:
        why = "all cells are in it" if in_category.all() else "no treatment has cells both in it and outside of it"
        msg = (
            f"Nothing can be held out of {category!r}: {why}, and what is held out in one place must be seen in "
            "another. Choose another category or covariate."
        )
        raise ValueError(msg)
    if not 1 <= n_hardest <= n:
        msg = (
            f"n_hardest={n_hardest}, but {n} treatments have cells both in {category!r} and outside. "
            f"Choose from 1 to {n}."
        )
        raise ValueError(msg)
    return screen, in_category, candidate


def check_share(test_share: float) -> None:
    """Raise ValueError unless the share leaves cells to train on."""
    if not 0 <= test_share < 1:
        msg = f"test_share={test_share!r} must be at least 0 and below 1; the paper's 4 : 1 split is 0.2."
        raise ValueError(msg)


def draw_train_test(n_cells: int, test_share: float, seed: int) -> np.ndarray:
    """Draw "test" for each cell with the probability `test_share`, else "train"; shape ``(n_cells,)``, object."""
    is_test = np.random.default_rng(seed).random(n_cells) < test_share
    return np.where(is_test, SPLITS.TEST, SPLITS.TRAIN).astype(object)


def as_split_column(split: np.ndarray, names: pd.Index) -> pd.Series:
    """Return a split as the categorical column that set-ups read."""
    return pd.Series(pd.Categorical(split, categories=list(SPLITS)), index=names)


def split_hash(split: np.ndarray, names: pd.Index) -> str:
    """Return the SHA-256 of cell names and their split, whatever their order."""
    lines = sorted(f"{name}\t{part}\n" for name, part in zip(names, split, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)


def _category_cells(adata: AnnData, covariate_key: str | Sequence[str], category: str | Sequence[str]) -> np.ndarray:
    """Which cells are in the category, shape ``(n_cells,)``, boolean."""
    keys, levels = _as_list(covariate_key), _as_list(category)
    if len(keys) != len(levels) or not keys:
        msg = f"Give one category for each covariate: covariate_key={covariate_key!r}, category={category!r}."
        raise ValueError(msg)
    inside = np.ones(adata.n_obs, dtype=bool)
    for key, level in zip(keys, levels, strict=True):
        column = require_column(adata, key, "covariate_key").astype(str)
        inside &= (column == str(level)).to_numpy()
        if not inside.any():
            msg = f"No cell has {level!r} in obs[{key!r}]. Levels: {sorted(column.unique())[:20]}."
            raise ValueError(msg)
    return inside


def _distance_to_rest(adata: AnnData, treatment: np.ndarray, layer: str | None) -> np.ndarray:
    """Euclidean distance of each treatment's mean from the mean of all other cells, shape ``(n_treatments,)``."""
    outcome = OutcomeField(layer)
    state = outcome.register_field(adata)
    if looks_like_counts(state):
        where, source = ("X", "X") if layer is None else (f"Layer {layer!r}", f"layers[{layer!r}]")
        msg = (
            f"{where} looks like raw counts (whole numbers up to {state['max']:.0f}): treatments then seem "
            "hard that change the number of counts or a few highly expressed genes. Rank by log-normalised values: "
            f"`adata.layers['log1p'] = adata.{source}.copy()`, `sc.pp.normalize_total(adata, layer='log1p')`, "
            "`sc.pp.log1p(adata, layer='log1p')`, then `layer='log1p'` here."
        )
        warn(msg)
    moments = stratum_moments(
        outcome.get_field_data(adata),
        stratum=np.zeros(adata.n_obs, dtype=np.int64),
        condition=treatment,
        n_strata=1,
        n_conditions=int(treatment.max()) + 1,
        cells=np.arange(adata.n_obs),
    )
    mean, n = moments.mean.astype(np.float64), moments.n_cells[:, None]
    rest = ((mean * n).sum(axis=0) - mean * n) / (n.sum() - n)
    return np.linalg.norm(mean - rest, axis=1)
