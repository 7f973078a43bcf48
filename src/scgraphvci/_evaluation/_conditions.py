"""Held-out conditions (stratum x treatment), with the truth they are scored against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgraphvci._constants import SPLITS
from scgraphvci._evaluation._screen import Screen
from scgraphvci._evaluation._welch import MIN_VARIANCE, Group, welch
from scgraphvci.data._sources import source_cells
from scgraphvci.estimate import adjust_p_values
from scgraphvci.metrics import signal_weights

if TYPE_CHECKING:
    from scgraphvci.data import StratumMoments
    from scgraphvci.datasets import Truth

FALSE_DISCOVERY_RATE = 0.05


@dataclass(frozen=True)
class Condition:
    """A held-out treatment in a stratum, and its truth.

    Attributes
    ----------
    labels
        Treatment, dose, levels of the stratum, number of held-out cells, whether they are too few, whether no training
        cell received the treatment, number of significant genes and of training treatments behind `perturbed`.
    treatment, dose
        What to predict.
    levels
        Levels of the stratum by covariate.
    stratum
        Code of the stratum.
    sources, held_out, controls
        Cells to start from, cells of the truth, and controls of the stratum, ascending.
    true, reference
        Mean profiles under the treatment and under control, shape ``(n_genes,)``.
    perturbed
        Mean profile over the stratum's training treatments, each counting once; None with fewer than two.
    centroids, own
        Mean profiles of all treatments of the stratum, shape ``(n_treatments, n_genes)``, and the row of this one.
    weights
        How much each gene sets the treatment apart, shape ``(n_genes,)``, sum 1.
    de_genes
        Positions of the genes that differ most from control.
    significant
        Genes that differ from control, shape ``(n_genes,)``.
    control
        Controls of the stratum.
    rest
        Cells of the stratum's other treatments; None if there are none.
    """

    labels: dict[str, Any]
    treatment: str
    dose: str | None
    levels: dict[str, str]
    stratum: int
    sources: np.ndarray
    held_out: np.ndarray
    controls: np.ndarray
    true: np.ndarray
    reference: np.ndarray
    perturbed: np.ndarray | None
    centroids: np.ndarray
    own: int
    weights: np.ndarray
    de_genes: np.ndarray
    significant: np.ndarray
    control: Group
    rest: Group | None

    @property
    def others(self) -> np.ndarray:
        """Mean profiles of the stratum's other treatments."""
        return np.delete(self.centroids, self.own, axis=0)

    def judged_by(self, cells: np.ndarray, *, noise_free: bool) -> Condition:
        """Return the condition with genes weighted and chosen by some of its held-out cells alone.

        Parameters
        ----------
        cells
            Shape ``(n_cells, n_genes)``.
        noise_free
            Whether weights and `de_genes` come from a noise-free truth: they stay.
        """
        group = Group.of(cells)
        t, p = welch(group, self.control)
        significant = adjust_p_values(p) < FALSE_DISCOVERY_RATE
        if noise_free:
            return replace(self, significant=significant)
        weights = signal_weights(t if self.rest is None else welch(group, self.rest)[0])
        return replace(self, weights=weights, de_genes=_largest(t, self.de_genes.size), significant=significant)


def starting_cells(screen: Screen, split: str, source: str) -> np.ndarray:
    """Say which cells predictions may start from, shape ``(n_cells,)``.

    These are cells of the source treatment that are neither "ood" nor the truth.

    Parameters
    ----------
    screen
        The data.
    split
        Split of the truth.
    source
        Treatment to start from.

    Raises
    ------
    ValueError
        If there is no cell of the treatment.
    """
    codes = screen.codes
    may_start = np.zeros(screen.adata.n_obs, dtype=bool)
    may_start[source_cells(codes.table, codes.condition, source, None)] = True
    is_truth = (screen.split == split) & (codes.condition > 0)
    return may_start & (screen.split != SPLITS.OOD) & ~is_truth


def held_out_conditions(
    screen: Screen, split: str, source: str, truth: Truth | None, n_de: int, min_cells: int
) -> tuple[list[Condition], pd.DataFrame]:
    """Find the conditions that can be scored, and say why others cannot.

    Parameters are those of :class:`scgraphvci.Evaluation`.

    Returns
    -------
    The conditions, and a frame of those left out: `treatment`, `dose`, one column per covariate, `n_cells`, `reason`.

    Raises
    ------
    ValueError
        If the split is unknown, or no condition can be scored.
    """
    allowed = (SPLITS.OOD, SPLITS.TEST)
    if split not in allowed:
        msg = f"Unknown split {split!r}. Choose one of {allowed}."
        raise ValueError(msg)
    if min_cells < 1 or n_de < 1:
        msg = f"`min_cells` ({min_cells}) and `n_de` ({n_de}) must be at least 1."
        raise ValueError(msg)
    finder = _Finder(screen, split, source, truth)
    conditions, skipped = [], []
    for stratum, code in zip(*np.nonzero(finder.held_out.row[:, 1:] >= 0), strict=True):
        reason = finder.obstacle(stratum)
        if reason:
            skipped.append({**finder.labels(stratum, code + 1), "reason": reason})
        else:
            conditions.append(finder.condition(stratum, code + 1, n_de, min_cells))
    if not conditions:
        reasons = sorted({row["reason"] for row in skipped}) or [f"no cell of a treatment is {split!r}"]
        msg = (
            f"No held-out treatment can be scored: {'; '.join(reasons)}. Check the split, or take a coarser `groupby`."
        )
        raise ValueError(msg)
    return conditions, pd.DataFrame(skipped, columns=[*finder.labels(0, 0), "reason"])


class _Finder:
    """Looks up cells and means by stratum and treatment."""

    def __init__(self, screen: Screen, split: str, source: str, truth: Truth | None) -> None:
        codes, splits = screen.codes, screen.split
        treated = codes.condition > 0
        self.screen, self.source, self.truth = screen, source, truth
        self.is_held_out = (splits == split) & treated
        self.is_control = ~treated & (splits != SPLITS.OOD)
        self.is_source = starting_cells(screen, split, source)
        self.held_out = screen.moments(np.flatnonzero(self.is_held_out))
        self.control = screen.moments(np.flatnonzero(self.is_control))
        self.train = screen.moments(np.flatnonzero(treated & (splits == SPLITS.TRAIN)))
        self.treated = screen.moments(np.flatnonzero(treated))
        self._genes = None if truth is None else _places(truth.genes, screen.adata.var_names)
        self._profiles: dict[int, pd.DataFrame] = {}
        self._centroids: dict[int, np.ndarray] = {}

    def obstacle(self, stratum: int) -> str | None:
        """Why nothing can be scored in a stratum, if so."""
        if self.control.row[stratum, 0] < 0:
            return "no control cells in the stratum that are not held out"
        if not self.is_source[self.screen.codes.stratum == stratum].any():
            return f"no {self.source!r} cells in the stratum that are not held out"
        return None

    def labels(self, stratum: int, code: int) -> dict[str, Any]:
        """Name a condition."""
        table = self.screen.codes.table
        n_cells = int(self.held_out.n_cells[self.held_out.row[stratum, code]]) if code else 0
        return {"treatment": table.names[code], "dose": table.doses[code], **self.levels(stratum), "n_cells": n_cells}

    def is_unseen(self, code: int) -> bool:
        """Whether no training cell, in whatever stratum, received some perturbation of a treatment at any dose."""
        given = self.screen.codes.table.design != 0
        known = given[(self.train.row >= 0).any(axis=0)].any(axis=0)
        return bool(np.any(given[code] & ~known))

    def levels(self, stratum: int) -> dict[str, str]:
        """Levels of a stratum by covariate."""
        return {str(key): str(level) for key, level in self.screen.codes.strata.iloc[stratum].items()}

    def condition(self, stratum: int, code: int, n_de: int, min_cells: int) -> Condition:
        """Gather the truth of a condition."""
        codes = self.screen.codes
        here = codes.stratum == stratum
        held_out, control = _group(self.held_out, stratum, code), _group(self.control, stratum, 0)
        rest = self._rest(stratum, code)
        perturbed = self._perturbed(stratum)
        treatments = np.flatnonzero(self.treated.row[stratum] >= 0)
        true, reference = self.profile(stratum, code), self.profile(stratum, 0)
        t, p = welch(held_out, control)
        if self.truth is None:
            signal = t if rest is None else welch(held_out, rest)[0]
            rank = t
        else:
            signal = (true - (reference if perturbed is None else perturbed)) / self._spread(stratum)
            rank = true - reference
        significant = adjust_p_values(p) < FALSE_DISCOVERY_RATE
        labels = {
            **self.labels(stratum, code),
            "thin": held_out.n < min_cells,
            "unseen": self.is_unseen(code),
            "n_significant": int(significant.sum()),
            "n_reference": int((self.train.row[stratum, 1:] >= 0).sum()),
        }
        return Condition(
            labels=labels,
            treatment=codes.table.names[code],
            dose=codes.table.doses[code] or None,
            levels=self.levels(stratum),
            stratum=stratum,
            sources=np.flatnonzero(here & self.is_source),
            held_out=np.flatnonzero(here & self.is_held_out & (codes.condition == code)),
            controls=np.flatnonzero(here & self.is_control),
            true=true,
            reference=reference,
            perturbed=perturbed,
            centroids=self.centroids(stratum),
            own=int(np.searchsorted(treatments, code)),
            weights=signal_weights(signal),
            de_genes=_largest(rank, n_de),
            significant=significant,
            control=control,
            rest=rest,
        )

    def profile(self, stratum: int, code: int) -> np.ndarray:
        """True mean of a treatment in a stratum: noise-free if known, else of held-out cells, else of all its cells."""
        if self.truth is not None:
            return self._noise_free(self.truth, stratum, code)
        if code == 0:
            return _group(self.control, stratum, 0).mean
        moments = self.held_out if self.held_out.row[stratum, code] >= 0 else self.treated
        return _group(moments, stratum, code).mean

    def centroids(self, stratum: int) -> np.ndarray:
        """True means of all treatments of a stratum, computed once."""
        if stratum not in self._centroids:
            treatments = np.flatnonzero(self.treated.row[stratum] >= 0)
            self._centroids[stratum] = np.stack([self.profile(stratum, code) for code in treatments.tolist()])
        return self._centroids[stratum]

    def _perturbed(self, stratum: int) -> np.ndarray | None:
        """Mean over the stratum's training treatments; None with fewer than two."""
        treatments = np.flatnonzero(self.train.row[stratum] >= 0)
        if treatments.size < 2:
            return None
        if self.truth is not None:
            return np.mean([self.profile(stratum, code) for code in treatments.tolist()], axis=0)
        return self.train.mean[self.train.row[stratum, treatments]].astype(np.float64).mean(axis=0)

    def _rest(self, stratum: int, code: int) -> Group | None:
        """Cells of the stratum's other treatments, whatever their split."""
        row = self.treated.row[stratum]
        rows = row[(row >= 0) & (np.arange(row.size) != code)]
        if rows.size == 0:
            return None
        moments = self.treated
        mean, variance = moments.mean[rows].astype(np.float64), moments.variance[rows].astype(np.float64)
        return Group.pooled(mean, variance, moments.n_cells[rows])

    def _spread(self, stratum: int) -> np.ndarray:
        """Standard deviation of cells within the stratum's treatments, pooled, plus its median over genes.

        The latter (as in SAM; Tusher et al., 2001) keeps genes that are never seen from having all the weight.
        """
        rows = self.treated.row[stratum]
        rows = rows[rows >= 0]
        variance = np.average(
            self.treated.variance[rows].astype(np.float64), axis=0, weights=self.treated.n_cells[rows]
        )
        deviation = np.sqrt(variance)
        return deviation + np.median(deviation) + np.sqrt(MIN_VARIANCE)

    def _noise_free(self, truth: Truth, stratum: int, code: int) -> np.ndarray:
        """Look a mean up in the simulator's; one call gives all strata of a treatment."""
        table = self.screen.codes.table
        levels = tuple(self.levels(stratum).values())
        if code not in self._profiles:
            name, dose = ("control", None) if code == 0 else (table.names[code], table.doses[code] or None)
            keys = list(self.screen.codes.strata.columns)
            self._profiles[code] = (
                truth.stratum_mean(name, keys, dose)
                if keys
                else pd.DataFrame(truth.counterfactual_mean(name, dose=dose).mean(axis=0)[None])
            )
        means = self._profiles[code]
        key: Any = levels if len(levels) > 1 else levels[0] if levels else 0
        return means.loc[key].to_numpy(dtype=np.float64)[self._genes]


def _places(known: pd.Index, genes: pd.Index) -> np.ndarray:
    """Where the genes of the data are among those of the truth.

    Raises
    ------
    ValueError
        If some are not.
    """
    places = known.get_indexer(genes)
    if np.any(places < 0):
        msg = f"`truth` does not know the genes {genes[places < 0][:5].tolist()}. Pass the truth of these data."
        raise ValueError(msg)
    return places


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Positions of the n values of largest size."""
    return np.argsort(-np.abs(values), kind="stable")[:n]


def _group(moments: StratumMoments, stratum: int, code: int) -> Group:
    row = moments.row[stratum, code]
    mean, variance = moments.mean[row].astype(np.float64), moments.variance[row].astype(np.float64)
    return Group(mean, variance, int(moments.n_cells[row]))
