"""Scores of edges from expression alone, or with a prior: the baselines that a network has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.stats import rankdata
from sklearn.ensemble import GradientBoostingRegressor

from scgraphvci._constants import SPLITS
from scgraphvci.grn._adata import _check_adata, expression_of, joint_levels, require_columns
from scgraphvci.grn._candidates import Candidates
from scgraphvci.grn._frame import tidy

Method = Literal[
    "pearson",
    "spearman",
    "residual_pearson",
    "residual_spearman",
    "ridge",
    "ridge_prior",
    "prior_residual",
    "grnboost2",
]
METHODS: tuple[str, ...] = get_args(Method)
NEEDS_PRIOR = ("ridge_prior", "prior_residual")
RIDGE = 0.1
PRIOR_PENALTY = 0.1
BLOCK_VALUES = 20_000_000
BOOSTING = {"learning_rate": 0.01, "n_estimators": 5000, "max_features": 0.1, "subsample": 0.9}
BOOSTING_WINDOW = 25


def score_edges(
    adata: AnnData,
    method: Method,
    regulators: Sequence[str] | None = None,
    *,
    prior: pd.DataFrame | None = None,
    layer: str | None = None,
    perturbation_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    split_key: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Score edges between regulators and all other genes by a simple method.

    With Z the expression of the genes, standardised over cells, S the correlations of regulators with one another and
    :math:`s_j` theirs with gene j:

    ``"pearson"``, ``"spearman"``
        Absolute correlation.
    ``"residual_pearson"``, ``"residual_spearman"``
        The same of residuals: means of cells alike in treatment and covariates are removed first.
    ``"ridge"``
        Absolute coefficients :math:`(S + \lambda I)^{-1} s_j`, :math:`\lambda = 0.1`, of residuals where columns are
        given.
    ``"ridge_prior"``
        The same with a tenth of the penalty for edges of the prior.
    ``"prior_residual"``
        Edges of the prior, scored by ``"residual_pearson"``; no other edge is listed.
    ``"grnboost2"``
        Importance in stochastic gradient boosting of each gene on the regulators, with the settings and the early
        stopping of GRNBoost2 (Moerman et al., Bioinformatics 35:2159, 2019). Slow: about a second for each gene.

    Parameters
    ----------
    adata
        Cells x genes, log-normalised.
    method
        One of the above.
    regulators
        Possible sources; the sources of `prior` if None.
    prior
        Columns `source`, `target` and optionally `weight`, which does not matter here.
    layer
        Layer with expression; None for `adata.X`.
    perturbation_key, categorical_covariate_keys
        Columns of obs: residuals are taken within their joint levels.
    split_key
        Column with the values "train", "test" and "ood": only "train" cells are used. None: all cells.
    seed
        Of ``"grnboost2"``.

    Returns
    -------
    `source`, `target` and `weight` (non-negative), the largest first. Pairs with weight 0 are left out.

    Raises
    ------
    KeyError
        If a column or layer is missing.
    ValueError
        If the method is unknown, lacks its prior or the columns that residuals need, or no cell or regulator is left.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> regulators = adata.var_names[adata.var["is_regulator"]]
    >>> net = sgv.grn.score_edges(adata, "residual_pearson", regulators, perturbation_key="perturbation")
    >>> net.columns.tolist(), bool(net["weight"].between(0, 1).all())
    (['source', 'target', 'weight'], True)
    """
    _check_adata(adata)
    _check_method(method, prior is not None, perturbation_key is not None or bool(categorical_covariate_keys))
    edges = None if prior is None else tidy(prior, "prior")
    if regulators is not None:
        sources = pd.Index([str(name) for name in regulators])
    elif edges is not None:
        sources = pd.Index(edges["source"])
    else:
        msg = "Neither `regulators` nor `prior` says which genes may be sources. Give one."
        raise ValueError(msg)
    genes = pd.Index(adata.var_names.astype(str))
    candidates = Candidates.rectangle(genes.intersection(sources, sort=False), genes)
    if candidates.regulators.empty:
        msg = f"None of the regulators ({', '.join(sources[:3])}, ...) is a gene of `adata`, such as {list(genes[:3])}."
        raise ValueError(msg)
    expression = Expression(adata, layer, perturbation_key, categorical_covariate_keys, split_key)
    return candidates.frame(edge_scores(expression, method, candidates, edges, seed))


class Expression:
    """Expression of the cells that count, a block of genes at a time.

    Parameters
    ----------
    adata, layer, perturbation_key, categorical_covariate_keys, split_key
        As for :func:`score_edges`.
    """

    def __init__(
        self,
        adata: AnnData,
        layer: str | None,
        perturbation_key: str | None,
        categorical_covariate_keys: Sequence[str] | None,
        split_key: str | None,
    ) -> None:
        matrix = expression_of(adata, layer)
        keys = [key for key in (perturbation_key, *(categorical_covariate_keys or [])) if key is not None]
        require_columns(adata, (*keys, split_key))
        cells = np.arange(adata.n_obs)
        if split_key is not None:
            cells = np.flatnonzero(adata.obs[split_key].astype(str) == SPLITS.TRAIN)
        if cells.size < 3:
            msg = f"{cells.size} cells are left to score edges with, at least 3 are needed."
            raise ValueError(msg)
        matrix = matrix[cells]
        self._matrix: Any = sparse.csc_array(matrix) if sparse.issparse(matrix) else np.asarray(matrix)
        self.genes = pd.Index(adata.var_names.astype(str))
        self.n_cells = cells.size
        self._group = joint_levels(adata.obs.iloc[cells], keys) if keys else None

    def values(self, genes: np.ndarray, *, residual: bool) -> np.ndarray:
        """Expression of some genes, shape ``(n_cells, n)``; less the mean of cells alike if `residual`."""
        block = self._matrix[:, genes]
        values = np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=np.float64)
        if not (residual and self._group is not None):
            return values
        n_groups = int(self._group.max()) + 1
        member = sparse.csr_array((np.ones(self.n_cells), (self._group, np.arange(self.n_cells))))
        mean = (member @ values) / np.bincount(self._group, minlength=n_groups)[:, None]
        return values - mean[self._group]

    def standardised(self, genes: np.ndarray, *, residual: bool, ranks: bool = False) -> np.ndarray:
        """Values, or their ranks, with mean 0 and variance 1; constant genes are 0."""
        values = self.values(genes, residual=residual)
        if ranks:
            values = rankdata(values, axis=0)
        values = values - values.mean(axis=0)
        scale = values.std(axis=0)
        # What is left of a constant gene is rounding error, which must not be blown up.
        return np.divide(values, scale, out=np.zeros_like(values), where=scale > 1e-6)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield positions of genes, as many at a time as fit in memory."""
        step = max(1, BLOCK_VALUES // self.n_cells)
        for start in range(0, len(self.genes), step):
            yield np.arange(start, min(start + step, len(self.genes)))


def edge_scores(
    expression: Expression, method: str, candidates: Candidates, prior: pd.DataFrame | None, seed: int
) -> np.ndarray:
    """Scores of all pairs of regulator and gene, 0 for self-loops, shape ``(n_regulators, n_genes)``."""
    rows = expression.genes.get_indexer(candidates.regulators)
    listed = None if prior is None else candidates.listed(prior)
    if method == "grnboost2":
        scores = _boosting(expression, rows, seed)
    elif method in ("ridge", "ridge_prior"):
        scores = _ridge(expression, rows, listed if method == "ridge_prior" else None)
    else:
        residual = method in ("residual_pearson", "residual_spearman", "prior_residual")
        scores = _correlation(expression, rows, residual=residual, ranks=method.endswith("spearman"))
        if method == "prior_residual":
            scores = scores * listed
    return np.where(candidates.mask, np.abs(scores), 0.0)


def _correlation(expression: Expression, rows: np.ndarray, *, residual: bool, ranks: bool) -> np.ndarray:
    regulators = expression.standardised(rows, residual=residual, ranks=ranks)
    parts = [
        regulators.T @ expression.standardised(genes, residual=residual, ranks=ranks) for genes in expression.blocks()
    ]
    return np.concatenate(parts, axis=1) / expression.n_cells


def _ridge(expression: Expression, rows: np.ndarray, listed: np.ndarray | None) -> np.ndarray:
    """Coefficients of every gene on the regulators, its own left out.

    Q, the inverse for equal penalties, is computed once. Smaller penalties of a gene's m prior edges are a correction
    of rank m to it, and leaving out the gene itself is one of rank 1.
    """
    among = _correlation(expression, rows, residual=True, ranks=False)
    inverse = np.linalg.inv(among[:, rows] + RIDGE * np.eye(rows.size))
    relief = RIDGE * (1 - PRIOR_PENALTY)
    own = {int(gene): i for i, gene in enumerate(rows)}
    out = np.empty_like(among)
    for gene in range(among.shape[1]):
        q = inverse
        chosen = np.flatnonzero(listed[:, gene]) if listed is not None else np.empty(0, dtype=int)
        if chosen.size:
            columns = inverse[:, chosen]
            q = inverse + columns @ np.linalg.solve(np.eye(chosen.size) / relief - columns[chosen], columns.T)
        coefficient = q @ among[:, gene]
        if gene in own:
            i = own[gene]
            coefficient = coefficient - q[:, i] * (coefficient[i] / q[i, i])
        out[:, gene] = coefficient
    return out


def _boosting(expression: Expression, rows: np.ndarray, seed: int) -> np.ndarray:
    """Importances of the regulators in boosted trees, not normalised, as in GRNBoost2."""
    regulators = expression.values(rows, residual=False).astype(np.float32)
    out = np.zeros((rows.size, len(expression.genes)))
    for gene in range(len(expression.genes)):
        others = np.flatnonzero(rows != gene)
        target = expression.values(np.array([gene]), residual=False)[:, 0]
        if others.size and target.std() > 0:
            model = GradientBoostingRegressor(random_state=seed, **BOOSTING)
            model.fit(regulators[:, others], target, monitor=_no_longer_improves)
            out[others, gene] = model.feature_importances_ * len(model.estimators_)
    return out


def _no_longer_improves(iteration: int, model: Any, _: Any) -> bool:
    """GRNBoost2's rule: stop once the last rounds did not improve the loss on cells left out of them."""
    recent = model.oob_improvement_[max(0, iteration - BOOSTING_WINDOW + 1) : iteration + 1]
    return iteration >= BOOSTING_WINDOW - 1 and float(recent.mean()) < 0


def _check_method(method: str, has_prior: bool, has_groups: bool) -> None:
    if method not in METHODS:
        msg = f"Unknown method {method!r}. Choose one of {list(METHODS)}."
        raise ValueError(msg)
    if method in NEEDS_PRIOR and not has_prior:
        msg = f"{method!r} needs `prior`, a frame with columns source and target."
        raise ValueError(msg)
    if method in ("residual_pearson", "residual_spearman", "prior_residual") and not has_groups:
        msg = f"{method!r} needs `perturbation_key` or `categorical_covariate_keys`: residuals are taken within them."
        raise ValueError(msg)
