"""Descriptors of treatments at set-up."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgraphvci._constants import KEYS
from scgraphvci.data import DescriptorField

OBS = {"treatment": ["control", "A", "B", "A+C", "held"], "split": ["train", "train", "train", "train", "ood"]}
FRAME = pd.DataFrame({"x": [1, 2, 3, 4], "y": [0.5, 0.1, 0.2, 0.3]}, index=["A", "B", "C", "new"])


def table(**uns):
    """Five cells."""
    return ad.AnnData(np.ones((5, 2)), obs=pd.DataFrame(OBS, index=list("abcde")), uns=uns)


def field(features=None, direction=None):
    """A field of these cells."""
    return DescriptorField(features, direction, "treatment", "control", "+", "split")


@pytest.mark.parametrize("features", [FRAME, "frame"])
def test_descriptors_are_kept(features):
    state = field(features).register_field(table(frame=FRAME))
    assert state["names"] == ["A", "B", "C", "new"]
    assert state["columns"] == ["x", "y"]
    np.testing.assert_array_equal(state["values"], FRAME.to_numpy())
    assert field(features).transfer_field(state, table()) == state
    assert field().registry_key == KEYS.DESCRIPTORS


def test_the_control_has_no_descriptors_and_text_is_read_as_numbers():
    frame = FRAME.astype(str)
    frame.loc["control"] = ["9", "9"]
    assert field(frame).register_field(table())["names"] == ["A", "B", "C", "new"]


@pytest.mark.parametrize("direction", ["knockout", {"A": "activation", "B": "knockout", "C": "interference"}])
def test_direction_is_kept(direction):
    state = field(direction=direction).register_field(table())
    assert state["direction"] == direction
    assert state["values"] is None


@pytest.mark.parametrize(
    ("features", "error", "match"),
    [
        ("nothing", KeyError, r"'nothing' not found in uns. Keys: \['frame'\]"),
        ([1, 2], TypeError, "must be a DataFrame.*not list"),
        (FRAME.drop(index="C"), ValueError, r"no row for \['C'\] \(1 of 3"),
        (pd.concat([FRAME, FRAME.loc[["B"]]]), ValueError, r"treatments \['B'\] more than once"),
        (FRAME.set_axis(["x", "x"], axis=1), ValueError, r"features \['x'\] more than once"),
        (FRAME[[]], ValueError, "no columns"),
        (FRAME.replace(0.3, np.nan), ValueError, "holds 'nan' for 'new', feature 'y'"),
        (FRAME.replace(0.3, np.inf), ValueError, "holds 'inf' for 'new'"),
        (FRAME.astype(object).replace(0.3, "much"), ValueError, "holds 'much' for 'new'"),
    ],
)
def test_descriptor_errors(features, error, match):
    with pytest.raises(error, match=match):
        field(features).register_field(table(frame=FRAME))


@pytest.mark.parametrize(
    ("direction", "match"),
    [
        ("up", r"Unknown perturbation_direction 'up'. Choose one of \['knockout', 'interference', 'activation'\]"),
        ({"A": "knockout", "B": "down", "C": "knockout"}, "'down'"),
        ({"A": "knockout"}, r"says nothing of \['B', 'C'\]"),
        (3, "Unknown perturbation_direction 3"),
    ],
)
def test_direction_errors(direction, match):
    with pytest.raises(ValueError, match=match):
        field(direction=direction).register_field(table())
