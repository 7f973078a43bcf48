from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scgraphvci.data._edge_evidence import CONTROL, MIN_UNEXPLAINED, OTHER, RIDGE, Arms, direct_shift, partial_t
from scgraphvci.data._refine_statistics import refine_statistics

N, CELLS, STRATA = 9, 700, 3
SOURCES = np.array([0, 2, 3, 5])
PERTURBED = [2, 5]  # both sources, and regulators of each other: 2 -> 5


def screen() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expression, stratum, intervention: 2 -> 5 -> 7 and 0 -> 8, with interventions on 2, on 5 and on the target 8."""
    rng = np.random.default_rng(0)
    stratum = rng.integers(STRATA, size=CELLS)
    intervention = rng.choice([CONTROL, OTHER, 2, 5, 8], CELLS, p=[0.35, 0.2, 0.15, 0.15, 0.15])
    intervention[(stratum == 2) & (intervention == 5)] = CONTROL  # a stratum in which 5 is never perturbed
    y = rng.normal(size=(CELLS, N)) + 2 * rng.normal(size=(STRATA, N))[stratum]
    y[:, 2] -= 2.0 * (intervention == 2)
    y[:, 5] += 0.7 * y[:, 2] - 2.0 * (intervention == 5)
    y[:, 7] += 0.8 * y[:, 5]
    y[:, 8] += 0.6 * y[:, 0] - 1.5 * (intervention == 8)
    y[:, 4] += 1.0 * (intervention == OTHER)
    return y, stratum, intervention


def centred(y: np.ndarray, group: np.ndarray) -> np.ndarray:
    out = y.copy()
    for g in np.unique(group):
        out[group == g] -= y[group == g].mean(axis=0)
    return out


def gathered(y, stratum, intervention, cells=None) -> tuple[np.ndarray, Arms, np.ndarray]:
    """Residuals, arms and covariance as the one pass over cells leaves them."""
    cells = np.arange(CELLS) if cells is None else cells
    z = centred(y[cells], stratum[cells])
    scale = z.std(axis=0)
    arms = Arms(intervention, stratum, cells, SOURCES, N)
    for rows in np.array_split(np.arange(len(cells)), 5):
        arms.add(z[rows], cells[rows])
    arms.standardise(scale)
    z = z / scale
    return z, arms, z[:, SOURCES].T @ z / len(cells)


def ridge_slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.solve(x.T @ x / len(x) + RIDGE * np.eye(x.shape[1]), x.T @ y / len(x))


def test_partial_t_equals_one_regression_for_each_gene() -> None:
    y, stratum, intervention = screen()
    z, arms, covariance = gathered(y, stratum, intervention)
    expected = np.zeros((len(SOURCES), N))
    for gene in range(N):
        others = [j for j in SOURCES if j != gene]
        x, target = z[:, others], z[:, gene]
        if gene in PERTURBED:  # an indicator of its own cells, not penalised
            indicator = centred((intervention == gene).astype(float)[:, None], stratum)
            x, target = (v - indicator @ np.linalg.lstsq(indicator, v, rcond=None)[0] for v in (x, target[:, None]))
            target = target[:, 0]
        gram = np.linalg.inv(x.T @ x / CELLS + RIDGE * np.eye(len(others)))
        slope = gram @ (x.T @ target / CELLS)
        left = max((target @ target - target @ x @ slope) / CELLS, MIN_UNEXPLAINED * (target @ target) / CELLS)
        for j, b, q in zip(others, slope, np.diag(gram), strict=True):
            expected[np.searchsorted(SOURCES, j), gene] = b / np.sqrt(q * left / CELLS)
    found = partial_t(covariance, SOURCES, arms, RIDGE)
    off = SOURCES[:, None] != np.arange(N)
    np.testing.assert_allclose(found[off], expected[off], rtol=1e-6, atol=1e-8)
    assert abs(found[3, 7]) > 15 and abs(found[1, 7]) < 4 and abs(found[0, 8]) > 10


def test_direct_shift_equals_least_squares() -> None:
    y, stratum, intervention = screen()
    z, arms, covariance = gathered(y, stratum, intervention)
    shift, error = np.zeros((2, N)), np.zeros((2, N))
    control = intervention == CONTROL
    for k, gene in enumerate(PERTURBED):
        use = control | (intervention == gene)
        strata = np.eye(STRATA)[stratum[use]]
        design = np.column_stack([intervention[use] == gene, strata]).astype(float)
        shift[k] = np.linalg.lstsq(design, z[use], rcond=None)[0][0]
        # The coefficient is a weighted sum of cells: its variance is that of the two arms, weighted by squares.
        influence = np.linalg.pinv(design)[0]
        own = z[intervention == gene]
        variance = (len(own) * own.var(axis=0) + 1) / (len(own) + 1)
        inside = centred(z[control], stratum[control])
        variance_control = ((inside**2).sum(axis=0) + 1) / (control.sum() + 1)
        is_own = (intervention == gene)[use]
        error[k] = np.sqrt(
            (influence[is_own] ** 2).sum() * variance + (influence[~is_own] ** 2).sum() * variance_control
        )
    arm = np.select([control, *(intervention == g for g in PERTURBED)], [1, 2, 3], 0)
    within = z.copy()
    for a in (1, 2, 3):
        within[arm == a] -= z[arm == a].mean(axis=0)
    expected = np.zeros((2, N))
    for gene in range(N):
        others = [j for j in SOURCES if j != gene]
        slope = ridge_slope(within[:, others], within[:, gene])
        for k, source in enumerate(PERTURBED):
            given = np.where(np.array(others) == source, 0.0, shift[k, others])
            expected[k, gene] = (shift[k, gene] - given @ slope) / error[k, gene]
    found = direct_shift(covariance, SOURCES, arms, RIDGE)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # 2 moves 7 through 5 only: the shift is explained.
    assert abs(shift[0, 7] / error[0, 7]) > 6 and abs(found[0, 7]) < 3 and abs(found[1, 7]) > 6


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_statistics_hold_the_evidence_of_training_cells_only(form) -> None:
    y, stratum, intervention = screen()
    cells = np.arange(0, CELLS, 2)
    _, arms, covariance = gathered(y, stratum, intervention, cells)
    expected = np.log1p(partial_t(covariance, SOURCES, arms, RIDGE) ** 2)
    expected[[1, 3]] += np.log1p(direct_shift(covariance, SOURCES, arms, RIDGE) ** 2)
    options = {"stratum": stratum, "cells": cells, "n_strata": STRATA, "sources": SOURCES, "regulators": SOURCES}
    options |= {"n_features": 0, "evidence": True}
    off = SOURCES[:, None] != np.arange(N)
    found = refine_statistics(form(y), intervention=intervention, **options).evidence
    np.testing.assert_allclose(found.T[off], expected[off], rtol=2e-3, atol=1e-4)

    y[1::2], changed = 1e3, intervention.copy()
    changed[1::2] = CONTROL
    again = refine_statistics(form(y), intervention=changed, **options).evidence
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("code", [OTHER, CONTROL, 8])
def test_without_perturbed_sources_there_is_no_shift(code: int) -> None:
    y, stratum, _ = screen()
    options = {"cells": np.arange(CELLS), "n_strata": STRATA, "sources": SOURCES, "regulators": SOURCES}
    options |= {"n_features": 0, "evidence": True, "stratum": stratum}
    found = refine_statistics(y, intervention=np.full(CELLS, code), **options).evidence
    np.testing.assert_array_equal(found, refine_statistics(y, **options).evidence)


def test_without_control_cells_there_is_no_shift() -> None:
    y, stratum, _ = screen()
    options = {"cells": np.arange(CELLS), "n_strata": STRATA, "sources": SOURCES, "regulators": SOURCES}
    found = refine_statistics(
        y, n_features=0, evidence=True, stratum=stratum, intervention=np.full(CELLS, 2), **options
    ).evidence
    assert np.isfinite(found).all()
