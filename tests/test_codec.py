"""Every supported value comes back as it went; every other value is refused by name."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, defaultdict, namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scvi.utils import attrdict

from scgraphvci._codec import decode, encode


def through_json(value):
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(encode(value, tensors, "value"), allow_nan=False)
    return decode(json.loads(text), tensors)


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for left, right in zip(found, expected, strict=True):
            assert_same(left, right)
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(found)
    elif isinstance(expected, np.ndarray):
        assert found.shape == expected.shape
        assert found.dtype.kind == expected.dtype.kind
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_index_type="equiv")
    elif isinstance(expected, pd.Series):
        pd.testing.assert_series_equal(found, expected, check_index_type="equiv")
    elif isinstance(expected, pd.Index):
        pd.testing.assert_index_equal(found, expected, exact="equiv")
    else:
        assert found == expected


def ragged():
    array = np.empty(2, dtype=object)
    array[0], array[1] = [1, 2], [3, 4]
    return array


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -(10**30),
        'a \u2603 \ud800 " \\ \x00',
        0.1,
        5e-324,
        math.nan,
        math.inf,
        -math.inf,
        [1, [2.5, None], []],
        (1, ("a",), ()),
        {1, 2},
        frozenset({("b", 1)}),
        {"a": {"b": math.nan}, "": 0},
        {1: "int", "1": "str", (0, None): "tuple", None: "none", 2.5: "float"},
        {"__type__": "tuple", "items": [1]},
        np.float32(0.1),
        np.float64(math.nan),
        np.int8(-3),
        np.bool_(True),
        np.str_("gene"),
        np.array(3.0),
        np.zeros((0, 3), dtype=np.float16),
        np.arange(6).reshape(2, 3)[:, ::-1],
        np.arange(6, dtype=np.uint16).reshape(2, 3).T,
        np.array([True, False]),
        np.array([1 + 2j], dtype=np.complex64),
        np.array([["a", "bcd"]]),
        np.array(["a", None, 1, 2.5, math.inf, (1, 2)], dtype=object),
        ragged(),
        torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        torch.zeros(2, 0),
    ],
    ids=repr,
)
def test_plain_values_round_trip(value):
    assert_same(through_json(value), value)


@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame({"loss": [1.0, math.nan]}, index=pd.RangeIndex(2, name="epoch")),
        pd.DataFrame({"loss": np.array([1.0, 2], dtype=object)}, index=pd.Index([0, 1], name="epoch", dtype=int)),
        pd.DataFrame({"cell_type": pd.Categorical(["B", "T", None], categories=["T", "B", "unused"]), "n": [1, 2, 3]}),
        pd.DataFrame({"name": ["a", "b"], "x": np.array([1, 2], dtype=np.int8)}, index=["r", "s"]),
        pd.DataFrame({"text": pd.array(["a", None], dtype="string")}),
        pd.DataFrame(np.eye(2), columns=["same", "same"]),
        pd.DataFrame(index=["a", "b"]),
        pd.DataFrame({"a": np.array([], dtype=np.float32)}),
        pd.Series([1, 2], index=["a", "b"], name="counts"),
        pd.Series(pd.Categorical([2, 1], ordered=True), name=3),
        pd.Index(["a", "b"], name="genes"),
        pd.Index([0.5, 1.5]),
    ],
)
def test_pandas_round_trips(value):
    assert_same(through_json(value), value)


def test_bytes_of_another_order_are_kept_as_numbers():
    found = through_json(np.array([1.5, 2.5], dtype=">f4"))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1.5, 2.5])


def test_dicts_with_behaviour_become_dicts():
    assert_same(through_json(defaultdict(dict, a=1)), {"a": 1})
    assert_same(through_json(attrdict({"a": {"b": "c"}})), {"a": {"b": "c"}})


class Anything:
    pass


@pytest.mark.parametrize(
    "value",
    [
        Anything(),
        Anything,
        len,
        b"bytes",
        Path("a"),
        1j,
        OrderedDict(a=1),
        namedtuple("Point", "x")(1),
        torch.nn.Parameter(torch.zeros(1)),
        torch.eye(2).to_sparse(),
        torch.float32,
        np.datetime64("2020-01-01"),
        np.array([1 + 2j]),
        np.array([b"bytes"]),
        np.ma.masked_array([1.0], mask=[True]),
        pd.date_range("2020", periods=2),
        pd.MultiIndex.from_tuples([("a", 1)]),
        pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_refused_by_place(value):
    with pytest.raises(TypeError, match=r"Cannot save `top\['settings'\]\[1\].*legacy=True"):
        encode({"settings": [0, value]}, {}, "top")


@pytest.mark.parametrize(
    "value",
    [
        {"__type__": "os.system", "args": ["true"]},
        {"__type__": ["tuple"]},
        {"__type__": "array", "tensor": "../../secret"},
        {"__type__": "array", "kind": "O", "shape": [10**12], "items": [1]},
        {"__type__": "array", "kind": "U", "shape": [3], "items": ["a"]},
        {"__type__": "set", "items": [[1]]},
        {"__type__": "dict", "items": [[1]]},
        {"__type__": "float", "value": "0x1"},
        {"__type__": "tuple"},
    ],
    ids=repr,
)
def test_forged_values_are_refused(value):
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode(value, {})


def test_pickle_like_content_stays_plain_data():
    forged = {"__reduce__": ["os.system", ["true"]], "py/reduce": [{"py/type": "os.system"}], "__class__": "x"}
    assert_same(decode(forged, {}), forged)
