"""Training without the trainer's chatter, for commands that report their own progress."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from scvi import settings


@contextmanager
def quiet_training(seed: int) -> Iterator[None]:
    """Seed, and keep trainer chatter off the screen; both are put back."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    old_seed, verbosity = settings.seed, settings.verbosity
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        settings.verbosity = logging.ERROR
        settings.seed = seed
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        settings.verbosity = verbosity
        settings.seed = old_seed
