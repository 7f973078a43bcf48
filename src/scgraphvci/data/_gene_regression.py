"""Ridge regression of genes on one another: on all others, or on the regulators that a network gives them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

RIDGE = (1.0, 3.0, 10.0, 30.0)  # penalties; a gene's own variance is 1
MAX_VALUES = 20_000_000  # of the regressions solved at once: 160 MB


class GeneRegression:
    r"""Ridge regression of every gene on all others over cells, in closed form.

    With S the sum over n cells of outer products of residuals, and :math:`Q = (S + \lambda n I)^{-1}`, the coefficient
    of gene k for gene j is :math:`-Q_{kj} / Q_{jj}`. S is known along some axes; across them it counts as 0.

    Parameters
    ----------
    axes
        Orthonormal axes, shape ``(n_genes, n_axes)``.
    gram
        S along them, shape ``(n_axes, n_axes)``.
    n_cells
        Number of cells.
    """

    def __init__(self, axes: np.ndarray, gram: np.ndarray, n_cells: int) -> None:
        self._axes = axes
        eigenvalue, self._rotation = np.linalg.eigh(gram)
        eigenvalue = np.maximum(eigenvalue, 0)
        self._kept = {penalty: eigenvalue / (eigenvalue + penalty * max(n_cells, 1)) for penalty in RIDGE}
        squares = (axes @ self._rotation) ** 2
        self._own = {penalty: 1 - squares @ kept for penalty, kept in self._kept.items()}

    def predict(self, response: np.ndarray, penalty: float) -> np.ndarray:
        """What responses of all other genes say of each gene: from and to shape ``(n, n_genes)``."""
        along = response @ self._axes @ self._rotation * self._kept[penalty]
        return response - (response - along @ self._rotation.T @ self._axes.T) / self._own[penalty]


class Network(NamedTuple):
    """A regulatory network.

    Attributes
    ----------
    edge_index
        Regulator and target of each edge, shape ``(2, n_edges)``.
    edge_weight
        Confidence in each edge, shape ``(n_edges,)``; signs do not matter.
    """

    edge_index: np.ndarray
    edge_weight: np.ndarray


Route = Network | None
"""What genes are regressed on: their regulators in a network, or all other genes."""


class Regulators:
    """Regulators of each gene, in batches of genes with as many of them.

    Parameters
    ----------
    network
        The network; self-loops are dropped, and weights scaled to a mean of 1.
    n_genes
        Number of genes.

    Attributes
    ----------
    batches
        Targets, shape ``(n,)``, their regulators, shape ``(n, n_regulators)``, and the square roots of the weights.
    occurring
        All regulators, sorted.
    """

    def __init__(self, network: Network, n_genes: int) -> None:
        self.n_genes = n_genes
        source, target = network.edge_index
        keep = source != target
        order = np.argsort(target[keep], kind="stable")
        source, target = source[keep][order], target[keep][order]
        weight = np.abs(network.edge_weight[keep][order].astype(np.float64))
        scale = np.sqrt(weight / (weight.mean() if weight.size else 1.0))
        count = np.bincount(target, minlength=n_genes)
        first = np.cumsum(count) - count
        self.occurring = np.unique(source)
        self.batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for n in np.unique(count[count > 0]):
            genes = np.flatnonzero(count == n)
            edges = first[genes][:, None] + np.arange(n)
            self.batches.append((genes, source[edges], scale[edges]))


class RegulatorRegression:
    r"""Ridge regression of every gene on its regulators over cells.

    With S as in :class:`GeneRegression`, R the regulators of gene j and w the weights of their edges, the coefficients
    are :math:`(S_{RR} + \lambda n\, \mathrm{diag}(1 / w))^{-1} S_{Rj}`. Genes without regulators get no prediction.

    Parameters
    ----------
    axes, gram, n_cells
        As for :class:`GeneRegression`.
    regulators
        Regulators of each gene.
    """

    def __init__(self, axes: np.ndarray, gram: np.ndarray, n_cells: int, regulators: Regulators) -> None:
        self._n_genes, sources, targets = regulators.n_genes, [], []
        products = _Products(axes, gram, regulators)
        coefficients: list[np.ndarray] = []
        for genes, of_gene, scale in regulators.batches:
            step = max(1, MAX_VALUES // (of_gene.shape[1] * max(axes.shape[1], len(RIDGE) * of_gene.shape[1])))
            for start in range(0, genes.size, step):
                part = slice(start, start + step)
                found = _regress(products, genes[part], of_gene[part], scale[part], n_cells)
                coefficients.append(found.reshape(len(RIDGE), -1))
            sources.append(of_gene.ravel())
            targets.append(np.repeat(genes, of_gene.shape[1]))
        where = np.concatenate(sources), np.concatenate(targets)
        self._coefficients = {
            penalty: sparse.csr_array((values, where), shape=(self._n_genes, self._n_genes))
            for penalty, values in zip(RIDGE, np.concatenate(coefficients, axis=1), strict=True)
        }

    def coefficients(self, penalty: float) -> sparse.csr_array:
        """Coefficient of each regulator (row) for each gene (column), shape ``(n_genes, n_genes)``."""
        return self._coefficients[penalty]

    def predict(self, response: np.ndarray, penalty: float) -> np.ndarray:
        """What responses of regulators say of each gene: from and to shape ``(n, n_genes)``."""
        return np.asarray(response @ self._coefficients[penalty])


Regression = GeneRegression | RegulatorRegression


class _Products:
    """S between regulators and genes, computed once for all genes unless they are too many."""

    def __init__(self, axes: np.ndarray, gram: np.ndarray, regulators: Regulators) -> None:
        self._axes, self._along = axes, axes @ gram
        self._table: np.ndarray | None = None
        occurring = regulators.occurring
        if occurring.size * regulators.n_genes <= MAX_VALUES:
            self._table = self._along[occurring] @ axes.T
            self._row = np.zeros(regulators.n_genes, dtype=np.int64)
            self._row[occurring] = np.arange(occurring.size)

    def between(self, regulators: np.ndarray) -> np.ndarray:
        """S among the regulators of each gene (n, n_regulators); shape ``(n, n_regulators, n_regulators)``."""
        if self._table is None:
            return self._axes[regulators] @ self._along[regulators].swapaxes(1, 2)
        return self._table[self._row[regulators][:, :, None], regulators[:, None]]

    def toward(self, regulators: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """S between each gene (n,) and its regulators, shape ``(n, n_regulators)``."""
        if self._table is None:
            return (self._axes[regulators] @ self._along[genes][..., None])[..., 0]
        return self._table[self._row[regulators], genes[:, None]]


def _regress(
    products: _Products, genes: np.ndarray, regulators: np.ndarray, scale: np.ndarray, n_cells: int
) -> np.ndarray:
    """Coefficients of a batch of genes for every penalty, shape ``(n_penalties, n, n_regulators)``."""
    gram = scale[:, :, None] * products.between(regulators) * scale[:, None]
    product = scale * products.toward(regulators, genes)
    penalties = np.multiply.outer(np.asarray(RIDGE) * max(n_cells, 1), np.eye(regulators.shape[1]))
    return scale * np.linalg.solve(gram + penalties[:, None], product[..., None])[..., 0]
