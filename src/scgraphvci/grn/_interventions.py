"""Judging networks by interventions: whether the targets of a perturbed regulator shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order
from scipy.stats import norm, rankdata

from scgraphvci.grn._adata import _check_adata, expression_of, joint_levels, require_columns
from scgraphvci.grn._candidates import tidy_networks
from scgraphvci.grn._evaluate import Nets
from scgraphvci.grn._random import degree_matched_random

BLOCK_VALUES = 20_000_000


def evaluate_interventions(
    nets: Nets,
    adata: AnnData,
    perturbation_key: str,
    control: str,
    *,
    layer: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    alpha: float = 0.05,
    n_pairs: int = 500,
    min_cells: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Score networks by how expression shifts where a source is perturbed, as CausalBench does.

    An edge can be judged where its source was perturbed alone, in at least `min_cells` cells. Cells of that
    perturbation are compared with control cells in the expression of the target: by the Wasserstein distance, and by a
    two-sided Mann-Whitney test without correction for multiplicity (Chevalley et al., Communications Biology 2025,
    arXiv:2210.17283). Pass cells that the networks were not fitted on, as in ``adata[adata.obs["split"] == "test"]``.

    Parameters
    ----------
    nets
        Columns `source`, `target` and optionally `weight` (0 means no edge), or a mapping from names to such frames.
    adata
        Cells x genes, log-normalised.
    perturbation_key, control
        Column of obs with the treatments, named after the genes they perturb, and its control level. Levels that name
        no gene, such as combinations, are ignored.
    layer
        Layer with expression; None for `adata.X`.
    categorical_covariate_keys
        Compare within their joint levels, so that cells of other types or donors are no shift: distances are averaged
        over levels with weights the number of perturbed cells, tests combined as van Elteren does (weights
        1 / (number of cells + 1)). Levels without cells of both arms are left out. None: one level.
    alpha
        Shifts with a p-value below this count.
    n_pairs
        Number of pairs without a predicted path that are sampled.
    min_cells
        Fewest cells of a perturbation, and of the control, in levels that have both.
    seed
        Of the sampled pairs and the random graphs.

    Returns
    -------
    One row for each network, for a random graph of its degrees ("<name>, random graph"), and for all pairs of a
    perturbed gene and another one ("all pairs"):

    * `predictor`, `n_edges` (edges that can be judged)
    * `mean_wasserstein` (higher is better) and `share_shifted`, over those edges; NaN where there are none
    * `n_omitted` (pairs sampled without a path) and `false_omission_rate`, the share of them with a shift (lower is
      better)

    Raises
    ------
    KeyError
        If a column or layer is missing.
    ValueError
        If the control has no cells, or no gene was perturbed in enough of them.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=600, n_genes=60, n_perturbations=4, seed=0)
    >>> scores = evaluate_interventions(sgv.grn.get_grn(adata, "grn_true"), adata, "perturbation", "control")
    >>> scores["predictor"].tolist()
    ['network', 'network, random graph', 'all pairs']
    """
    named = tidy_networks(nets)
    shifts = _shifts(adata, perturbation_key, control, layer, list(categorical_covariate_keys or []), min_cells)
    rows = []
    for name, net in named.items():
        merged = net[net["weight"] != 0].drop_duplicates(["source", "target"], ignore_index=True)
        for label, graph in ((name, merged), (f"{name}, random graph", degree_matched_random(merged, seed))):
            rows.append({"predictor": label, **shifts.judge(graph, alpha, n_pairs, seed)})
    judged = shifts.possible
    everything = {"n_edges": int(judged.sum()), **shifts.summary(judged, alpha)}
    return pd.DataFrame([*rows, {"predictor": "all pairs", **everything, "n_omitted": 0}])


class _Shifts:
    """Shift of every gene under every perturbation.

    Attributes
    ----------
    sources
        Positions of the perturbed genes, shape ``(n_sources,)``.
    distance, p_value
        Wasserstein distance and p-value, shape ``(n_sources, n_genes)``.
    possible
        Pairs that can be judged: all but a gene with itself.
    """

    def __init__(self, genes: pd.Index, sources: np.ndarray, distance: np.ndarray, p_value: np.ndarray) -> None:
        self.genes, self.sources, self.distance, self.p_value = genes, sources, distance, p_value
        self.possible = sources[:, None] != np.arange(len(genes))[None]

    def judge(self, net: pd.DataFrame, alpha: float, n_pairs: int, seed: int) -> dict[str, float]:
        """Scores of a network."""
        known = net[net["source"].isin(self.genes) & net["target"].isin(self.genes)]
        index = [self.genes.get_indexer(pd.Index(known[end])) for end in ("source", "target")]
        n = len(self.genes)
        graph = sparse.csr_array((np.ones(len(known)), index), shape=(n, n))
        edges = (graph[self.sources].toarray() != 0) & self.possible
        omitted = np.argwhere(self.possible & ~self._reached(graph))
        rng = np.random.default_rng(seed)
        sampled = omitted[rng.choice(len(omitted), min(n_pairs, len(omitted)), replace=False)]
        false = self.p_value[sampled[:, 0], sampled[:, 1]] < alpha
        return {
            "n_edges": int(edges.sum()),
            **self.summary(edges, alpha),
            "n_omitted": len(sampled),
            "false_omission_rate": float(false.mean()) if len(sampled) else np.nan,
        }

    def summary(self, pairs: np.ndarray, alpha: float) -> dict[str, float]:
        """Mean distance of some pairs, and the share of them with a shift."""
        if not pairs.any():
            return {"mean_wasserstein": np.nan, "share_shifted": np.nan}
        shifted = self.p_value[pairs] < alpha
        return {"mean_wasserstein": float(self.distance[pairs].mean()), "share_shifted": float(shifted.mean())}

    def _reached(self, graph: sparse.csr_array) -> np.ndarray:
        """Which genes a path leads to from each source."""
        reached = np.zeros(self.possible.shape, dtype=bool)
        for row, source in enumerate(self.sources):
            reached[row, breadth_first_order(graph, source, return_predecessors=False)] = True
        return reached


def _shifts(
    adata: AnnData, perturbation_key: str, control: str, layer: str | None, keys: list[str], min_cells: int
) -> _Shifts:
    """Compare every perturbation of a gene with the control."""
    _check_adata(adata)
    matrix: Any = expression_of(adata, layer)
    require_columns(adata, (perturbation_key, *keys))
    received = adata.obs[perturbation_key].astype(str).to_numpy()
    is_control = received == str(control)
    if not is_control.any():
        msg = f"No cell has control={control!r} in column {perturbation_key!r}. Levels: {sorted(set(received))[:10]}."
        raise ValueError(msg)
    stratum = joint_levels(adata.obs, keys)
    genes = pd.Index(adata.var_names.astype(str))
    matrix = sparse.csc_array(matrix) if sparse.issparse(matrix) else np.asarray(matrix)
    sources, arms = [], []
    for source in np.flatnonzero(genes.isin(np.unique(received)) & (genes != str(control))):
        shared = _arms(received == genes[source], is_control, stratum)
        if shared and min(sum(len(arm[i]) for arm in shared) for i in (0, 1)) >= min_cells:
            sources.append(source)
            arms.append(shared)
    if not sources:
        msg = (
            f"No gene of `adata` was perturbed in at least min_cells={min_cells} cells with controls beside them. "
            f"Name levels as genes are: {perturbation_key!r} has {sorted(set(received))[:5]}, genes {list(genes[:5])}."
        )
        raise ValueError(msg)
    distance, p_value = np.empty((2, len(sources), len(genes)))
    step = max(1, BLOCK_VALUES // adata.n_obs)
    for start in range(0, len(genes), step):
        part = slice(start, start + step)
        block = matrix[:, part].toarray() if sparse.issparse(matrix) else matrix[:, part]
        for row, shared in enumerate(arms):
            distance[row, part], p_value[row, part] = _compare(block, shared)
    return _Shifts(genes, np.array(sources), distance, p_value)


def _arms(treated: np.ndarray, control: np.ndarray, stratum: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Treated and control cells of every stratum that has both."""
    shared = np.intersect1d(stratum[treated], stratum[control])
    return [tuple(np.flatnonzero(arm & (stratum == x)) for arm in (treated, control)) for x in shared]  # type: ignore[misc]


def _compare(values: np.ndarray, arms: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Wasserstein distance and p-value of every gene."""
    n_treated = sum(len(treated) for treated, _ in arms)
    distance, score, variance = np.zeros((3, values.shape[1]))
    for treated, control in arms:
        cells = values[np.concatenate([treated, control])]
        distance += len(treated) / n_treated * wasserstein(cells, len(treated))
        u, of_u = mann_whitney(cells, len(treated))
        weight = 1 / (len(cells) + 1)
        score += weight * u
        variance += weight**2 * of_u
    z = np.divide(score, np.sqrt(variance), out=np.zeros_like(score), where=variance > 0)
    return distance, 2 * norm.sf(np.abs(z))


def wasserstein(values: np.ndarray, n: int) -> np.ndarray:
    """Wasserstein distance between the first `n` rows and the rest, for every column.

    The integral of the absolute difference of the empirical distribution functions.
    """
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(np.asarray(values, dtype=np.float64), order, axis=0)
    step = np.where(order < n, 1 / n, -1 / (len(values) - n))
    return np.asarray((np.abs(np.cumsum(step, axis=0)[:-1]) * np.diff(ordered, axis=0)).sum(axis=0))


def mann_whitney(values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mann-Whitney U of the first `n` rows against the rest, less its mean, and its variance, for every column."""
    total = len(values)
    m = total - n
    ranks = rankdata(np.asarray(values, dtype=np.float64), axis=0)
    u = ranks[:n].sum(axis=0) - n * (total + 1) / 2
    # The variance of ranks among all cells accounts for ties: nm (N + 1) / 12 is what it gives without any.
    return u, n * m / total * ranks.var(axis=0, ddof=1)
