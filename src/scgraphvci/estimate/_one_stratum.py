"""Results of which one stratum is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scgraphvci.estimate._result import MarginalEffects
    from scgraphvci.estimate._tables import Strata


def one_stratum(effects: MarginalEffects, stratum: Strata) -> MarginalEffects:
    """Return the result for one stratum.

    Parameters
    ----------
    effects
        A result.
    stratum
        Levels of stratum keys, as in ``{"cell_type": "B"}``, or the level itself where there is one key; may be left
        out if there is one stratum.

    Raises
    ------
    TypeError
        If it is no mapping from keys to levels and there is not one key.
    KeyError
        If a key or level is not in the result.
    ValueError
        If the levels do not fit exactly one stratum.
    """
    chosen = effects.select(strata=stratum)
    if len(chosen.strata) != 1:
        fitting = chosen.strata if len(chosen.strata) else effects.strata
        choices = fitting.head(10).to_dict("records")
        more = " ..." if len(fitting) > len(choices) else ""
        msg = f"`stratum={stratum}` fits {len(chosen.strata)} strata, must fit one. Choose from {choices}{more}."
        raise ValueError(msg)
    return chosen
