"""Compiled loops: sums over cells and over groups, in which each value is read once, and sums with changed signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Values = NDArray[Any]
Codes = NDArray[np.int64]
Sums = NDArray[np.float64]
Singles = NDArray[np.float32]

Function = TypeVar("Function", bound=Callable[..., Any])

_ROWS, _PARTS, _COLUMNS = 5, 5, 128  # rows of a table, tables added in one go, columns that stay in the cache
_TOGETHER = 4  # cells whose values meet in registers before sums in memory are touched


def _compiled(function: Function) -> Function:
    """Compile at the first call; keep the machine code for later sessions if there is a place to write it to."""
    compiled: Any
    try:
        compiled = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        compiled = njit(nogil=True)(function)
    return cast("Function", compiled)


@_compiled
def add_cells(
    variables: tuple[Values, ...],
    lowest: int,
    cells: Codes,
    start: Codes,
    row: Codes,
    stratum: Codes,
    role: Codes,
    offset: Sums,
    first: Sums,
    total: Sums,
    second: Sums,
) -> None:
    """Add cells to the sums of `EffectSums`: those of variables and of their products, from variable `lowest` on.

    Cells come in runs: ``cells[start[k] : start[k + 1]]`` are all of one row of `first`, one stratum and one role.
    """
    n_variables, n_genes = len(variables), offset.shape[1]
    for run in range(len(row)):
        s, r = stratum[run], role[run]
        zero = offset[s]
        for k in range(start[run], start[run + 1]):
            for i in range(lowest, n_variables):
                one = variables[i][cells[k]]
                of_group, of_stratum = first[i, r, row[run]], total[i, s, r]
                for g in range(n_genes):
                    of_group[g] += one[g] - zero[g]
                    of_stratum[g] += one[g] - zero[g]
                for j in range(i, n_variables):
                    other, product = variables[j][cells[k]], second[i * n_variables - i * (i + 1) // 2 + j, s, r]
                    for g in range(n_genes):
                        product[g] += (one[g] - zero[g]) * (other[g] - zero[g])


@_compiled
def add_predictions(
    predicted: Values,
    reference: Values,
    cells: Codes,
    start: Codes,
    row: Codes,
    stratum: Codes,
    role: int,
    offset: Sums,
    first: Sums,
    total: Sums,
    second: Sums,
) -> None:
    """Do as `add_cells` with the two predictions alone, for cells of one role: most cells, for most treatments."""
    n_genes = offset.shape[1]
    for run in range(len(row)):
        s, x = stratum[run], row[run]
        zero = offset[s]
        p_group, r_group = first[1, role, x], first[2, role, x]
        p_stratum, r_stratum = total[1, s, role], total[2, s, role]
        pp, pr, rr = second[3, s, role], second[4, s, role], second[5, s, role]
        stop = start[run + 1]
        whole = stop - (stop - start[run]) % _TOGETHER
        for k in range(start[run], whole, _TOGETHER):
            k0, k1, k2, k3 = cells[k], cells[k + 1], cells[k + 2], cells[k + 3]
            p0, p1, p2, p3 = predicted[k0], predicted[k1], predicted[k2], predicted[k3]
            r0, r1, r2, r3 = reference[k0], reference[k1], reference[k2], reference[k3]
            for g in range(n_genes):
                z = zero[g]
                a, b, c, d = p0[g] - z, p1[g] - z, p2[g] - z, p3[g] - z
                e, f, h, i = r0[g] - z, r1[g] - z, r2[g] - z, r3[g] - z
                p_sum, r_sum = (a + b) + (c + d), (e + f) + (h + i)
                p_group[g] += p_sum
                r_group[g] += r_sum
                p_stratum[g] += p_sum
                r_stratum[g] += r_sum
                pp[g] += (a * a + b * b) + (c * c + d * d)
                pr[g] += (a * e + b * f) + (c * h + d * i)
                rr[g] += (e * e + f * f) + (h * h + i * i)
        for k in range(whole, stop):
            p0, r0 = predicted[cells[k]], reference[cells[k]]
            for g in range(n_genes):
                a, e = p0[g] - zero[g], r0[g] - zero[g]
                p_group[g] += a
                r_group[g] += e
                p_stratum[g] += a
                r_stratum[g] += e
                pp[g] += a * a
                pr[g] += a * e
                rr[g] += e * e


@_compiled
def weigh_groups(
    first: Sums, row: Codes, count: Codes, stratum: Codes, weight: Sums, constant: Sums, weighed: Sums
) -> None:
    """Sum variables by weights, and cells by constants, of stratum and role: for several weights in one pass.

    Parameters
    ----------
    first, row, count
        Of `EffectSums`.
    stratum
        Of each group, ``(n_groups,)``.
    weight, constant
        ``(n_weights, n_variables, n_strata, n_roles)`` and ``(n_weights, n_strata, n_roles, n_genes)``.
    weighed
        Zeros, to be filled, ``(n_weights, n_groups, n_genes)``.
    """
    n_variables, n_roles, _, n_genes = first.shape
    last = n_variables - 1  # without a reference there are two variables, and the third has no weight
    for x in range(len(stratum)):
        s = stratum[x]
        for r in range(n_roles):
            if count[x, r] == 0:
                continue
            cells, at = float(count[x, r]), row[x, r]
            one, two, three = first[0, r, at], first[1, r, at], first[last, r, at]
            for k in range(len(weight)):
                here, per_cell = weighed[k, x], constant[k, s, r]
                a, b = weight[k, 0, s, r], weight[k, 1, s, r]
                c = weight[k, 2, s, r] if last == 2 else 0.0
                if b == 0.0 and c == 0.0:
                    for g in range(n_genes):
                        here[g] += cells * per_cell[g] + a * one[g]
                elif a == 0.0:
                    for g in range(n_genes):
                        here[g] += cells * per_cell[g] + b * two[g] + c * three[g]
                else:
                    for g in range(n_genes):
                        here[g] += cells * per_cell[g] + a * one[g] + b * two[g] + c * three[g]


@_compiled
def square_sums(product: Sums, weight: Sums, intercept: Sums, count: Sums, correction: Sums, squared: Sums) -> None:
    """Sums of squared influence values by stratum and role.

    Parameters
    ----------
    product
        Of `Moments`.
    weight
        Of the products in squared influence values, ``(n_pairs, n_strata, n_roles)``.
    intercept, count
        Of the influence function, ``(n_strata, n_roles, n_genes)``, and how often each counts, ``(n_strata, n_roles)``.
    correction
        What the sum of squares around the mean is multiplied by, ``(n_strata, n_roles)``.
    squared
        Zeros, to be filled, ``(n_strata, n_roles, n_genes)``.
    """
    n_pairs, n_strata, n_roles, n_genes = product.shape
    for s in range(n_strata):
        for r in range(n_roles):
            here, constant, cells, factor = squared[s, r], intercept[s, r], count[s, r], correction[s, r]
            for p in range(n_pairs):
                share, values = weight[p, s, r], product[p, s, r]
                if share != 0.0:
                    for g in range(n_genes):
                        here[g] += share * values[g]
            for g in range(n_genes):
                here[g] = max(here[g], 0.0) * factor + cells * constant[g] ** 2


@_compiled
def largest_sums(values: Singles, signs: Singles) -> Singles:
    """Largest absolute sum over rows with changed signs, among all columns, for every draw of signs.

    Equals ``np.abs(signs @ values).max(axis=1)`` in a fraction of its additions: five rows can change their signs in 32
    ways only, whose sums are found once and looked up by all draws (the method of the four Russians).

    Parameters
    ----------
    values
        ``(n_rows, n_columns)``.
    signs
        Of either sign, ``(n_draws, n_rows)``.
    """
    n_rows, n_columns = values.shape
    n_draws = len(signs)
    n_parts = -(-n_rows // (_ROWS * _PARTS)) * _PARTS
    pattern = np.zeros((n_draws, n_parts), dtype=np.int64)
    for d in range(n_draws):
        for i in range(n_rows):
            if signs[d, i] > 0:
                pattern[d, i // _ROWS] += 1 << (i % _ROWS)
    table = np.zeros((n_parts, 1 << _ROWS, _COLUMNS), dtype=np.float32)
    largest = np.zeros((n_draws, _COLUMNS), dtype=np.float32)
    drawn = np.zeros(_COLUMNS, dtype=np.float32)
    for first in range(0, n_columns, _COLUMNS):
        width = min(_COLUMNS, n_columns - first)
        table[:, 0] = 0.0
        for i in range(n_rows):
            for g in range(width):
                table[i // _ROWS, 0, g] -= values[i, first + g]
        for part in range(n_parts):
            for i in range(_ROWS):
                row = part * _ROWS + i
                for s in range(1 << i):
                    before, after = table[part, s], table[part, s + (1 << i)]
                    after[:] = before
                    if row < n_rows:
                        for g in range(width):
                            after[g] += np.float32(2.0) * values[row, first + g]
        for d in range(n_draws):
            drawn[:] = 0.0
            for part in range(0, n_parts, _PARTS):
                a, b = table[part, pattern[d, part]], table[part + 1, pattern[d, part + 1]]
                c, e = table[part + 2, pattern[d, part + 2]], table[part + 3, pattern[d, part + 3]]
                f = table[part + 4, pattern[d, part + 4]]
                for g in range(_COLUMNS):
                    drawn[g] += (a[g] + b[g]) + (c[g] + e[g]) + f[g]
            here = largest[d]
            for g in range(_COLUMNS):
                size = abs(drawn[g])
                here[g] = size if size > here[g] else here[g]
    found = np.zeros(n_draws, dtype=np.float32)
    for d in range(n_draws):
        found[d] = largest[d].max()
    return found
