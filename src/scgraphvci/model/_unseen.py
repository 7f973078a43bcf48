"""Treatments that no training cell received: what is foretold of them, and how far to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from scgraphvci._constants import KEYS
from scgraphvci._warn import warn
from scgraphvci.data import cell_residuals
from scgraphvci.data._kriging import told_apart
from scgraphvci.data._unseen import MIN_SEEN, Effect, Genes, Seen, UnseenModel
from scgraphvci.data._unseen_fit import fit_unseen
from scgraphvci.model._unseen_strata import UnseenStrataMixin, effect_frame
from scgraphvci.module._likelihood import is_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scgraphvci.data import StratumMoments
    from scgraphvci.data._mean_model import MeanModel
    from scgraphvci.data._treatments import Dose
    from scgraphvci.model._statistics import RegisteredCells

MAX_VALUES = 40_000_000  # seen treatments times genes or edges that the fit looks at: 320 MB
DOSE_TOLERANCE = 1e-6  # relative, of rounding


class Target(NamedTuple):
    """A counterfactual treatment.

    Attributes
    ----------
    vector
        Its seen perturbations, shape ``(n_perturbations,)``.
    received
        Treatment vector of cells that received it; None where no cell can have.
    unseen
        What its unseen perturbations add to the response pooled over strata, shape ``(n_genes,)``; None without any.
    amount
        Sum of the responses to their doses, over those to the largest.
    """

    vector: np.ndarray
    received: np.ndarray | None
    unseen: np.ndarray | None = None
    amount: float = 0.0


class UnseenMixin(UnseenStrataMixin):
    """Predicts responses to unseen treatments; needs `treatments` and a module with a baseline."""

    unseen_: dict[str, Any] | None = None  # what was fitted, as plain data: attributes with an underscore are saved

    def unseen_effect(
        self, treatment: str, alpha: float = 0.05, stratum: Mapping[str, str] | str | None = None
    ) -> pd.DataFrame:
        """Return the effect foretold of a treatment that no training cell received, with intervals.

        Intervals are conformal: each seen treatment is left out in turn, and the errors that are made, in units of
        their expected size, tell how large those of a new one are. They hold if the new treatment is as exchangeable
        with the seen ones as these are with one another.

        Parameters
        ----------
        treatment
            A single perturbation that is named after a gene of the data or has a row in `treatment_features`. Of a seen
            one this is what the others would foretell of it, its own cells notwithstanding; no interval for it.
        alpha
            One minus the level of the intervals; at least 1 / (n + 1) with n seen treatments.
        stratum
            A level of every covariate, for example ``{"cell_type": "B"}``, or ``"B"`` where there is one covariate: the
            effect there of a treatment that
            training cells received in other strata only. Its intervals are calibrated on strata that were left out of
            the treatments measured in them.

        Returns
        -------
        One row per gene: `estimate`, the shift from control averaged over strata (log fold change of the mean, to base
        e, for counts), `std_error`, the expected size of its error, `ci_low` and `ci_high`. `attrs` says how far from
        the seen treatments this one is: `relative_error`, the expected error over that of a left-out seen treatment;
        `explained`, the share of the variance between seen treatments that was foretold of them when left out;
        `n_seen`; and with `treatment_features` that are of use the `nearest` seen treatment and `distance`, how far it
        is, over the median distance of seen treatments to their nearest. With `stratum`, `attrs` hold `n_left_out`, the
        pairs of a treatment and a stratum that intervals are calibrated on, and `new_covariate`, whose level is new to
        the treatment (None: only the combination of levels is).

        Raises
        ------
        ValueError
            If nothing is known of the treatment, training cells received it (in the stratum, if one is given), there
            is no such stratum, or `alpha` is too small.
        """
        self._check_if_trained(warn=False)
        name = str(treatment)
        if stratum is not None:
            return self._effect_in_stratum(name, alpha, stratum)
        if name not in self._unseen_members(name):
            msg = (
                f"{name!r} is not a single unseen perturbation. Use `marginal_effect` for treatments with training "
                "cells, and `predict` for combinations."
            )
            raise ValueError(msg)
        effect, model = self._foretold(name), self._unseen_model(name)
        reach = model.margin(alpha) * effect.sd
        frame = effect_frame(self._model_genes(), effect.shift, effect.sd, reach)
        frame.attrs = {
            "relative_error": float(np.sqrt(np.mean((effect.sd / model.scale) ** 2)) / model.errors.usual),
            "explained": max(0.0, 1 - model.error / model.mean_error) if model.mean_error > 0 else 0.0,
            "n_seen": len(model.errors.scores),
        }
        if effect.nearest >= 0:
            names = (self.unseen_ or {})["names"]
            frame.attrs.update(nearest=names[effect.nearest], distance=effect.distance)
        return frame

    def _fit_unseen(
        self, registered: RegisteredCells, train: np.ndarray, moments: StratumMoments, fit: MeanModel | None
    ) -> None:
        """Learn from the seen treatments to foretell others, where something is known of them."""
        self.unseen_ = self.unseen_strata_ = None
        if fit is None:
            return
        self._fit_unseen_strata(fit)
        table = self.treatments
        rows = np.flatnonzero(np.isfinite(fit.noise))
        if fit.regression is not None:
            rows = rows[told_apart(fit.regression[0].blocks, len(table.perturbations))[rows]]
        network, features = self._network(), self._features(table.perturbations)
        gene = pd.Index(self._model_genes()).get_indexer(table.perturbations)
        if rows.size < MIN_SEEN or (features is None and (gene[rows] >= 0).sum() < MIN_SEEN):
            return
        size = max(fit.scale.size * 5, 0 if network is None else network.edge_weight.size)
        rows = np.sort(rows[np.argsort(fit.noise[rows], kind="stable")[: max(MIN_SEEN, MAX_VALUES // size)]])
        strata = self.module.strata.cpu().numpy()[(moments.row[:, 0] >= 0)]
        pooled = fit.pooled(strata)
        train = np.asarray(train)
        controls = cell_residuals(
            registered.matrix, registered.stratum, registered.condition, moments,
            train[registered.condition[train] == 0], registered.library,
        )  # fmt: skip
        sign = np.array([self._sign(name) for name in table.perturbations])
        seen = Seen(
            pooled[rows] / fit.scale, fit.noise[rows], gene[rows], sign[rows],
            None if features is None else features[rows],
        )  # fmt: skip
        level = fit.level(strata).mean(axis=0) / fit.scale
        genes = Genes(np.maximum(level, 0), 1 / fit.scale, controls, network)
        model = fit_unseen(seen, genes, fit.scale, log=is_count(self.module.likelihood))
        weight = np.zeros(len(table.perturbations), dtype=np.float32)
        weight[rows] = 1 / rows.size
        self.unseen_ = {
            "names": [table.perturbations[row] for row in rows],
            "weight": weight,
            "pooled": (weight @ pooled).astype(np.float32),
            "model": model.to_state(),
        }

    def _vector(self, treatment: str, dose: Dose) -> Target:
        """Return a treatment as the module needs it, with a warning where it is extrapolated.

        Raises
        ------
        ValueError
            If a member is unknown and nothing tells what it does, or the dose does not fit.
        """
        table, name = self.treatments, str(treatment)
        unseen = self._unseen_members(name)
        new = [member for member in unseen if member not in table.perturbations]
        if not unseen or (not new and self.unseen_ is None):
            return self._known_target(name, dose, unseen)
        effects = {member: self._foretold(member) for member in unseen}
        if new:
            if dose is not None:
                msg = (
                    f"A dose ({dose!r}) was given for {name!r}, but {new} has no training dose to compare it with. "
                    "Leave `dose` out: the effect is that of a usual largest dose."
                )
                raise ValueError(msg)
            seen = [member for member in table.members(name) if member not in new]
            vector = table.vector((table.combination_sep or "").join(seen) if seen else table.control)
            received, amounts = None, dict.fromkeys(new, 1.0)
        else:
            vector = self._known_target(name, dose, []).vector
            received, amounts = vector.copy(), {}
        for member in unseen:
            if member in table.perturbations:
                position = table.perturbations.index(member)
                amounts[member] = float(vector[position])
                vector[position] = 0
        bent = self.module.baseline.bent(torch.tensor(list(amounts.values()))).tolist()
        amounts = dict(zip(amounts, bent, strict=True))
        msg = (
            f"No training cell received {unseen}: the response to {name!r} is extrapolated from "
            f"{len((self.unseen_ or {})['names'])} seen treatments. See `unseen_effect`."
        )
        warn(msg)
        total = np.sum([amounts[member] * effects[member].shift for member in unseen], axis=0)
        return Target(vector, received, total, sum(amounts.values()))

    def _known_target(self, name: str, dose: Dose, untrained: list[str]) -> Target:
        """A treatment of the screen, with a warning where the model has nothing to go by."""
        vector = self.treatments.vector(name, dose)
        if untrained:
            msg = f"No training cell received {untrained}, so the model knows nothing of them: {name!r} is a guess."
            warn(msg)
        if (vector > 1 + DOSE_TOLERANCE).any():
            msg = f"Dose {dose!r} of {name!r} is beyond the largest training dose; the response is extrapolated."
            warn(msg)
        return Target(vector, vector)

    @torch.inference_mode()
    def _unseen_response(self, target: Target, levels: Tensor) -> Tensor | None:
        """Response of cells with unseen perturbations; None, for the module to compute it, without any."""
        if target.unseen is None:
            return None
        state, like = self.unseen_ or {}, self.module.input_mean
        vector = torch.as_tensor(target.vector, device=like.device).expand(len(levels), -1)
        # Strata differ in their response to an unseen treatment as they do on average over the seen ones.
        average = self.module.baseline.mean_response(torch.as_tensor(state["weight"], device=like.device), levels)
        added = torch.as_tensor(target.unseen, dtype=like.dtype, device=like.device)
        centre = torch.as_tensor(state["pooled"], device=like.device)
        return self.module.baseline.response(vector, levels) + added + target.amount * (average - centre)

    def _usual_dose(self, treatment: str) -> str | None:
        """Dose of a treatment where none is given, as text; None without doses or for perturbations new to the data."""
        table = self.treatments
        if table.max_dose is None or set(table.members(treatment)) - set(table.perturbations):
            return None
        return str(table.usual_dose(treatment))

    def _unseen_members(self, treatment: str) -> list[str]:
        """Members of a treatment that no training cell received."""
        untrained = self.get_state_registry(KEYS.TREATMENT)["untrained"]
        known = set(self.treatments.perturbations) - set(untrained)
        return [member for member in self.treatments.members(treatment) if member not in known]

    def _foretold(self, member: str) -> Effect:
        """What is foretold of an unseen perturbation."""
        model, features = self._unseen_model(member), self._features([member])
        return model.predict(
            self._gene(member), self._sign(member, required=True), None if features is None else features[0]
        )

    def _unseen_model(self, member: str) -> UnseenModel:
        """The fitted model.

        Raises
        ------
        ValueError
            If there is none, or nothing is known of the perturbation.
        """
        described = self._described()
        known = member in described["names"] if described else self._gene(member) >= 0
        if self.unseen_ is not None and known:
            return UnseenModel.from_state(self.unseen_["model"])
        if member not in self.treatments.perturbations:
            try:
                self.treatments.vector(member)
            except ValueError as error:
                missing = (
                    f"To foretell a treatment the data never showed, it must {_need(described)}, and the model must "
                    f"have a baseline and at least {MIN_SEEN} seen treatments of that kind."
                )
                msg = f"{error} {missing}"
                raise ValueError(msg) from None
        msg = f"No training cell received {member!r}, and nothing foretells its effect: it must {_need(described)}."
        raise ValueError(msg)


def _need(described: dict[str, Any] | None) -> str:
    return "have a row in `treatment_features`" if described else "be named after a gene of the data, or be described"
