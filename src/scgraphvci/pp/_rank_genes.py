"""Differential expression of each treatment in each stratum."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from scgraphvci.data import OutcomeField, SplitField, StratumMoments, stratum_moments
from scgraphvci.data._fields import training_cells
from scgraphvci.estimate import adjust_p_values
from scgraphvci.pp._screen import Screen, read_screen

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

STATISTICS = ("score", "shift", "p_value", "p_value_adj")
RESERVED = ("treatment", "gene", *STATISTICS, "n_treated", "n_control")


def rank_genes_by_stratum(
    adata: AnnData,
    perturbation_key: str,
    control: str,
    covariate_keys: str | Sequence[str] | None = None,
    *,
    layer: str | None = None,
    split_key: str | None = None,
    n_genes: int | None = None,
    key_added: str = "rank_genes_by_stratum",
    copy: bool = False,
) -> AnnData | None:
    r"""Rank genes by Welch's t of each treatment against control, in each stratum.

    :math:`t = (\bar y_1 - \bar y_0) / \sqrt{s_1^2 / n_1 + s_0^2 / n_0}` with two-sided p-values, which are adjusted
    over genes (Benjamini and Hochberg) within each treatment and stratum. It is `method="t-test"` of
    :func:`scanpy.tl.rank_genes_groups` against the control cells of the stratum, for all strata in one pass over the
    cells.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised expression; sparse or backed data are read in blocks.
    perturbation_key, control
        Column of `obs` with the treatment, and its control level.
    covariate_keys
        Columns of `obs` whose joint levels are the strata; None takes all cells together.
    layer
        Layer with expression; `X` if None.
    split_key
        Column with "train", "test" and "ood": only "train" cells count. None: all cells.
    n_genes
        Number of genes kept for each treatment and stratum; all if None.
    key_added
        Key of `uns` to write.
    copy
        Write to a copy and return it.

    Returns
    -------
    None, or the copy. Writes `uns[key_added]`: dict with `params` and `genes`, a frame that :func:`ranked_genes`
    returns. Pairs with fewer than two treated or two control cells have no test: they are left out, with a warning.

    Raises
    ------
    KeyError
        If a column or layer is missing.
    ValueError
        If the control has no cells, no pair can be tested, a covariate has the name of a result column, or expression
        is not finite. Then nothing is written.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=400, n_genes=40, n_perturbations=3, seed=0)
    >>> sgv.pp.rank_genes_by_stratum(adata, "perturbation", "control", "cell_type", n_genes=5)
    >>> treatment = adata.obs["perturbation"].cat.categories[1]
    >>> sgv.pp.ranked_genes(adata, treatment, {"cell_type": "type0"}).shape
    (5, 9)
    """
    if n_genes is not None and n_genes < 1:
        msg = f"n_genes={n_genes!r} must be at least 1, or None for all genes."
        raise ValueError(msg)
    screen = read_screen(adata, perturbation_key, control, covariate_keys)
    taken = sorted(set(screen.strata.columns) & set(RESERVED))
    if taken:
        msg = f"Covariates {taken} have names of result columns {list(RESERVED)}. Rename them in obs."
        raise ValueError(msg)
    moments = _moments(adata, screen, layer, split_key)
    genes = _test_all(screen, moments, adata.var_names, n_genes)

    adata = adata.copy() if copy else adata
    params = {
        "perturbation_key": perturbation_key,
        "control": str(control),
        "covariate_keys": list(screen.strata.columns),
        "layer": layer,
        "split_key": split_key,
        "n_genes": n_genes,
        "method": "t-test",
        "corr_method": "fdr_bh",
    }
    adata.uns[key_added] = {
        "params": {name: value for name, value in params.items() if value is not None},
        "genes": genes,
    }
    return adata if copy else None


def ranked_genes(
    adata: AnnData,
    treatment: str | None = None,
    stratum: Mapping[str, Any] | None = None,
    key: str = "rank_genes_by_stratum",
) -> pd.DataFrame:
    """Return what :func:`rank_genes_by_stratum` wrote.

    Parameters
    ----------
    adata
        Data it was written to.
    treatment
        Only this treatment.
    stratum
        Only strata with these levels, as in ``{"cell_type": "B"}``.
    key
        Key of `uns`.

    Returns
    -------
    One row per treatment, stratum and gene, the largest absolute score first within each pair: `treatment`, one column
    per covariate, `gene`, `score` (Welch's t), `shift` (difference of means), `p_value`, `p_value_adj`, `n_treated`,
    `n_control`. Where no cell varies, the score is 0 and the p-value 1.

    Raises
    ------
    KeyError
        If there are no such results, no such covariate, or nothing for what was asked.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=400, n_genes=40, n_perturbations=3, seed=0)
    >>> sgv.pp.rank_genes_by_stratum(adata, "perturbation", "control", ["cell_type", "donor"])
    >>> sgv.pp.ranked_genes(adata).columns.tolist()[:4]
    ['treatment', 'cell_type', 'donor', 'gene']
    """
    if key not in adata.uns or "genes" not in adata.uns[key]:
        msg = f"uns[{key!r}] holds no ranked genes. Call `pp.rank_genes_by_stratum(adata, ..., key_added={key!r})`."
        raise KeyError(msg)
    frame = adata.uns[key]["genes"]
    wanted = {**({} if treatment is None else {"treatment": treatment}), **(stratum or {})}
    keep = np.ones(len(frame), dtype=bool)
    for column, level in wanted.items():
        if column not in frame:
            msg = f"{column!r} is not among the columns of the ranked genes: {list(frame.columns)}."
            raise KeyError(msg)
        keep &= (frame[column].astype(str) == str(level)).to_numpy()
    if not keep.any():
        msg = f"No ranked genes for {wanted}. The pair had no test, or a name is misspelt."
        raise KeyError(msg)
    return frame[keep].reset_index(drop=True)


def welch_t(
    mean: np.ndarray,
    variance: np.ndarray,
    n: np.ndarray,
    control_mean: np.ndarray,
    control_variance: np.ndarray,
    n_control: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Welch's t and two-sided p-values from means, variances (denominator n - 1) and numbers of cells; they broadcast.

    Where both variances are 0 there is no test: t is 0 and p is 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t, p = stats.ttest_ind_from_stats(
            mean, np.sqrt(variance), n, control_mean, np.sqrt(control_variance), n_control, equal_var=False
        )
    tested = (variance > 0) | (control_variance > 0)
    return np.where(tested, t, 0.0), np.where(tested, p, 1.0)


def _moments(adata: AnnData, screen: Screen, layer: str | None, split_key: str | None) -> StratumMoments:
    """Moments of the cells that count, by stratum and treatment."""
    if split_key is not None:
        SplitField(split_key).validate_field(adata)
    outcome = OutcomeField(layer)
    outcome.register_field(adata)
    return stratum_moments(
        outcome.get_field_data(adata),
        stratum=screen.stratum,
        condition=screen.treatment,
        n_strata=len(screen.strata),
        n_conditions=len(screen.treatments),
        cells=np.flatnonzero(training_cells(adata, split_key)),
    )


def _testable_pairs(screen: Screen, moments: StratumMoments) -> tuple[np.ndarray, np.ndarray]:
    """Treatment and stratum of the pairs with at least two cells in each arm, by treatment, then stratum."""
    treatment, stratum = np.nonzero(moments.row.T[1:] >= 0)
    treatment = treatment + 1
    control = moments.row[stratum, 0]
    n_control = np.where(control >= 0, moments.n_cells[control], 0)
    testable = (moments.n_cells[moments.row[stratum, treatment]] > 1) & (n_control > 1)
    if not testable.any():
        msg = "No pair of treatment and stratum has two treated and two control cells. Name fewer `covariate_keys`."
        raise ValueError(msg)
    if not testable.all():
        left_out = [
            " / ".join([screen.treatments[t], *screen.strata.iloc[s]])
            for t, s in zip(treatment[~testable], stratum[~testable], strict=True)
        ]
        logger.warning("Not tested, with fewer than two treated or control cells: %s", ", ".join(left_out))
    return treatment[testable], stratum[testable]


def _test_all(screen: Screen, moments: StratumMoments, names: pd.Index, n_genes: int | None) -> pd.DataFrame:
    """Tests of all pairs that can be tested, as a frame."""
    treatment, stratum = _testable_pairs(screen, moments)
    n, mean = moments.n_cells, moments.mean.astype(np.float64)
    variance = moments.variance * (n / np.maximum(n - 1, 1))[:, None]
    keep = len(names) if n_genes is None else min(n_genes, len(names))
    gene = np.empty((len(treatment), keep), dtype=np.int64)
    statistics = {name: np.empty((len(treatment), keep)) for name in STATISTICS}
    treated, control = moments.row[stratum, treatment], moments.row[stratum, 0]
    for i, (a, b) in enumerate(zip(treated, control, strict=True)):
        score, p_value = welch_t(mean[a], variance[a], n[a], mean[b], variance[b], n[b])
        gene[i] = np.argsort(-np.abs(score), kind="stable")[:keep]
        of_pair = score, mean[a] - mean[b], p_value, adjust_p_values(p_value)
        for name, value in zip(STATISTICS, of_pair, strict=True):
            statistics[name][i] = value[gene[i]]

    columns: dict[str, Any] = {
        "treatment": _repeated(np.asarray(screen.treatments, dtype=object)[treatment], keep),
        **{str(key): _repeated(screen.strata[key].to_numpy()[stratum], keep) for key in screen.strata},
        "gene": pd.Categorical.from_codes(gene.ravel(), categories=names),
        **{name: value.ravel() for name, value in statistics.items()},
        "n_treated": np.repeat(n[treated], keep),
        "n_control": np.repeat(n[control], keep),
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(gene.size).astype(str))


def _repeated(levels: np.ndarray, times: int) -> pd.Categorical:
    """Levels of pairs as levels of rows; the few distinct ones are stored once."""
    codes, categories = pd.factorize(levels, sort=True)
    return pd.Categorical.from_codes(np.repeat(codes, times), categories=pd.Index(categories))
