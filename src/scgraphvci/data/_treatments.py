"""Treatments as vectors: parsing of combinations and doses, and the table of observed treatment vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Dose = float | int | str | None


@dataclass(frozen=True)
class TreatmentTable:
    """The treatments of a screen, and how each becomes a vector.

    A treatment vector has one entry per perturbation: 0 where the perturbation is absent, else its dose divided by the
    perturbation's largest training dose (1 without doses). The control is the zero vector.

    Attributes
    ----------
    perturbations
        Names of single perturbations, control left out, shape ``(n_perturbations,)``.
    control
        Name of the control level.
    combination_sep
        What joins the members of a combination, or None if levels are never split.
    max_dose
        Largest training dose of each perturbation, shape ``(n_perturbations,)``; None for a screen without doses.
    names, doses
        Treatment name and dose (as text, "" where there is none) of each observed treatment vector. Row 0 is control.
    design
        The observed treatment vectors, shape ``(n_conditions, n_perturbations)``, float32.
    default_dose
        Most frequent training dose above 0 of each treatment name; of equally frequent ones the first to appear.
    """

    perturbations: tuple[str, ...]
    control: str
    combination_sep: str | None
    max_dose: np.ndarray | None
    names: tuple[str, ...]
    doses: tuple[str, ...]
    design: np.ndarray
    default_dose: Mapping[str, str]

    def members(self, treatment: str) -> list[str]:
        """Return the perturbations that make up a treatment; none for the control."""
        return split_combination(treatment, self.control, self.combination_sep)

    def vector(self, treatment: str, dose: Dose = None) -> np.ndarray:
        """Return the treatment vector, shape ``(n_perturbations,)``.

        Raises
        ------
        ValueError
            If a member is not a perturbation of this screen, or the dose does not fit the treatment.
        """
        members = self._known_members(treatment)
        vector = np.zeros(len(self.perturbations), dtype=np.float32)
        index = {name: i for i, name in enumerate(self.perturbations)}
        amounts = self._amounts(treatment, members, dose)
        for member, amount in zip(members, amounts, strict=True):
            vector[index[member]] = amount
        return vector

    def _known_members(self, treatment: str) -> list[str]:
        """Return the perturbations that make up a treatment; raise if one of them is unknown."""
        members = self.members(treatment)
        unknown = [member for member in members if member not in self.perturbations]
        if unknown:
            known = ", ".join([self.control, *self.perturbations][:20])
            more = "" if len(self.perturbations) < 20 else f", ... ({len(self.perturbations)} in all)"
            hint = "" if self.combination_sep else " Combinations need `combination_sep` at setup."
            meant = did_you_mean(unknown, [self.control, *self.perturbations])
            msg = f"Unknown treatment {treatment!r} (no {unknown}).{meant} Known: {known}{more}.{hint}"
            raise ValueError(msg)
        return members

    def usual_dose(self, treatment: str) -> str:
        """Return the dose, as text, that a treatment has where none is given; "" for control and without doses.

        That is its most frequent training dose; for a combination never seen, the most frequent one of each member.

        Raises
        ------
        ValueError
            If a member is not a perturbation of this screen.
        """
        members = self._known_members(treatment)
        if self.max_dose is None or not members:
            return ""
        if treatment in self.default_dose:
            return self.default_dose[treatment]
        doses = self._usual_doses(treatment, members)
        return (self.combination_sep or "").join(_number_text(doses[member]) for member in members)

    def _amounts(self, treatment: str, members: list[str], dose: Dose) -> list[float]:
        """Doses of the members, scaled by the largest training dose."""
        if not members:
            if dose not in (None, "") and parse_dose(dose, 1, None, treatment) != [0.0]:
                msg = f"A dose ({dose!r}) was given for {treatment!r}, the control, which has none. Leave `dose` out."
                raise ValueError(msg)
            return []
        if self.max_dose is None:
            if dose is not None:
                msg = (
                    f"A dose ({dose!r}) was given for {treatment!r}, but no `dose_key` was registered at setup. Leave "
                    "`dose` out, or set up with the column of doses."
                )
                raise ValueError(msg)
            return [1.0] * len(members)
        largest = [float(self.max_dose[self.perturbations.index(member)]) for member in members]
        if dose is None:
            usual = self._usual_doses(treatment, members)
            amounts = [usual[member] for member in members]
        else:
            amounts = member_doses(dose, treatment, self.control, self.combination_sep)
        return [amount / most for amount, most in zip(amounts, largest, strict=True)]

    def _usual_doses(self, treatment: str, members: list[str]) -> dict[str, float]:
        """Most frequent dose of each member: in this treatment, whatever its order; else alone; else its largest."""
        known = treatment if treatment in self.default_dose else None
        if known is None:
            known = next((name for name in self.default_dose if set(self.members(name)) == set(members)), None)
        largest = dict(zip(self.perturbations, np.asarray(self.max_dose, dtype=float).tolist(), strict=True))
        usual = {member: largest[member] for member in members}
        for name in members if known is None else [known]:
            if name in self.default_dose:
                amounts = member_doses(self.default_dose[name], name, self.control, self.combination_sep)
                usual.update(zip(self.members(name), amounts, strict=True))
        return usual

    def condition(self, vector: np.ndarray) -> int | None:
        """Return the row of `design` equal to a treatment vector, or None if it was never observed."""
        key = _key(vector)
        return next((row for row, observed in enumerate(self.design) if _key(observed) == key), None)

    def to_state(self) -> dict[str, Any]:
        """Return a plain dictionary for the registry."""
        return {
            "perturbations": list(self.perturbations),
            "control": self.control,
            "combination_sep": self.combination_sep,
            "max_dose": self.max_dose,
            "names": list(self.names),
            "doses": list(self.doses),
            "design": self.design,
            "default_dose": dict(self.default_dose),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TreatmentTable:
        """Rebuild the table from what `to_state` returned."""
        max_dose = state["max_dose"]
        return cls(
            perturbations=tuple(state["perturbations"]),
            control=state["control"],
            combination_sep=state["combination_sep"],
            max_dose=None if max_dose is None else np.asarray(max_dose, dtype=np.float64),
            names=tuple(state["names"]),
            doses=tuple(state["doses"]),
            design=np.asarray(state["design"], dtype=np.float32),
            default_dose=dict(state["default_dose"]),
        )


def split_combination(treatment: str, control: str, sep: str | None) -> list[str]:
    """Return the members of a treatment name; members equal to the control are left out ("A+control" is "A")."""
    members = [part for part in _parts(treatment, control, sep) if part != control]
    if any(not member for member in members):
        msg = f"Treatment {treatment!r} has an empty member around {sep!r}. Rename it or choose another separator."
        raise ValueError(msg)
    if len(set(members)) != len(members):
        msg = f"Treatment {treatment!r} names a perturbation twice. Give the dose instead."
        raise ValueError(msg)
    return members


def _parts(treatment: str, control: str, sep: str | None) -> list[str]:
    """Return the parts of a treatment name, control included; the control's own name is never split."""
    return [part.strip() for part in treatment.split(sep)] if sep and treatment != control else [treatment]


def member_doses(dose: Dose, treatment: str, control: str, sep: str | None) -> list[float]:
    """Return one dose per member; text with one dose per part of the name may hold any dose of the control.

    Raises
    ------
    ValueError
        As :func:`parse_dose`.
    """
    parts = _parts(treatment, control, sep)
    members = split_combination(treatment, control, sep)
    if not members:
        return []
    if sep and isinstance(dose, str):
        given = dose.split(sep)
        if len(given) == len(parts):
            dose = sep.join(text for text, part in zip(given, parts, strict=True) if part != control)
    return parse_dose(dose, len(members), sep, treatment)


def parse_dose(dose: Dose, n_members: int, sep: str | None, treatment: str) -> list[float]:
    """Return one dose per member from a number or from text such as "1+0.5".

    Raises
    ------
    ValueError
        If the number of doses does not fit, or one is not a finite number of at least 0.
    """
    parts: Sequence[Any] = dose.split(sep) if isinstance(dose, str) and sep else [dose]
    try:
        amounts = [np.nan if isinstance(part, bool) else float(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        amounts = [np.nan]
    if not all(np.isfinite(amount) and amount >= 0 for amount in amounts):
        msg = (
            f"Dose {dose!r} of treatment {treatment!r} is not a finite number of at least 0. Give a number, or one per "
            "member of a combination, joined as its members are."
        )
        raise ValueError(msg)
    if len(amounts) == 1:
        amounts = amounts * n_members
    if len(amounts) != n_members:
        msg = (
            f"Treatment {treatment!r} has {n_members} members but dose {dose!r} has {len(amounts)}. Give one dose for "
            "all members, or one for each."
        )
        raise ValueError(msg)
    return amounts


def build_treatment_table(
    treatments: pd.Series,
    doses: pd.Series | None,
    train: np.ndarray,
    control: str,
    combination_sep: str | None,
) -> tuple[TreatmentTable, np.ndarray]:
    """Tabulate the treatments of a screen.

    Parameters
    ----------
    treatments
        Treatment name of each cell, as text.
    doses
        Dose of each cell as text or number, or None.
    train
        Boolean, shape ``(n_cells,)``: cells whose doses set the scale and the default dose.
    control, combination_sep
        As in :class:`TreatmentTable`.

    Returns
    -------
    The table, and the row of its `design` for every cell, shape ``(n_cells,)``.
    """
    code, names, texts = _observed(treatments, doses, control)
    members = [split_combination(name, control, combination_sep) for name in names]
    perturbations = sorted({member for group in members for member in group})
    n_train = np.bincount(code, weights=train.astype(float), minlength=len(names))

    max_dose = None
    default: dict[str, str] = {}
    if doses is not None:
        index = {name: i for i, name in enumerate(perturbations)}
        amounts = [member_doses(text, name, control, combination_sep) for name, text in zip(names, texts, strict=True)]
        trained, overall = np.zeros(len(perturbations)), np.zeros(len(perturbations))
        for i, group in enumerate(members):
            for member, amount in zip(group, amounts[i], strict=True):
                overall[index[member]] = max(overall[index[member]], amount)
                if n_train[i] > 0:
                    trained[index[member]] = max(trained[index[member]], amount)
        max_dose = np.where(trained > 0, trained, np.where(overall > 0, overall, 1.0))
        for i in np.argsort(-n_train, kind="stable"):
            if any(amounts[i]):
                default.setdefault(names[i], texts[i])
    table = TreatmentTable(
        perturbations=tuple(perturbations),
        control=control,
        combination_sep=combination_sep,
        max_dose=max_dose,
        names=(control,),
        doses=("",),
        design=np.zeros((1, len(perturbations)), dtype=np.float32),
        default_dose=default,
    )
    return extend_treatment_table(table, treatments, doses)


def extend_treatment_table(
    table: TreatmentTable, treatments: pd.Series, doses: pd.Series | None
) -> tuple[TreatmentTable, np.ndarray]:
    """Code cells against a table, adding treatment vectors it has not seen (never new perturbations).

    Raises
    ------
    ValueError
        If a cell received a perturbation the table does not know.
    """
    code, names, texts = _observed(treatments, doses, table.control)
    row_of_vector = {_key(vector): row for row, vector in enumerate(table.design)}
    all_names, all_doses, design = list(table.names), list(table.doses), list(table.design)
    rows = np.empty(len(names), dtype=np.int64)
    for i, (name, text) in enumerate(zip(names, texts, strict=True)):
        vector = table.vector(name, text if table.max_dose is not None and text else None)
        row = row_of_vector.setdefault(_key(vector), len(design))
        if row == len(design):
            all_names.append(name)
            all_doses.append(text)
            design.append(vector)
        rows[i] = row
    extended = replace(table, names=tuple(all_names), doses=tuple(all_doses), design=np.stack(design))
    return extended, rows[code]


def did_you_mean(unknown: Sequence[str], known: Sequence[str]) -> str:
    """Return a question that names what is spelled alike, up to three names for each, whatever the case; or nothing."""
    lowered = [name.lower() for name in known]
    meant: dict[str, None] = {}
    for name in unknown:
        same = [name.lower()] if name.lower() in lowered else get_close_matches(name.lower(), lowered)
        meant.update({original: None for match in same for original in known if original.lower() == match})
    return f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""


def _key(vector: np.ndarray) -> bytes:
    """Hashable form of a treatment vector, blind to rounding."""
    return (np.round(vector.astype(np.float64), 6) + 0.0).tobytes()


def _observed(treatments: pd.Series, doses: pd.Series | None, control: str) -> tuple[np.ndarray, list[str], list[str]]:
    """Code of each cell into the distinct (treatment, dose) pairs; control's dose is "", whatever the column says."""
    name_code, names = pd.factorize(treatments)
    if doses is None:
        return name_code, [str(name) for name in names], [""] * len(names)
    dose_code, values = pd.factorize(doses.astype(object), use_na_sentinel=False)
    texts = [*(value if isinstance(value, str) else _number_text(value) for value in values), ""]
    dose_code[np.asarray(treatments == control)] = len(values)
    code, pairs = pd.factorize(name_code * len(texts) + dose_code)
    distinct = [divmod(int(pair), len(texts)) for pair in pairs]
    return code, [str(names[name]) for name, _ in distinct], [texts[dose] for _, dose in distinct]


def _number_text(value: Any) -> str:
    """Shortest text of a number; missing values become "nan", which `parse_dose` refuses."""
    return "nan" if pd.isna(value) else repr(float(value))
