from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.grn import degree_matched_random


@pytest.fixture
def net() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    edges = pd.DataFrame({"source": rng.integers(20, size=900), "target": rng.integers(200, size=900)})
    edges = edges.drop_duplicates().reset_index(drop=True).astype(str)
    return edges.assign(weight=rng.normal(size=len(edges)))


def test_keeps_degrees_and_mixes(net: pd.DataFrame) -> None:
    random = degree_matched_random(net, seed=1)
    for column in ("source", "target"):
        pd.testing.assert_series_equal(
            random[column].value_counts().sort_index(), net[column].value_counts().sort_index()
        )
    assert not random.duplicated(["source", "target"]).any()
    assert (random["source"] == random["target"]).sum() == (net["source"] == net["target"]).sum()
    shared = random.merge(net, on=["source", "target"])
    assert len(shared) < 1.5 * len(net) * len(net) / (20 * 200)  # about the density: what independence leaves in common
    pd.testing.assert_frame_equal(random[["source", "weight"]], net[["source", "weight"]])


def test_seeded(net: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(degree_matched_random(net, 3), degree_matched_random(net, 3))
    assert not degree_matched_random(net, 3).equals(degree_matched_random(net, 4))


def test_bad_input(net: pd.DataFrame) -> None:
    with pytest.raises(KeyError, match="target"):
        degree_matched_random(net.drop(columns="target"))
    with pytest.raises(ValueError, match="more than once"):
        degree_matched_random(pd.concat([net, net]))
