"""What remains of an effect as larger leaks are allowed for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import special

from scgraphvci.estimate._accumulate import IntArray
from scgraphvci.estimate._tables import long_frame

if TYPE_CHECKING:
    from scgraphvci.estimate._result import MarginalEffects


def sensitivity_frame(effects: MarginalEffects, leaks: float | Iterable[float], genes: IntArray) -> pd.DataFrame:
    """See `MarginalEffects.sensitivity`; `genes` are positions."""
    shares = np.atleast_1d(np.asarray(leaks if isinstance(leaks, float | int) else list(leaks), dtype=np.float64))
    if not shares.size or not ((shares >= 0) & (shares <= 1)).all():
        msg = f"`leaks` is {shares.tolist()}: give shares of the predicted effect from 0 to 1, such as [0, 0.05, 0.1]."
        raise ValueError(msg)
    estimator, reference = effects.params["estimator"], effects.params["reference"]
    estimand = effects.params.get("estimand", "difference")
    if "contrast_of" in effects.params:
        msg = "A contrast of two results has no bound on its leak: ask each of the two for its `sensitivity`."
        raise ValueError(msg)
    if estimator != "robust" or reference is None or estimand != "difference":
        msg = (
            f"A leak is a share of the effect that biases a 'robust' difference to a reference; this result is of "
            f"{estimator!r}, {estimand!r}, with reference {reference!r}. Estimate with `estimator='robust'` and "
            "`estimand='difference'`; `observed` rests on no prediction, so no leak can bias it."
        )
        raise ValueError(msg)
    estimate, error, df = effects.estimate, effects.std_error, effects.df
    predicted = np.abs(effects.plugin)
    margin = special.stdtrit(df, 1.0 - effects.params["alpha"] / 2.0) * error
    left = np.abs(estimate) - margin
    lost = np.divide(left, predicted, out=np.full_like(left, np.inf), where=predicted > 0)
    lost = np.where(np.isnan(left) | ~(error > 0), np.nan, np.where(left > 0, lost, 0.0))

    parts = []
    for leak in shares:
        bound = leak * predicted
        beyond = np.divide(
            np.maximum(np.abs(estimate) - bound, 0.0), error, out=np.full_like(estimate, np.nan), where=error > 0
        )
        columns = {
            "leak": np.full_like(estimate, leak),
            "estimate": estimate,
            "estimate_low": estimate - bound,
            "estimate_high": estimate + bound,
            "ci_low": estimate - bound - margin,
            "ci_high": estimate + bound + margin,
            "p_value": 2.0 * special.stdtr(df, -beyond),
            "leak_to_insignificance": lost,
        }
        parts.append(long_frame(effects, {}, columns, genes))
    frame = pd.concat(parts, ignore_index=True)
    order = np.arange(len(frame)).reshape(len(shares), -1).T.ravel()  # leaks of a gene side by side
    return frame.iloc[order].reset_index(drop=True)
