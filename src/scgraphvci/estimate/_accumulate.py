"""Sums over cells from which every marginal effect and its standard error follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from scgraphvci.estimate._kernels import add_cells, add_predictions

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

ARM, REFERENCE, REST = 0, 1, 2
"""Roles of a cell for one treatment: received it, received the reference, received something else."""
N_ROLES = 3

OUTCOME, PREDICTED, PREDICTED_REFERENCE = 0, 1, 2
"""Variables of a cell: its outcome, its prediction under the treatment, its prediction under the reference."""

N_BLOCKS = 50
"""Equal random parts into which independent cells are put, to learn how the errors of genes go together."""


@dataclass(frozen=True)
class Groups:
    """The stratum, and the cluster if there are clusters, of every group of cells.

    A group is one pair of stratum and cluster that occurs in the data. Without clusters, cells are independent and
    random blocks of equal size take the place of clusters: variances are those of cells, blocks only tell how the
    errors of different genes go together.

    Parameters
    ----------
    stratum
        Stratum of each group, shape ``(n_groups,)``, codes ``0 .. n_strata - 1``.
    cluster
        Cluster (donor, say) or block of each group, shape ``(n_groups,)``; `None` with neither.
    n_strata
        Number of strata, those without cells included.
    independent
        Whether cells are independent, `cluster` then being random blocks.
    """

    stratum: IntArray
    cluster: IntArray | None
    n_strata: int
    independent: bool = False

    @classmethod
    def from_codes(
        cls,
        stratum: ArrayLike,
        cluster: ArrayLike | None = None,
        n_strata: int | None = None,
        *,
        n_blocks: int = N_BLOCKS,
        seed: int = 0,
    ) -> tuple[Groups, IntArray]:
        """Groups of a data set, and the group of each of its cells.

        Parameters
        ----------
        stratum
            Stratum of each cell, shape ``(n_cells,)``, codes from 0.
        cluster
            Cluster of each cell, shape ``(n_cells,)``, codes from 0; `None` where cells are independent.
        n_strata
            Number of strata; by default the largest code plus one.
        n_blocks
            Random blocks of independent cells; 0 for none, which leaves no leak test and no joint bands.
        seed
            Seed of the random blocks.

        Returns
        -------
        The groups, and for every cell the index of its group, shape ``(n_cells,)``.

        Raises
        ------
        ValueError
            If codes are negative, or not below `n_strata`, or the two arrays differ in length.

        Examples
        --------
        >>> groups, group_of_cell = Groups.from_codes([0, 0, 1, 1], cluster=[0, 1, 1, 1])
        >>> groups.stratum.tolist(), groups.cluster.tolist(), group_of_cell.tolist()
        ([0, 0, 1], [0, 1, 1], [0, 1, 2, 2])
        """
        stratum = np.asarray(stratum, dtype=np.int64)
        n_strata = int(stratum.max(initial=-1)) + 1 if n_strata is None else n_strata
        if stratum.size and (stratum.min() < 0 or stratum.max() >= n_strata):
            msg = (
                f"Stratum codes run from {stratum.min()} to {stratum.max()}, "
                f"allowed is 0 to {n_strata - 1}. Drop cells without a stratum first."
            )
            raise ValueError(msg)
        independent = cluster is None
        if cluster is None:
            if n_blocks == 0:
                return cls(np.arange(n_strata), None, n_strata, independent), stratum
            cluster = _random_blocks(len(stratum), n_blocks, seed)
        cluster = np.asarray(cluster, dtype=np.int64)
        if cluster.shape != stratum.shape:
            msg = f"`cluster` has shape {cluster.shape}, `stratum` {stratum.shape}. Give one code per cell in both."
            raise ValueError(msg)
        if cluster.size and cluster.min() < 0:
            msg = f"Cluster code {cluster.min()} is negative. Drop cells without a cluster first."
            raise ValueError(msg)
        n_clusters = int(cluster.max(initial=0)) + 1
        pairs, group_of_cell = np.unique(stratum * n_clusters + cluster, return_inverse=True)
        return cls(pairs // n_clusters, pairs % n_clusters, n_strata, independent), group_of_cell

    @classmethod
    def of_cells(cls, stratum: ArrayLike, reported: ArrayLike | None = None) -> tuple[Groups, IntArray]:
        """Groups of one cell each, for influence totals that are the influence values of cells.

        Sums then hold rows of every cell, and results take treatments x strata x cells of the largest stratum x genes.

        Parameters
        ----------
        stratum
            Stratum of each independent cell, shape ``(n_cells,)``, codes from 0.
        reported
            Reported stratum of each stratum, as for `marginal_effects`; by default each stratum is reported.

        Returns
        -------
        The groups, whose blocks number the cells of each reported stratum in their order, and for every cell the index
        of its group, shape ``(n_cells,)``.

        Examples
        --------
        >>> groups, group_of_cell = Groups.of_cells([0, 1, 0])
        >>> groups.stratum[group_of_cell].tolist(), groups.cluster[group_of_cell].tolist()
        ([0, 1, 0], [0, 0, 1])
        """
        stratum = np.asarray(stratum, dtype=np.int64)
        codes = stratum if reported is None else np.asarray(reported, dtype=np.int64)[stratum]
        order = np.argsort(codes, kind="stable")
        first_of_code = np.searchsorted(codes[order], codes[order])
        number = np.empty_like(codes)
        number[order] = np.arange(len(codes)) - first_of_code
        groups, group = cls.from_codes(stratum, number, None if reported is None else len(np.asarray(reported)))
        return replace(groups, independent=True), group

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.stratum)

    @property
    def clustered(self) -> bool:
        """Whether cells of a cluster depend on each other."""
        return self.cluster is not None and not self.independent


class EffectSums:
    """First and second moments of outcome and predictions for one treatment, summed in one pass over the cells.

    Cells come in batches and are forgotten; held are float64 arrays of groups x genes (sums) and of strata x genes
    (sums of products), for each role a cell can have. All estimators of one treatment, their standard errors and
    their cluster-robust standard errors are functions of these sums.

    Values enter as differences to the first outcome seen in their stratum, the same for outcome and predictions:
    a variance is then not the small difference of two large sums. Outcomes of cells in neither arm enter no estimate
    and are not summed.

    Parameters
    ----------
    groups
        Stratum and cluster of each group.
    n_genes
        Number of genes.
    with_reference
        Whether the estimand is a difference to a reference. If `False` it is the mean of the arm itself.

    Examples
    --------
    >>> import numpy as np
    >>> groups, group = Groups.from_codes([0, 0, 0], n_blocks=0)
    >>> sums = EffectSums(groups, n_genes=1, with_reference=False)
    >>> outcome = np.array([[1.0], [3.0], [5.0]])
    >>> sums.update(outcome, outcome - 1, None, np.array([True, True, False]), None, group)
    >>> sums.count[0].tolist()  # arm, reference, rest
    [2, 0, 1]
    """

    def __init__(self, groups: Groups, n_genes: int, *, with_reference: bool = True) -> None:
        self.groups = groups
        self.n_genes = n_genes
        self.with_reference = with_reference
        self.n_variables = 3 if with_reference else 2
        self.pairs = tuple(combinations_with_replacement(range(self.n_variables), 2))
        """Pairs of variables, in the order of `second`."""
        self.offset: FloatArray = np.zeros((groups.n_strata, n_genes))
        """Value subtracted in each stratum, ``(n_strata, n_genes)``."""
        self.count: IntArray = np.zeros((groups.n_groups, N_ROLES), dtype=np.int64)
        """Cells, ``(n_groups, n_roles)``."""
        self.row: IntArray = np.full((groups.n_groups, N_ROLES), -1)
        """Where `first` holds a group, ``(n_groups, n_roles)``; -1 for a role it has no cells of."""
        # Rows are taken one after the other: those never needed lie together, and are never given memory.
        self.first: FloatArray = np.zeros((self.n_variables, N_ROLES, groups.n_groups, n_genes))
        """Sums of variables less offset by group, ``(n_variables, n_roles, n_rows, n_genes)``."""
        self.total: FloatArray = np.zeros((self.n_variables, groups.n_strata, N_ROLES, n_genes))
        """The same by stratum, ``(n_variables, n_strata, n_roles, n_genes)``."""
        self.second: FloatArray = np.zeros((len(self.pairs), groups.n_strata, N_ROLES, n_genes))
        """Sums of products of variables less offset, ``(n_pairs, n_strata, n_roles, n_genes)``."""
        self._has_offset: BoolArray = np.zeros(groups.n_strata, dtype=bool)

    def update(
        self,
        outcome: ArrayLike,
        predicted: ArrayLike,
        predicted_reference: ArrayLike | None,
        in_arm: ArrayLike,
        in_reference: ArrayLike | None,
        group: ArrayLike,
    ) -> None:
        """Add a batch of cells.

        Parameters
        ----------
        outcome
            Outcome of each cell, shape ``(batch, n_genes)``.
        predicted
            Predicted mean of each cell under the treatment, shape ``(batch, n_genes)``, in units of `outcome`.
        predicted_reference
            The same under the reference; `None` if and only if there is no reference.
        in_arm
            Which cells received the treatment, shape ``(batch,)``.
        in_reference
            Which cells received the reference, shape ``(batch,)``; `None` without a reference.
        group
            Group of each cell, shape ``(batch,)``.

        Raises
        ------
        ValueError
            If a shape is wrong, a code is that of no group, a reference is missing or superfluous, or a cell is in both
            arms.
        """
        group = self._group(group)
        variables = self._variables(outcome, predicted, predicted_reference, n_cells=len(group))
        role = self._role(in_arm, in_reference, n_cells=len(group))
        self._set_offset(self.groups.stratum[group], variables[OUTCOME])
        np.add.at(self.count, (group, role), 1)
        rest = role == REST
        self._add(variables, np.flatnonzero(~rest), group, role)
        self._add(variables, np.flatnonzero(rest), group, role)

    def _add(self, variables: tuple[NDArray[Any], ...], cells: IntArray, group: IntArray, role: IntArray) -> None:
        """Add some cells of a batch: those in an arm, or those in neither, whose outcomes are left out."""
        if not len(cells):
            return
        key = group[cells] * N_ROLES + role[cells]
        order = np.argsort(key, kind="stable")
        distinct, start = np.unique(key[order], return_index=True)
        runs, (run_group, run_role) = np.append(start, len(cells)), np.divmod(distinct, N_ROLES)
        lowest = PREDICTED if role[cells[0]] == REST else OUTCOME
        rows, strata = self._rows(run_group, run_role, lowest), self.groups.stratum[run_group]
        sums = self.offset, self.first, self.total, self.second
        if role[cells[0]] == REST and self.with_reference:
            predicted, reference = variables[PREDICTED], variables[PREDICTED_REFERENCE]
            add_predictions(predicted, reference, cells[order], runs, rows, strata, REST, *sums)
        else:
            add_cells(variables, lowest, cells[order], runs, rows, strata, run_role, *sums)

    def _rows(self, group: IntArray, role: IntArray, lowest: int) -> IntArray:
        """Rows of `first`, for groups without one the next free ones, which are cleared from variable `lowest` on."""
        for r in range(N_ROLES):
            new = group[(role == r) & (self.row[group, role] < 0)]
            taken = int(self.row[:, r].max(initial=-1)) + 1
            self.row[new, r] = np.arange(taken, taken + len(new))
            self.first[lowest:, r, taken : taken + len(new)] = 0.0
        return self.row[group, role]

    def clear(self) -> None:
        """Forget all cells but keep the memory, to sum another treatment: memory anew takes as long as the sums."""
        self.count[:], self.row[:], self.total[:], self.second[:] = 0, -1, 0.0, 0.0
        self._has_offset[:] = False

    def _group(self, group: ArrayLike) -> IntArray:
        group = np.asarray(group, dtype=np.int64)
        if group.size and not 0 <= group.min() <= group.max() < self.groups.n_groups:
            msg = (
                f"Group codes run from {group.min()} to {group.max()}, allowed is 0 to {self.groups.n_groups - 1}. "
                "Leave out cells without a group first."
            )
            raise ValueError(msg)
        return group

    def _variables(
        self, outcome: ArrayLike, predicted: ArrayLike, predicted_reference: ArrayLike | None, n_cells: int
    ) -> tuple[NDArray[Any], ...]:
        if (predicted_reference is not None) != self.with_reference:
            msg = (
                f"`predicted_reference` is {'missing' if self.with_reference else 'given'}, but these sums were made "
                f"with_reference={self.with_reference}. Give it in every batch or in none."
            )
            raise ValueError(msg)
        named = {"outcome": outcome, "predicted": predicted}
        if predicted_reference is not None:
            named["predicted_reference"] = predicted_reference
        variables = [np.asarray(value) for value in named.values()]
        for name, variable in zip(named, variables, strict=True):
            if variable.shape != (n_cells, self.n_genes):
                msg = f"`{name}` has shape {variable.shape}, expected (cells, genes) = {(n_cells, self.n_genes)}."
                raise ValueError(msg)
        # Compiled for rows of one type: float32 as it is, anything else as float64.
        single = all(variable.dtype == np.float32 for variable in variables)
        dtype = np.float32 if single else np.float64
        return tuple(np.ascontiguousarray(variable, dtype=dtype) for variable in variables)

    def _role(self, in_arm: ArrayLike, in_reference: ArrayLike | None, n_cells: int) -> IntArray:
        in_arm = np.asarray(in_arm, dtype=bool)
        in_reference = np.zeros(n_cells, dtype=bool) if in_reference is None else np.asarray(in_reference, dtype=bool)
        if in_arm.shape != (n_cells,) or in_reference.shape != (n_cells,):
            msg = f"`in_arm` {in_arm.shape} and `in_reference` {in_reference.shape} must have shape {(n_cells,)}."
            raise ValueError(msg)
        if not self.with_reference and in_reference.any():
            msg = f"{in_reference.sum()} cells are in the reference, but these sums were made without one."
            raise ValueError(msg)
        if (in_arm & in_reference).any():
            msg = f"{(in_arm & in_reference).sum()} cells are in the arm and in the reference. Compare two treatments."
            raise ValueError(msg)
        return np.where(in_arm, ARM, np.where(in_reference, REFERENCE, REST))

    def _set_offset(self, stratum: IntArray, outcome: NDArray[Any]) -> None:
        strata, first_cell = np.unique(stratum, return_index=True)
        new = ~self._has_offset[strata]
        self.offset[strata[new]] = outcome[first_cell[new]]
        self._has_offset[strata[new]] = True


def membership(index: IntArray, n: int) -> sparse.csr_array:
    """Sparse integer matrix ``(n, len(index))`` whose product with an array sums its rows that share an index."""
    members = len(index)
    return sparse.csr_array((np.ones(members, dtype=np.int64), (index, np.arange(members))), shape=(n, members))


def _random_blocks(n_cells: int, n_blocks: int, seed: int) -> IntArray:
    """Block of each cell, equal in size up to one; blind to strata, so that results of the same cells share them."""
    return np.random.default_rng(seed).permutation(n_cells) % n_blocks
