"""Seen treatments in strata where they were never measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgraphvci._constants import KEYS
from scgraphvci.data._fields import stratum_levels
from scgraphvci.data._unseen_strata import StrataErrors, fit_strata_errors
from scgraphvci.model._knowledge import KnowledgeMixin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgraphvci.data._mean_model import MeanModel


class UnseenStrataMixin(KnowledgeMixin):
    """Intervals for the baseline's response in unseen strata; needs `treatments` and a module with a baseline."""

    unseen_strata_: dict[str, Any] | None = None  # errors of strata left out, as plain data

    def _fit_unseen_strata(self, fit: MeanModel) -> None:
        """Learn from the measured strata of each treatment how far foretold responses are off."""
        self.unseen_strata_ = None
        if fit.regression is None:
            return
        strata = self.module.strata.cpu().numpy()
        errors = fit_strata_errors(*fit.regression, strata, len(self.treatments.perturbations), fit.scale)
        self.unseen_strata_ = errors.to_state()

    def _effect_in_stratum(self, treatment: str, alpha: float, stratum: Mapping[str, str] | str) -> pd.DataFrame:
        """What :meth:`unseen_effect` returns for a seen treatment in a stratum where it was never measured."""
        table, row = self.treatments, self._stratum_row(stratum)
        if self.unseen_strata_ is None:
            msg = "The model has no baseline, which responses in unseen strata are foretold from."
            raise ValueError(msg)
        errors = StrataErrors.from_state(self.unseen_strata_)
        position = table.perturbations.index(treatment) if treatment in table.perturbations else None
        if position is None or not np.isfinite(errors.leverage[row, position]):
            msg = (
                f"{treatment!r} is not a single perturbation with training cells beside control. Leave `stratum` out: "
                "responses to unseen treatments have intervals averaged over strata only."
            )
            raise ValueError(msg)
        if errors.met[row, position]:
            msg = f"{treatment!r} has training cells in {stratum!r}. Use `marginal_effect` there."
            raise ValueError(msg)
        covariate = errors.new_covariate(row, position)
        if covariate not in errors.errors:
            msg = (
                f"No treatment was measured in several levels of what is new in {stratum!r}, so that nothing says "
                "how far foretold responses are off. Measure some treatments in more strata."
            )
            raise ValueError(msg)
        levels, vector = self.module.strata[[row]], torch.as_tensor(table.vector(treatment))[None]
        with torch.inference_mode():
            shift = self.module.baseline.response(vector.to(levels.device), levels)[0].cpu().numpy().astype(np.float64)
        sd = errors.sd(row, position, shift)
        frame = effect_frame(self._model_genes(), shift, sd, errors.margin(row, position, alpha) * sd)
        keys = list(stratum_levels(self.get_state_registry(KEYS.STRATUM)))
        frame.attrs = {
            "n_left_out": len(errors.errors[covariate].scores),
            "new_covariate": keys[covariate] if covariate >= 0 else None,
        }
        return frame

    def _stratum_row(self, stratum: Mapping[str, str] | str) -> int:
        """Row of a stratum among those of the data.

        Raises
        ------
        ValueError
            If it does not give a level for each covariate, or the data have no such stratum.
        """
        state = self.get_state_registry(KEYS.STRATUM)
        levels, strata = stratum_levels(state), np.asarray(state["strata"])
        if isinstance(stratum, str) and len(levels) == 1:
            stratum = dict.fromkeys(levels, stratum)
        if isinstance(stratum, str) or set(stratum) != set(levels):
            msg = f"`stratum` must give a level of each covariate {list(levels)}, not {stratum!r}."
            raise ValueError(msg)
        names = [[str(level) for level in values] for values in levels.values()]
        wanted = [str(stratum[key]) for key in levels]
        for row, codes in enumerate(strata):
            if all(of[code] == want for of, code, want in zip(names, codes, wanted, strict=True)):
                return row
        msg = f"The data have no stratum {stratum!r}. Levels: {levels}."
        raise ValueError(msg)


def effect_frame(genes: list[str], shift: np.ndarray, sd: np.ndarray, reach: np.ndarray) -> pd.DataFrame:
    """A foretold effect of every gene with its interval."""
    columns = {"estimate": shift, "std_error": sd, "ci_low": shift - reach, "ci_high": shift + reach}
    return pd.DataFrame(columns, index=pd.Index(genes, name="gene"))
