"""A known network that tests write in many formats and read back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def known_net() -> pd.DataFrame:
    """5 regulators of 12 genes, themselves among these: 28 signed edges in order of source and target, one a loop."""
    rng = np.random.default_rng(7)
    genes = [f"G{i:02d}" for i in range(12)]
    pairs = sorted(int(pair) for pair in rng.choice(5 * 12, 28, replace=False))
    weight = rng.uniform(0.1, 5, 28).round(3) * rng.choice([-1, 1], 28)
    source, target = zip(*[(genes[pair // 12], genes[pair % 12]) for pair in pairs], strict=True)
    net = pd.DataFrame({"source": list(source), "target": list(target), "weight": weight})
    net.loc[0, "target"] = net.loc[0, "source"]
    return net.drop_duplicates(["source", "target"]).sort_values(["source", "target"], ignore_index=True)


@pytest.fixture
def ordered():
    """Bring a network into the order of `known_net`."""

    def order(net: pd.DataFrame) -> pd.DataFrame:
        return net.sort_values(["source", "target"], ignore_index=True)

    return order
