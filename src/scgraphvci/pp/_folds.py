"""Folds that hold out every pair of treatment and stratum once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgraphvci._constants import SPLITS
from scgraphvci.data._read import require_unique_names
from scgraphvci.pp._screen import Screen, read_screen
from scgraphvci.pp._split import as_split_column, check_share, draw_train_test, split_hash

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


def split_folds(
    adata: AnnData,
    perturbation_key: str,
    control: str,
    covariate_keys: str | Sequence[str],
    n_folds: int = 5,
    key_added: str = "fold",
    test_share: float = 0.2,
    seed: int = 0,
    *,
    copy: bool = False,
) -> AnnData | None:
    """Hold out every pair of treatment and stratum exactly once over several folds.

    Each pair, however thin, goes to the fold that so far holds out fewest pairs of the same treatment, among those to
    the one with fewest of the same stratum, then with fewest in all, then at random. So a treatment seen in two strata
    or more is never held out in all of them at once. The other cells are "train" or "test" at random, the same in all
    folds.

    Parameters
    ----------
    adata
        Cells x genes; expression is not looked at.
    perturbation_key, control
        Column of `obs` with the treatment, and its control level, which is never held out.
    covariate_keys
        Columns of `obs` whose joint levels are the strata.
    n_folds
        Number of folds.
    key_added
        Start of the names of the columns to write, and key of `uns`.
    test_share
        Share of "test" among the cells that are not held out.
    seed
        Of the random part.
    copy
        Write to a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    * `obs[f"{key_added}_{k}"]` for k = 0, ..., `n_folds` - 1: categorical with the values "train", "test" and "ood",
      each the `split_key` of one set-up
    * `uns[key_added]`: dict with `params`, `held_out` (frame with one row per pair: treatment, levels of the stratum,
      `n_cells`, `fold`), and `sha256` of each column, as :func:`split_ood` computes it

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the control has no cells, there are fewer pairs than folds, or a number is out of range. Then nothing is
        written.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=4, seed=0)
    >>> sgv.pp.split_folds(adata, "perturbation", "control", "cell_type", n_folds=3)
    >>> treated = adata.obs["perturbation"] != "control"
    >>> held_out = (adata.obs[["fold_0", "fold_1", "fold_2"]] == "ood").sum(axis=1)
    >>> bool((held_out == treated).all())
    True
    """
    check_share(test_share)
    require_unique_names(adata)
    screen = read_screen(adata, perturbation_key, control, covariate_keys)
    pairs, pair_of_cell = _pairs(screen)
    if not 2 <= n_folds <= len(pairs):
        msg = f"n_folds={n_folds}, but there are {len(pairs)} pairs of treatment and stratum. Choose 2 to {len(pairs)}."
        raise ValueError(msg)
    fold = _deal(pairs, n_folds, np.random.default_rng(seed))
    n_strata_seen = np.bincount(pairs[:, 0])[1:]
    if np.any(n_strata_seen == 1):
        alone = [screen.treatments[code + 1] for code in np.flatnonzero(n_strata_seen == 1)]
        logger.warning("Seen in one stratum only, so unseen in the fold that holds them out: %s", ", ".join(alone))

    adata = adata.copy() if copy else adata
    split = draw_train_test(adata.n_obs, test_share, seed)
    fold_of_cell = np.where(pair_of_cell >= 0, fold[pair_of_cell], -1)
    hashes = {}
    for k in range(n_folds):
        column = np.where(fold_of_cell == k, SPLITS.OOD, split)
        adata.obs[f"{key_added}_{k}"] = as_split_column(column, adata.obs_names)
        hashes[f"{key_added}_{k}"] = split_hash(column, adata.obs_names)
    held_out = pd.DataFrame({perturbation_key: np.asarray(screen.treatments, dtype=object)[pairs[:, 0]]})
    held_out = held_out.join(screen.strata.iloc[pairs[:, 1]].reset_index(drop=True))
    held_out["n_cells"] = np.bincount(pair_of_cell[pair_of_cell >= 0])
    held_out["fold"] = fold
    held_out.index = held_out.index.astype(str)
    adata.uns[key_added] = {
        "params": {
            "perturbation_key": perturbation_key,
            "control": str(control),
            "covariate_keys": list(screen.strata.columns),
            "n_folds": n_folds,
            "test_share": test_share,
            "seed": seed,
        },
        "held_out": held_out,
        "sha256": hashes,
    }
    return adata if copy else None


def _pairs(screen: Screen) -> tuple[np.ndarray, np.ndarray]:
    """Observed pairs but control's as rows (treatment, stratum), and the pair of every cell, -1 for control cells."""
    treated = np.flatnonzero(screen.treatment > 0)
    codes = np.stack([screen.treatment[treated], screen.stratum[treated]], axis=1)
    pairs, position = np.unique(codes, axis=0, return_inverse=True)
    pair_of_cell = np.full(screen.treatment.size, -1)
    pair_of_cell[treated] = position.ravel()
    return pairs, pair_of_cell


def _deal(pairs: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each pair, shape ``(n_pairs,)``."""
    of_treatment = np.zeros((pairs[:, 0].max() + 1, n_folds), dtype=np.int64)
    of_stratum = np.zeros((pairs[:, 1].max() + 1, n_folds), dtype=np.int64)
    fold = np.empty(len(pairs), dtype=np.int64)
    for i in rng.permutation(len(pairs)):
        treatment, stratum = pairs[i]
        held_out = of_treatment[treatment], of_stratum[stratum], of_stratum.sum(axis=0), rng.random(n_folds)
        fold[i] = np.lexsort(held_out[::-1])[0]
        of_treatment[treatment, fold[i]] += 1
        of_stratum[stratum, fold[i]] += 1
    return fold
