"""Arrays of one treatment after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Stack:
    """Arrays ``(n_treatments, ...)`` that grow in place, so that results as large as memory are not held twice.

    Examples
    --------
    >>> import numpy as np
    >>> stack = Stack()
    >>> stack.add({"estimate": np.array([1.0, 2.0])})
    >>> stack.add({"estimate": np.array([3.0, 4.0])})
    >>> stack.arrays["estimate"].tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}

    def add(self, row: Mapping[str, NDArray[Any]]) -> None:
        """Add the arrays of one treatment; names and shapes are the same for all."""
        for name, value in row.items():
            array = self.arrays.setdefault(name, np.empty((0, *value.shape), dtype=value.dtype))
            n = len(array)
            array.resize((n + 1, *value.shape), refcheck=False)  # nothing else looks at it yet
            array[n] = value
