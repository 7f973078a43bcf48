"""Best linear prediction of a treatment's effect in one stratum from its effects in the others (kriging)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from scgraphvci.data._ridge import Ridge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SIMILARITY = (0.0, 0.03, 0.1, 0.3, 1.0)  # variance of a response along the features, in within-variances
HETEROGENEITY = (0.02, 0.1, 0.5)  # variance of a response between strata that nothing foretells
FLAT = 1e-3  # precision of a pooled shift: as good as no prior
TOLERANCE = 0.01  # share of the held-out error within which variances count as equally good
RANK_TOLERANCE = 1e-6
CROSS_VALIDATED = 64  # groups of perturbations that choose the two variances: more would tell little


class Pairs(NamedTuple):
    """Strata under treatments beside their own control.

    Attributes
    ----------
    stratum, condition
        Codes, shape ``(n_pairs,)``.
    shift
        Treated less control mean, in standard deviations within strata, shape ``(n_pairs, n_genes)``.
    noise
        Sampling variance of the shifts, in variances within strata, shape ``(n_pairs,)``.
    """

    stratum: np.ndarray
    condition: np.ndarray
    shift: np.ndarray
    noise: np.ndarray


class Block(NamedTuple):
    """Perturbations that occur together, directly or through others: a regression of its own.

    Attributes
    ----------
    members
        The perturbations.
    rows
        The pairs that hold any of them.
    design
        Treatment vectors of these pairs, shape ``(n_rows, n_members)``.
    """

    members: np.ndarray
    rows: np.ndarray
    design: np.ndarray


class Variances(NamedTuple):
    """Variances of a response between strata, in variances within strata."""

    similarity: float  # along the features of strata
    heterogeneity: float  # that nothing foretells


@dataclass(frozen=True)
class Kriging:
    """Regression of shifts on treatments (flat prior) and on treatments times features of strata (normal prior).

    Attributes
    ----------
    pairs
        What was observed.
    blocks
        Their perturbations, see :func:`split_blocks`.
    features
        Features of strata, shape ``(n_strata, n_features)``.
    """

    pairs: Pairs
    blocks: list[Block]
    features: np.ndarray

    def fit(self, variances: Variances) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the regression of each block, in standard deviations within strata.

        Yields
        ------
        members
            The block's perturbations.
        shift
            Effect at features 0, shape ``(n_members, n_genes)``.
        interaction
            Change of the effect with each feature, shape ``(n_members, n_features, n_genes)``.
        sampling
            Sampling variance of `shift`, shape ``(n_members,)``.
        """
        for block in self.blocks:
            ridge = self.ridge(block, np.arange(block.rows.size), variances)
            stacked = ridge.coefficients(self.pairs.shift[block.rows])
            coefficients = stacked.reshape(block.members.size, 1 + self.features.shape[1], -1)
            sampling = ridge.sampling_variance(self.pairs.noise[block.rows]).reshape(coefficients.shape[:2])
            interaction = coefficients[:, 1:] * np.sqrt(variances.similarity)
            yield block.members, coefficients[:, 0], interaction, sampling[:, 0]

    def choose(self, strata: np.ndarray) -> Variances:
        """Return the variances that best predict a covariate level's responses from the other levels.

        The covariate that counts is the one whose levels are hardest to foretell: that donors resemble one another says
        nothing of how to reach a new cell type. Of variances that do equally well, the smaller similarity is taken.

        Parameters
        ----------
        strata
            Level codes of each stratum, shape ``(n_strata, n_covariates)``.
        """
        grid = [Variances(*pair) for pair in product(SIMILARITY, HETEROGENEITY)]
        some = self.subset()
        errors = [[some.held_out_variance(column[:, None], v).mean() for v in grid] for column in strata.T]
        told = [error for error in errors if np.isfinite(error[0])]
        if not told:
            return grid[0]
        hardest = max(told, key=min)
        return grid[int(np.flatnonzero(hardest <= (1 + TOLERANCE) * np.min(hardest))[0])]

    def held_out_variance(self, strata: np.ndarray, variances: Variances) -> np.ndarray:
        """Variance about predictions from other levels of each covariate, see :func:`excess_variance`."""
        return excess_variance(self.held_out(strata, variances), self.pairs.shift.shape[1])

    def held_out(self, strata: np.ndarray, variances: Variances) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield residuals and noise of the pairs of each covariate level, predicted from the other levels.

        Pairs with a perturbation that no other level has seen are passed over: nothing is known of them.
        """
        for block in self.blocks:
            for column in strata.T:
                for rest, group in self.left_out(block, column):
                    fitted = self.ridge(block, rest, variances).coefficients(self.pairs.shift[block.rows[rest]])
                    residual = self.pairs.shift[block.rows[group]] - self.columns(block, group, variances) @ fitted
                    yield residual, self.pairs.noise[block.rows[group]]

    def left_out(self, block: Block, level: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows of a block without a level, and those of the level whose perturbations other levels have seen.

        Parameters
        ----------
        block
            The block.
        level
            Level of each stratum, shape ``(n_strata,)``.
        """
        present = block.design != 0
        of_row = level[self.pairs.stratum[block.rows]]
        for code in np.unique(of_row):
            rest = np.flatnonzero(of_row != code)
            unseen = ~present[rest].any(axis=0)
            group = np.flatnonzero((of_row == code) & ~present[:, unseen].any(axis=1))
            if group.size:
                yield rest, group

    def subset(self) -> Kriging:
        """Return the regressions that variances are chosen by: some of them where there are many."""
        return Kriging(self.pairs, self.blocks[:: max(1, -(-len(self.blocks) // CROSS_VALIDATED))], self.features)

    def pooled(self, coefficients: np.ndarray) -> np.ndarray:
        """Effects at features 0, of the coefficients of a block; shape ``(n_members, n_genes)``."""
        return coefficients[:: 1 + self.features.shape[1]]

    def ridge(self, block: Block, rows: np.ndarray, variances: Variances) -> Ridge:
        weight = 1 / (self.pairs.noise[block.rows[rows]] + variances.heterogeneity)
        penalty = np.tile([FLAT, *[1.0] * self.features.shape[1]], block.members.size)
        return Ridge(self.columns(block, rows, variances), weight, penalty)

    def columns(self, block: Block, rows: np.ndarray, variances: Variances) -> np.ndarray:
        """Each treatment, alone and times the features; scaled so that their prior has variance 1."""
        return self.crossed(block.design[rows], self.pairs.stratum[block.rows[rows]], variances)

    def crossed(self, design: np.ndarray, stratum: np.ndarray, variances: Variances) -> np.ndarray:
        """The columns of treatment vectors (n, n_members) in strata (n,)."""
        along = np.ones((stratum.size, 1 + self.features.shape[1]))
        along[:, 1:] = np.sqrt(variances.similarity) * self.features[stratum]
        return (design[:, :, None] * along[:, None]).reshape(stratum.size, -1)


def split_blocks(design: sparse.csr_array, condition: np.ndarray) -> list[Block]:
    """Split the perturbations of pairs into regressions that have nothing to do with one another.

    Parameters
    ----------
    design
        Treatment vectors, shape ``(n_conditions, n_perturbations)``.
    condition
        Code of each pair's treatment vector, none of them control, shape ``(n_pairs,)``.
    """
    n_conditions, n_perturbations = design.shape
    used = np.isin(np.arange(n_conditions), condition)
    graph = sparse.block_array(
        [[None, sparse.diags_array(used * 1.0) @ design], [sparse.csr_array(design.T.shape), None]]
    )
    _, label = connected_components(graph, directed=False)
    of_pair, of_perturbation = label[condition], label[n_conditions:]
    return [
        Block(members, rows, design[condition[rows]][:, members].toarray())
        for number in np.intersect1d(of_pair, of_perturbation)
        for members, rows in [(np.flatnonzero(of_perturbation == number), np.flatnonzero(of_pair == number))]
    ]


def told_apart(blocks: Iterable[Block], n_perturbations: int) -> np.ndarray:
    """Which perturbations have an effect of their own in a regression, shape ``(n_perturbations,)``.

    One that was only given with others that were only given with it shares their effect evenly.
    """
    own = np.zeros(n_perturbations, dtype=bool)
    for block in blocks:
        resolution = np.linalg.pinv(block.design) @ block.design
        own[block.members] = resolution.diagonal() > 1 - RANK_TOLERANCE
    return own


def excess_variance(groups: Iterable[tuple[np.ndarray, np.ndarray]], n_genes: int) -> np.ndarray:
    """Variance of residuals beyond their noise, half pooled over genes.

    Parameters
    ----------
    groups
        Residuals, shape ``(n_rows, n_genes)``, and their sampling variances, shape ``(n_rows,)``.
    n_genes
        Number of genes.

    Returns
    -------
    Shape ``(n_genes,)``; NaN without residuals.
    """
    total, weights = np.zeros(n_genes), 0.0
    for residual, noise in groups:
        weight = 1 / (noise + HETEROGENEITY[0])
        total += weight @ (residual**2 - noise[:, None])
        weights += weight.sum()
    if not weights:
        return np.full(n_genes, np.nan)
    excess = total / weights
    return np.maximum((excess + excess.mean()) / 2, 0)
