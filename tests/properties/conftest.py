"""Profiles of hypothesis: "short" in the default suite, "long" (by `HYPOTHESIS_PROFILE=long`) for minutes."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("short", max_examples=8, derandomize=True, **_COMMON)
settings.register_profile("long", max_examples=400, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
