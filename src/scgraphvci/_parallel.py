"""Independent trainings in the processes that joblib has been given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def n_processes() -> int:
    """Return how many ``joblib.parallel_config`` grants; 1 without it and for threads: they share torch's generator."""
    backend, n_jobs = get_active_backend()
    return 1 if getattr(backend, "uses_threads", False) else int(backend.effective_n_jobs(n_jobs))


def call_each(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterable[Any]:
    """Results of a function for each of some arguments, in their order: by those processes, or here and one by one."""
    if n_processes() == 1:
        return (function(*arguments) for arguments in calls)
    return Parallel()(delayed(function)(*arguments) for arguments in calls)
