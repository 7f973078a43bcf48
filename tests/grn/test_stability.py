"""Agreement of networks, on cases small enough to count."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.grn import stability


def frame(*edges: tuple) -> pd.DataFrame:
    return pd.DataFrame(edges, columns=["source", "target", "weight"])


def test_stability() -> None:
    one = frame(("A", "B", 4), ("A", "C", -3), ("B", "C", 2), ("A", "A", 9))
    two = frame(("A", "B", 4), ("B", "C", 3), ("C", "D", 2), ("A", "C", 1))
    found = stability({"s0": one, "s1": two, "s2": one})
    assert found[["first", "second"]].to_numpy().tolist() == [["s0", "s1"], ["s0", "s2"], ["s1", "s2"]]
    assert found["jaccard"].tolist() == pytest.approx([2 / 4, 1, 2 / 4])
    assert found["k"].tolist() == [3, 3, 3]
    # Edges AB, AC, BC, CD: ranks 4, 3, 2, 1 in one, 4, 1, 3, 2 in two.
    assert found["spearman"].tolist() == pytest.approx([0.4, 1.0, 0.4])
    assert stability([one, two], k=2)["jaccard"].item() == pytest.approx(1 / 3)
    flat = stability([frame(("A", "B", 1), ("A", "C", 1)), frame(("A", "B", 1), ("A", "C", 1))])
    assert flat["jaccard"].item() == 1 and np.isnan(flat["spearman"].item())


def test_bad_input() -> None:
    net = frame(("A", "B", 1))
    with pytest.raises(ValueError, match="1 was given"):
        stability([net])
    with pytest.raises(ValueError, match="k=0"):
        stability([net, net], k=0)
