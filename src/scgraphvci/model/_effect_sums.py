"""Sums of effects over cells, with the predictions of models and with those from states of cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scgraphvci.estimate import EffectSums
from scgraphvci.estimate._accumulate import ARM, N_ROLES, REFERENCE
from scgraphvci.estimate._cell_states import ConditionPredictions, StatePredictions
from scgraphvci.estimate._guarded import GuardedSums
from scgraphvci.model._calibration import condition_code
from scgraphvci.model._copies import Copies
from scgraphvci.model._cross_fit import Predictor
from scgraphvci.model._effect_cells import EffectCells

if TYPE_CHECKING:
    from scgraphvci.data._treatments import Dose
    from scgraphvci.model._graphvci import GraphVCI

MAX_SUMS_BYTES = 1_000_000_000  # sums of as many treatments as fit are gathered in one pass over the cells


def effect_sums(
    model: GraphVCI,
    predictors: list[Predictor],
    cells: EffectCells,
    names: list[str],
    reference: str | None,
    dose: Dose,
    batch_size: int | None,
    states: StatePredictions | None = None,
) -> Iterator[tuple[str, EffectSums | GuardedSums]]:
    """Sums for each treatment, for as many at a time as memory allows; with predictions from states if given.

    Sums are overwritten once those of the next treatments are asked for.
    """
    n_genes = model.summary_stats["n_vars"]
    doses: dict[str, Dose] = dict.fromkeys(names, dose)
    if reference is not None:
        doses[reference] = None
    if model.treatments.max_dose is not None:  # models of folds have usual doses of their own
        doses = {name: model._usual_dose(name) if one is None else one for name, one in doses.items()}
    size = 8 * n_genes * 3 * (3 * cells.groups.n_groups + 6 * cells.groups.n_strata)
    chunk = max(1, MAX_SUMS_BYTES // (size if states is None else 2 * size))
    copies = Copies(cells.cell.size)
    spare: list[EffectSums] = []
    for start in range(0, len(names), chunk):
        here = names[start : start + chunk]
        sums = {
            name: spare.pop() if spare else EffectSums(cells.groups, n_genes, with_reference=reference is not None)
            for name in here
        }
        of_states = None if states is None else _of_states(model, states, cells, here, doses, reference)
        seen = None if start else copies
        for predictor in predictors:
            _gather(model, predictor, cells, sums, doses, reference, batch_size, seen, of_states)
        if not start:
            copies.warn(cells.cluster)
        yield from sums.items() if of_states is None else of_states.with_model(sums)
        spare = list(sums.values())  # estimated by now
        for one in spare:
            one.clear()


def _of_states(
    model: GraphVCI,
    states: StatePredictions,
    cells: EffectCells,
    names: list[str],
    doses: dict[str, Dose],
    reference: str | None,
) -> _StateSums:
    """Predictions from states for some treatments and the reference, and sums for them."""
    wanted = [*names, *([] if reference is None else [reference])]
    by_name = {name: states.of(condition_code(cells.table, model._vector(name, doses[name]))) for name in wanted}
    n_genes, with_reference = model.summary_stats["n_vars"], reference is not None
    made = {name: EffectSums(cells.groups, n_genes, with_reference=with_reference) for name in names}
    return _StateSums(by_name, reference, made)


@torch.inference_mode()
def _gather(
    model: GraphVCI,
    predictor: Predictor,
    cells: EffectCells,
    sums: dict[str, EffectSums],
    doses: dict[str, Dose],
    reference: str | None,
    batch_size: int | None,
    copies: Copies | None,
    of_states: _StateSums | None,
) -> None:
    """Add the cells of a predictor to the sums of some treatments, and to the copies if asked to, in one pass."""
    arm = {name: condition_code(cells.table, model._vector(name, dose)) for name, dose in doses.items()}
    own, scale = predictor.model, predictor.scale
    vectors = {name: own._vector(name, doses[name]) for name in doses}
    for encoded in own._encoded(predictor.adata, cells.cell[predictor.position], batch_size):
        here = predictor.position[encoded.position]
        outcome = scale * encoded.batch["outcome"].cpu().numpy()
        if copies is not None:
            copies.update(encoded.batch["outcome"].cpu().numpy(), here)
        condition, group = cells.condition[here], cells.group[here]
        baseline = in_reference = made_baseline = None
        if reference is not None:
            baseline = scale * own._counterfactual_mean(encoded, vectors[reference])
            in_reference = condition == arm[reference]
            if of_states is not None:
                made_baseline = of_states.predict(reference, outcome, here, baseline)
        for name, total in sums.items():
            predicted = scale * own._counterfactual_mean(encoded, vectors[name])
            in_arm = condition == arm[name]
            total.update(outcome, predicted, baseline, in_arm, in_reference, group)
            if of_states is not None:
                made = of_states.predict(name, outcome, here, predicted)
                of_states.sums[name].update(outcome, made, made_baseline, in_arm, in_reference, group)


class _StateSums(NamedTuple):
    """Predictions from states of cells, and sums with them, for some treatments."""

    by_name: dict[str, ConditionPredictions]
    reference: str | None
    sums: dict[str, EffectSums]

    def predict(self, name: str, outcome: np.ndarray, cells: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """Predictions from states where they are known, `otherwise` elsewhere, ``(batch, n_genes)``."""
        one = self.by_name[name]
        known = one.known[one.stratum[cells]]
        made = np.array(otherwise)
        made[known] = one.predict(outcome[known], cells[known])
        return made

    def with_model(self, sums: dict[str, EffectSums]) -> Iterator[tuple[str, GuardedSums]]:
        """Yield them beside sums with the model's predictions."""
        for name, of_model in sums.items():
            by_states = np.ones((of_model.groups.n_strata, N_ROLES), dtype=bool)
            by_states[:, ARM] = self.by_name[name].known
            unexpected = self.by_name[name].unexpected
            if self.reference is not None:
                by_states[:, REFERENCE] = self.by_name[self.reference].known
                unexpected = unexpected + self.by_name[self.reference].unexpected
            yield name, GuardedSums(of_model, self.sums[name], by_states, unexpected)
