"""What holds for tests and for the examples in docstrings."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import scvi  # noqa: F401  (adds the handler)
from rich.logging import RichHandler


@pytest.fixture(scope="session", autouse=True)
def messages_go_to_pytest() -> Iterator[None]:
    """Keep messages out of the output of examples: scvi-tools shows them on standard output and passes none on."""
    logger = logging.getLogger("scvi")
    (handler,) = (handler for handler in logger.handlers if isinstance(handler, RichHandler))
    level, propagate = handler.level, logger.propagate
    handler.setLevel(logging.CRITICAL + 1)
    logger.propagate = True
    yield
    handler.setLevel(level)
    logger.propagate = propagate
