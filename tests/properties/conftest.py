"""Profiles of hypothesis, chosen by `HYPOTHESIS_PROFILE`, and `attempt`, which tells a clear refusal from a crash.

"short" (the default suite) and "long" (minutes) try the same examples every time, so that no change is blamed for an
old defect; "search" draws new ones and is the one that looks for defects.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import scgraphvci

_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("short", max_examples=8, derandomize=True, **_COMMON)
settings.register_profile("long", max_examples=400, derandomize=True, print_blob=True, **_COMMON)
settings.register_profile("search", max_examples=2000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

DOCUMENTED = (ValueError, KeyError, TypeError)
SOURCE = str(Path(scgraphvci.__file__).parent)


class Attempt:
    """Call; return the result, or `refused` if it was refused with an error of ours that says something.

    Anything else that is raised is a crash and goes on.
    """

    refused = object()

    def __init__(self) -> None:
        self.n_calls = self.n_refused = 0

    def __call__(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self.n_calls += 1
        try:
            return call(*arguments, **named)
        except DOCUMENTED as error:
            raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
            assert raised_in.startswith(SOURCE), f"{type(error).__name__} of {raised_in}: {error}"
            assert len(str(error)) > 20
            self.n_refused += 1
            return self.refused


ATTEMPT = Attempt()


@pytest.fixture(scope="session")
def attempt() -> Attempt:
    return ATTEMPT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many inputs were tried; worker processes of xdist keep theirs to themselves."""
    if ATTEMPT.n_calls:
        terminalreporter.write_line(f"fuzzed: {ATTEMPT.n_calls} calls, {ATTEMPT.n_refused} refused with a clear error")
