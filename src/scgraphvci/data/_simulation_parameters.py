"""Options of a simulated perturbation screen."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import comb, isfinite

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class SimulationParameters:
    """Options of a simulated screen; see :func:`scgraphvci.datasets.simulate` for their meaning.

    Raises
    ------
    ValueError
        If a value is out of range; the message names the option, the value and what is allowed.
    """

    n_genes: int = 500
    n_perturbations: int = 20
    n_cell_types: int = 3
    n_donors: int = 3
    n_regulators: int | None = None
    n_combinations: int = 0
    combination_sep: str = "+"
    doses: tuple[float, ...] | None = None
    control_share: float = 0.2
    treatment_imbalance: float = 0.3
    effect_strength: float = 3.0
    interaction: float = 0.75
    state_strength: float = 0.5
    donor_strength: float = 0.15
    activity_noise: float = 0.4
    median_library: float = 2000.0
    dispersion: float = 0.2
    prior_missing: float = 0.3
    prior_false: float = 1.0
    n_ood_pairs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        for name in ("n_genes", "n_perturbations", "n_cell_types", "n_donors", "n_combinations", "seed"):
            lowest = {"n_genes": 2, "n_combinations": 0, "seed": 0}.get(name, 1)
            check_whole(name, getattr(self, name), lowest)
        for name, lowest in (("n_regulators", 1), ("n_ood_pairs", 0)):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), lowest)
        self._check_sizes()
        unbounded = ("treatment_imbalance", "effect_strength", "state_strength", "donor_strength", "activity_noise")
        for name in (*unbounded, "prior_false"):
            _check_number(name, getattr(self, name), 0, np.inf)
        for name in ("interaction", "prior_missing"):
            _check_number(name, getattr(self, name), 0, 1)
        for name in ("median_library", "dispersion"):
            _check_number(name, getattr(self, name), 0, np.inf, open_low=True)
        _check_number("control_share", self.control_share, 0, 1, open_low=True)
        if self.control_share == 1:
            msg = "control_share=1 leaves no treated cells; choose a value below 1."
            raise ValueError(msg)
        sep = self.combination_sep
        if not sep or any(c.isalnum() for c in sep):
            msg = f"combination_sep={sep!r} must be a non-empty string without letters or digits, such as '+'."
            raise ValueError(msg)
        self._check_doses()

    def _check_sizes(self) -> None:
        for name, most, what in (
            ("n_regulators", self.n_genes, "the number of genes"),
            ("n_perturbations", self.regulator_count, "the number of regulators"),
            ("n_combinations", comb(self.n_perturbations, 2), "the number of pairs of perturbations"),
            ("n_ood_pairs", self.n_treatments * (self.n_cell_types - 1), "treatments x (cell types - 1)"),
        ):
            value = getattr(self, name)
            if value is not None and value > most:
                msg = f"{name}={value!r} must be at most {most}, {what}."
                raise ValueError(msg)

    def _check_doses(self) -> None:
        if self.doses is None:
            return
        if len(self.doses) == 0 or len(set(self.doses)) < len(self.doses):
            msg = f"doses={self.doses!r} must be distinct positive numbers, or None for a screen without doses."
            raise ValueError(msg)
        for dose in self.doses:
            _check_number("doses", dose, 0, np.inf, open_low=True)

    @property
    def regulator_count(self) -> int:
        """Number of regulators, by default a tenth of the genes and at least one per perturbation."""
        if self.n_regulators is not None:
            return self.n_regulators
        return min(max(self.n_perturbations, self.n_genes // 10), self.n_genes)

    @property
    def n_treatments(self) -> int:
        """Number of treatments: single perturbations and combinations, without the control."""
        return self.n_perturbations + self.n_combinations

    @property
    def ood_pair_count(self) -> int:
        """Number of held-out treatment x cell type pairs, by default half of the treatments, in one type each."""
        if self.n_ood_pairs is not None:
            return self.n_ood_pairs
        return max(1, self.n_treatments // 2) if self.n_cell_types > 1 else 0

    def as_dict(self) -> dict[str, int | float | str | npt.NDArray[np.float64]]:
        """The options as an AnnData file can hold them: those left at None are absent."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return {k: np.asarray(v, dtype=np.float64) if k == "doses" else v for k, v in given.items()}


def check_whole(name: str, value: object, lowest: int) -> None:
    """Raise ValueError unless `value` is a whole number of at least `lowest`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < lowest:  # type: ignore[operator]
        msg = f"{name}={value!r} must be a whole number of at least {lowest}."
        raise ValueError(msg)


def _check_number(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool) and isfinite(value)
    if not number or not (low < value <= high or (value == low and not open_low)):
        allowed = f"{'above' if open_low else 'at least'} {low}" + (f" and at most {high}" if isfinite(high) else "")
        msg = f"{name}={value!r} must be a finite number {allowed}."
        raise ValueError(msg)
