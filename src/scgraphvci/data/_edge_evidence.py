"""Evidence for edges from regulators to genes: partial association, and direct shifts where a regulator is perturbed.

Everything is computed from sums over cells; the largest arrays are sources x genes.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

CONTROL, OTHER = -1, -2  # codes of cells without a treatment, and with one that perturbs no gene, or several
RIDGE = 0.03  # on the scale of correlations; more where regulators are many for the number of cells
MIN_UNEXPLAINED = 0.05  # of a gene's variance: a perfect fit is not to be believed
PSEUDO_CELLS = 1.0  # at the variance of all cells, so that few cells that happen to agree do not look certain


class Arms:
    """Sums over the training cells in which one source was perturbed, and over control cells.

    Parameters
    ----------
    intervention
        Of every cell: position of the perturbed gene, `CONTROL` or `OTHER`.
    stratum
        Code of every cell.
    cells
        Training cells.
    sources
        Genes that may be sources, sorted; perturbations of other genes do not count.
    n_genes
        Number of genes.
    """

    def __init__(
        self, intervention: np.ndarray, stratum: np.ndarray, cells: np.ndarray, sources: np.ndarray, n_genes: int
    ) -> None:
        received, strata = intervention[cells], stratum[cells]
        n_strata = int(strata.max()) + 1
        self.n_cells = len(cells)
        self.genes = np.intersect1d(received, sources)
        self.place = np.searchsorted(sources, self.genes)  # among the sources
        self._arm = np.full(len(intervention), -1)
        perturbed = np.isin(intervention, self.genes)
        self._arm[perturbed] = np.searchsorted(self.genes, intervention[perturbed])
        self._control, self._stratum = intervention == CONTROL, stratum
        in_arm = self._arm[cells] >= 0
        self.count = np.zeros((len(self.genes), n_strata))
        np.add.at(self.count, (self._arm[cells][in_arm], strata[in_arm]), 1)
        self.n_stratum = np.bincount(strata, minlength=n_strata)
        self.n_control = np.bincount(strata[self._control[cells]], minlength=n_strata)
        # Weights of strata in least squares with a mean for each: the precision of the difference there.
        both = self.count + self.n_control
        self.weight = np.divide(self.count * self.n_control, both, out=np.zeros_like(self.count), where=both > 0)
        self.total: np.ndarray = np.zeros((len(self.genes), n_genes))
        self.square: np.ndarray = np.zeros_like(self.total)
        self.weighted: np.ndarray = np.zeros_like(self.total)
        self.control_total: np.ndarray = np.zeros((n_strata, n_genes))
        self.control_square = np.zeros(n_genes)

    def add(self, residual: np.ndarray, rows: np.ndarray) -> None:
        """Add some cells, given their residuals from stratum means."""
        k = np.flatnonzero(self._arm[rows] >= 0)
        if k.size:
            arm, stratum, value = self._arm[rows][k], self._stratum[rows][k], residual[k]
            each = (arm, np.arange(k.size))
            share = self.weight[arm, stratum] / self.count[arm, stratum]
            shape = (len(self.genes), k.size)
            member = sparse.csr_array((np.ones(k.size), each), shape=shape)
            self.total += member @ value
            self.square += member @ value**2
            self.weighted += sparse.csr_array((share, each), shape=shape) @ value
        k = np.flatnonzero(self._control[rows])
        if k.size:
            stratum, value = self._stratum[rows][k], residual[k]
            member = sparse.csr_array(
                (np.ones(k.size), (stratum, np.arange(k.size))), shape=(len(self.n_stratum), k.size)
            )
            self.control_total += member @ value
            self.control_square += (value**2).sum(axis=0)

    def standardise(self, scale: np.ndarray) -> None:
        """Divide by each gene's standard deviation; call once, after the last cells."""
        for sums in (self.total, self.weighted, self.control_total):
            sums /= scale
        for sums in (self.square, self.control_square):
            sums /= scale**2


def edge_evidence(covariance: np.ndarray, sources: np.ndarray, arms: Arms) -> np.ndarray:
    r"""Score every pair of source and gene by :math:`\log(1 + T^2) + \log(1 + z^2)`.

    Parameters
    ----------
    covariance
        Of sources with all genes, of residuals from stratum means in units of their standard deviation,
        ``(n_sources, n_genes)``. What treatments do to expression is part of it.
    sources
        Their positions among the genes, sorted.
    arms
        Sums over the same cells.

    Returns
    -------
    ``(n_sources, n_genes)``; self-pairs mean nothing. See :func:`partial_t` and :func:`direct_shift`. The second term
    is 0 for sources that no treatment perturbs.
    """
    ridge = max(RIDGE, len(sources) / arms.n_cells)
    evidence = np.log1p(partial_t(covariance, sources, arms, ridge) ** 2)
    if len(arms.genes) and arms.n_control.any():
        evidence[arms.place] += np.log1p(direct_shift(covariance, sources, arms, ridge) ** 2)
    return evidence.astype(np.float32)


def partial_t(covariance: np.ndarray, sources: np.ndarray, arms: Arms, ridge: float) -> np.ndarray:
    """Coefficient of each source in ridge regression of each gene on all sources but itself, in standard errors.

    Cells in which a gene itself was perturbed say nothing of what regulates it. For that gene their mean is removed, as
    an indicator among the regressors would.
    """
    n = arms.n_cells
    slope, inverse = _ridge(covariance, sources, ridge)
    left = np.maximum(1 - np.einsum("ij,ij->j", slope, covariance), MIN_UNEXPLAINED)
    diagonal = np.diag(inverse)
    t = slope / np.sqrt(diagonal)[:, None] / np.sqrt(left / n)
    # Without the gene itself among the regressors, the others' coefficients vary less.
    kept = 1 - inverse**2 / np.outer(diagonal, diagonal)
    np.fill_diagonal(kept, 1.0)
    t[:, sources] /= np.sqrt(np.maximum(kept, 1e-6))
    count = arms.count
    spread = (count * (1 - count / np.maximum(arms.n_stratum, 1))).sum(axis=1) / n
    for k, i in enumerate(arms.place):
        if spread[k] > 0:
            own = arms.total[k, sources] / n
            t[:, arms.genes[k]] = _t_without_shift(covariance, sources, inverse, own, spread[k], i) * np.sqrt(n)
    return t


def _t_without_shift(
    covariance: np.ndarray, sources: np.ndarray, inverse: np.ndarray, own: np.ndarray, spread: float, i: int
) -> np.ndarray:
    """T, for one cell, of the i-th source as a gene, with an indicator that has covariances `own`, variance `spread`.

    The indicator's part is taken out of all covariances, which is a change of rank 1 to them and to their inverse.
    """
    column = covariance[:, sources[i]] - own * own[i] / spread
    turned = inverse @ own
    changed = inverse + np.outer(turned, turned) / (spread - own @ turned)
    slope = changed @ column
    slope = slope - changed[:, i] * slope[i] / changed[i, i]
    slope[i] = 0.0
    variance = np.diag(changed) - changed[:, i] ** 2 / changed[i, i]
    variance[i] = 1.0
    left = max(column[i] - slope @ column, MIN_UNEXPLAINED * column[i], 1e-12)
    return np.asarray(slope / np.sqrt(np.maximum(variance, 1e-12) * left))


def direct_shift(covariance: np.ndarray, sources: np.ndarray, arms: Arms, ridge: float) -> np.ndarray:
    """Shift of each gene where a source is perturbed, less what shifts of other sources explain, in standard errors.

    The shift is that of least squares with a mean for each stratum, against control cells. What another source's shift
    explains is its coefficient in ridge regression within treatments, so that shifts are not explained by themselves.

    Returns
    -------
    One row for each perturbed source, ``(n_arms, n_genes)``; 0 where no stratum has both its cells and control's.
    """
    n_arm, n_control = arms.count.sum(axis=1), arms.n_control.sum()
    mean = arms.total / n_arm[:, None]
    control = arms.control_total / np.maximum(arms.n_control, 1)[:, None]
    variance = (arms.square - n_arm[:, None] * mean**2 + PSEUDO_CELLS) / (n_arm + PSEUDO_CELLS)[:, None]
    within = arms.control_square - (arms.n_control[:, None] * control**2).sum(axis=0)
    control_variance = (within + PSEUDO_CELLS) / (n_control + PSEUDO_CELLS)

    weight = arms.weight.sum(axis=1, keepdims=True)
    weight[weight == 0] = np.inf
    shift = (arms.weighted - arms.weight @ control) / weight
    squared = arms.weight**2
    error = (squared / np.maximum(arms.count, 1)).sum(axis=1)[:, None] * variance
    error = error + (squared / np.maximum(arms.n_control, 1)).sum(axis=1)[:, None] * control_variance
    error = np.sqrt(np.maximum(error, 1e-12)) / weight

    means = np.vstack([mean, arms.control_total.sum(axis=0) / n_control])
    share = np.append(n_arm, n_control) / arms.n_cells
    slope, _ = _ridge(covariance - (means[:, sources] * share[:, None]).T @ means, sources, ridge)
    others = shift[:, sources]
    others[np.arange(len(arms.place)), arms.place] = 0.0
    return np.divide(shift - others @ slope, error, out=np.zeros_like(shift), where=error > 0)


def _ridge(covariance: np.ndarray, sources: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of every gene on the sources, its own left out by a correction of rank 1, and the inverse."""
    inverse = np.linalg.inv(covariance[:, sources].astype(np.float64) + ridge * np.eye(len(sources)))
    slope = inverse @ covariance
    slope[:, sources] -= inverse * (np.diag(slope[:, sources]) / np.diag(inverse))
    slope[np.arange(len(sources)), sources] = 0.0
    return slope, inverse
