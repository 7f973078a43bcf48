"""All predictors predict all conditions, once each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from scgraphvci._evaluation._conditions import Condition
from scgraphvci._evaluation._duplicates import DUPLICATES, score_duplicates
from scgraphvci._evaluation._predictors import Entrant, Start
from scgraphvci._evaluation._scores import COLUMNS, Target, score, settled
from scgraphvci._evaluation._screen import Screen
from scgraphvci._evaluation._summary import ScoreTable
from scgraphvci.metrics import mean_pairwise_correlation

MAX_CELLS = 200  # of a condition, true and predicted each, whose distributions are compared
TRUTH = ""  # stands beside the names of predictors


class Contest:
    """Predictors, conditions, and where predictions start.

    Parameters
    ----------
    screen
        The data.
    entrants
        The predictors.
    conditions
        What they predict.
    seed
        Of everything random.
    anywhere
        Cells that every prediction starts from, their covariates overwritten; None to start from those of the stratum.

    Raises
    ------
    ValueError
        If a predictor has the name of a duplicate.
    """

    def __init__(
        self,
        screen: Screen,
        entrants: Sequence[Entrant],
        conditions: Sequence[Condition],
        seed: int,
        anywhere: np.ndarray | None,
    ) -> None:
        taken = [entrant.name for entrant in entrants if entrant.name in (*DUPLICATES, TRUTH)]
        if taken:
            msg = f"Predictors cannot be named {taken}. Name them otherwise."
            raise ValueError(msg)
        self.screen, self.entrants, self.conditions = screen, entrants, conditions
        self._seed = seed
        self._anywhere = anywhere
        shape = len(conditions), screen.adata.n_vars
        self._means = {entrant.name: np.full(shape, np.nan, dtype=np.float32) for entrant in entrants}

    def score(self, n_bootstrap: int, *, duplicates: bool, noise_free: bool) -> ScoreTable:
        """Predict and score every condition; of the predictions only means are kept."""
        kinds = {entrant.name: str(entrant.kind) for entrant in self.entrants}
        kinds.update(dict.fromkeys(DUPLICATES if duplicates else (), "duplicate"))
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
        basis = self.screen.basis
        for i, one in enumerate(self.conditions):
            rng = np.random.default_rng([self._seed, i])
            cells = self.screen.rows(one.held_out)
            target = Target(one.true, cells[_some(len(cells), rng)])
            start = self._start(one, rng)
            for entrant in self.entrants:
                prediction = entrant.predict(start)
                self._means[entrant.name][i] = prediction.mean
                rows[entrant.name].append(score(one, target, prediction, basis))
            if duplicates:
                for name, row in score_duplicates(one, cells, basis, rng, noise_free=noise_free).items():
                    rows[name].append(row)
        scores = {name: pd.DataFrame(row, columns=list(COLUMNS), dtype=np.float64) for name, row in rows.items()}
        labels = pd.DataFrame([one.labels for one in self.conditions])
        return ScoreTable(labels, scores, kinds, n_bootstrap, self._seed)

    def shifts(self) -> pd.DataFrame:
        """Predicted and true shift from control, one row per condition, predictor and gene."""
        hidden = ("thin", "unseen", "n_significant", "n_reference")
        parts = [
            pd.DataFrame(
                {
                    "predictor": name,
                    **{key: value for key, value in one.labels.items() if key not in hidden},
                    "gene": self.screen.adata.var_names,
                    "true": one.true - one.reference,
                    "predicted": means[i] - one.reference,
                }
            )
            for i, one in enumerate(self.conditions)
            for name, means in self._means.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def genes(self) -> pd.DataFrame:
        """What the genes of every condition count, one row per condition and gene."""
        names = self.screen.adata.var_names
        parts = [
            pd.DataFrame(
                {
                    **{key: one.labels[key] for key in ("treatment", "dose")},
                    **one.levels,
                    "gene": names,
                    "weight": one.weights,
                    "is_de": np.isin(np.arange(names.size), one.de_genes),
                    "is_significant": one.significant,
                    "reference": one.reference,
                    "true": one.true,
                }
            )
            for one in self.conditions
        ]
        return pd.concat(parts, ignore_index=True)

    def cells_of(self, name: str) -> Callable[[Condition], np.ndarray]:
        """Return what predicts the cells of a condition, one per source cell, by a named predictor.

        Raises
        ------
        ValueError
            If there is no such predictor.
        """
        known = {entrant.name: entrant for entrant in self.entrants}
        if name not in known:
            msg = f"Unknown predictor {name!r}. Choose one of {list(known)}."
            raise ValueError(msg)

        def cells(condition: Condition) -> np.ndarray:
            start = self._start(condition, np.random.default_rng(self._seed))
            return known[name].predict(start._replace(shown=np.arange(start.cells.size))).cells

        return cells

    def pairwise_correlations(self) -> dict[str, float]:
        """Mean correlation of shifts between treatments of a stratum, by predictor and for the truth.

        Averaged over strata with at least two held-out treatments.
        """
        strata = np.array([one.stratum for one in self.conditions])
        profiles = {**self._means, TRUTH: np.stack([one.true for one in self.conditions])}
        result = {}
        for name, means in profiles.items():
            pairs = zip(means, self.conditions, strict=True)
            shifts = np.stack([settled(mean, one.reference) - one.reference for mean, one in pairs])
            by_stratum = np.array([mean_pairwise_correlation(shifts[strata == x]) for x in np.unique(strata)])
            known = by_stratum[np.isfinite(by_stratum)]
            result[name] = float(known.mean()) if known.size else float("nan")
        return result

    def _start(self, condition: Condition, rng: np.random.Generator) -> Start:
        """Where predictions of a condition start."""
        cells = condition.sources if self._anywhere is None else self._anywhere
        return Start(
            treatment=condition.treatment,
            dose=condition.dose,
            cells=cells,
            shown=_some(cells.size, rng),
            levels={} if self._anywhere is None else condition.levels,
            seed=int(rng.integers(2**31)),
        )


def _some(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most 200 of n positions, ascending."""
    return np.arange(n) if n <= MAX_CELLS else np.sort(rng.choice(n, MAX_CELLS, replace=False))
