"""Warnings that name the user's line."""

from __future__ import annotations

import sys
import warnings

#: Whose lines no user wrote: this package's, and those of the engines that call it back.
INSIDE = frozenset({"scgraphvci", "scvi", "lightning", "torch"})


def warn(message: str) -> None:
    """Warn at the innermost line that is neither of this package nor of an engine it runs in.

    A fixed `stacklevel` names the wrong line wherever a warning is reached in several ways.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
