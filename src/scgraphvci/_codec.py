"""Python values as JSON and tensors, with a closed set of types: reading a file can only ever build plain data.

JSON's own types stand for themselves. Everything else is an object with the key ``"__type__"``, whose value selects
one of the readers in `_DECODERS`; no name in a file is ever imported or called. Numeric arrays go to a dictionary of
tensors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scvi.utils import attrdict

if TYPE_CHECKING:
    from collections.abc import Callable

_TAG = "__type__"
_NUMERIC = frozenset(
    np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64"),
    )
)
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

_MOST_CHARACTERS = 250_000_000  # of an array of text: 1 GB

Tensors = dict[str, torch.Tensor]


def encode(value: Any, tensors: Tensors, path: str) -> Any:
    """Return `value` as JSON types, moving its numeric arrays into `tensors`.

    Parameters
    ----------
    value
        None, bool, int, float, str, list, tuple, set, frozenset, dict, NumPy scalar or array, dense torch tensor,
        pandas DataFrame, Series or Index; nested at will. `defaultdict` and scvi-tools' `attrdict` become
        dicts. Other subclasses are refused: they would come back as something else.
    tensors
        Receives the arrays.
    path
        Where `value` is, for messages.

    Raises
    ------
    TypeError
        For any other type; the message names the place of the value.
    """
    encoder = _ENCODERS.get(type(value))
    if encoder is None and isinstance(value, np.generic):
        encoder = _encode_scalar
    if encoder is None:
        raise _unsupported(value, path)
    return encoder(value, tensors, path)


def decode(value: Any, tensors: Tensors) -> Any:
    """Return the Python value that `encode` turned into `value` and `tensors`.

    Raises
    ------
    KeyError, TypeError, ValueError
        If `value` was not written by `encode`.
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG not in value:
        return {key: decode(item, tensors) for key, item in value.items()}
    if value[_TAG] not in _DECODERS:
        msg = f"unknown type {value[_TAG]!r}; known types are {sorted(_DECODERS)}"
        raise ValueError(msg)
    return _DECODERS[value[_TAG]](value, tensors)


def _unsupported(value: Any, path: str) -> TypeError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    dtype = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
    return TypeError(
        f"Cannot save `{path}`: {kind}{dtype} is not plain data. Turn it into numbers, strings, lists, dicts, arrays "
        "or data frames, or pass `legacy=True` to pickle the model."
    )


def _encode_plain(value: Any, tensors: Tensors, path: str) -> Any:
    return value


def _encode_float(value: float, tensors: Tensors, path: str) -> Any:
    return value if math.isfinite(value) else {_TAG: "float", "value": repr(value)}


def _encode_items(value: Any, tensors: Tensors, path: str) -> list[Any]:
    return [encode(item, tensors, f"{path}[{i}]") for i, item in enumerate(value)]


def _tagged_items(tag: str) -> Callable[[Any, Tensors, str], dict[str, Any]]:
    return lambda value, tensors, path: {_TAG: tag, "items": _encode_items(value, tensors, path)}


def _encode_dict(value: dict[Any, Any], tensors: Tensors, path: str) -> dict[str, Any]:
    if all(type(key) is str for key in value) and _TAG not in value:
        return {key: encode(item, tensors, f"{path}[{key!r}]") for key, item in value.items()}
    pairs = [
        [encode(key, tensors, f"key {key!r} of {path}"), encode(item, tensors, f"{path}[{key!r}]")]
        for key, item in value.items()
    ]
    return {_TAG: "dict", "items": pairs}


def _encode_scalar(value: np.generic, tensors: Tensors, path: str) -> dict[str, Any]:
    return {_TAG: "scalar", "array": _encode_array(np.asarray(value), tensors, path)}


def _encode_array(value: np.ndarray, tensors: Tensors, path: str) -> dict[str, Any]:
    """Encode numbers as a tensor; strings and objects item by item."""
    if value.dtype.kind in "OU":
        items = _encode_items(value.ravel().tolist(), tensors, path)
        return {_TAG: "array", "kind": value.dtype.kind, "shape": list(value.shape), "items": items}
    native = value.dtype.newbyteorder("=")
    if native not in _NUMERIC:
        raise _unsupported(value, path)
    return {_TAG: "array", "tensor": _store(torch.from_numpy(np.array(value, dtype=native, order="C")), tensors)}


def _encode_tensor(value: torch.Tensor, tensors: Tensors, path: str) -> dict[str, Any]:
    if value.layout is not torch.strided:
        raise _unsupported(value, path)
    return {_TAG: "tensor", "tensor": _store(value, tensors)}


def _store(tensor: torch.Tensor, tensors: Tensors) -> str:
    name = str(len(tensors))
    tensors[name] = tensor
    return name


def _encode_column(value: Any, tensors: Tensors, path: str) -> dict[str, Any]:
    """Encode the values of a Series, of an Index or of one column."""
    if isinstance(value.dtype, np.dtype):
        return _encode_array(value.to_numpy(), tensors, path)
    if isinstance(value.dtype, pd.CategoricalDtype):
        return {
            _TAG: "categorical",
            "codes": _encode_array(np.asarray(value.array.codes), tensors, path),
            "categories": _encode_column(value.dtype.categories, tensors, path),
            "ordered": value.dtype.ordered,
        }
    if isinstance(value.dtype, pd.StringDtype):
        items = [None if missing else str(item) for item, missing in zip(value, value.isna(), strict=True)]
        return {_TAG: "strings", "items": items, "dtype": str(value.dtype)}
    raise _unsupported(value, path)


def _encode_index(value: pd.Index, tensors: Tensors, path: str) -> dict[str, Any]:
    name = encode(value.name, tensors, f"{path}.name")
    return {_TAG: "index", "values": _encode_column(value, tensors, path), "name": name}


def _encode_series(value: pd.Series, tensors: Tensors, path: str) -> dict[str, Any]:
    return {
        _TAG: "series",
        "values": _encode_column(value, tensors, path),
        "index": encode(value.index, tensors, f"{path}.index"),
        "name": encode(value.name, tensors, f"{path}.name"),
    }


def _encode_frame(value: pd.DataFrame, tensors: Tensors, path: str) -> dict[str, Any]:
    columns = [_encode_column(value.iloc[:, j], tensors, f"{path}[{name!r}]") for j, name in enumerate(value.columns)]
    return {
        _TAG: "frame",
        "values": columns,
        "index": encode(value.index, tensors, f"{path}.index"),
        "columns": encode(value.columns, tensors, f"{path}.columns"),
    }


_ENCODERS: dict[type, Callable[[Any, Tensors, str], Any]] = {
    type(None): _encode_plain,
    bool: _encode_plain,
    int: _encode_plain,
    str: _encode_plain,
    float: _encode_float,
    list: _encode_items,
    tuple: _tagged_items("tuple"),
    set: _tagged_items("set"),
    frozenset: _tagged_items("frozenset"),
    dict: _encode_dict,
    defaultdict: _encode_dict,
    attrdict: lambda value, tensors, path: _encode_dict(value.to_dict(), tensors, path),
    np.ndarray: _encode_array,
    torch.Tensor: _encode_tensor,
    pd.Index: _encode_index,
    pd.RangeIndex: _encode_index,
    pd.Series: _encode_series,
    pd.DataFrame: _encode_frame,
}


def _decode_array(value: dict[str, Any], tensors: Tensors) -> np.ndarray:
    if "tensor" in value:
        return tensors[value["tensor"]].numpy()
    items = [decode(item, tensors) for item in value["items"]]
    if value["kind"] == "U":
        # Every item takes as much room as the longest.
        n_characters = len(items) * max((len(item) for item in items), default=0)
        if n_characters > _MOST_CHARACTERS:
            msg = f"an array of text would take {n_characters} characters, more than {_MOST_CHARACTERS}"
            raise ValueError(msg)
        return np.array(items, dtype=str).reshape(value["shape"])
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):  # one by one: a slice would unpack items that are lists
        array[i] = item
    return array.reshape(value["shape"])


def _decode_strings(value: dict[str, Any], tensors: Tensors) -> Any:
    """Rebuild pandas strings; the default string type of pandas 3 becomes object under pandas 2."""
    if value["dtype"] == "string":
        return pd.array(value["items"], dtype="string")
    return pd.Series(value["items"], dtype=pd.Series(["text"]).dtype).array


def _decode_series(value: dict[str, Any], tensors: Tensors) -> pd.Series:
    values, index = decode(value["values"], tensors), decode(value["index"], tensors)
    return pd.Series(values, index=index, name=decode(value["name"], tensors), dtype=values.dtype)


def _decode_frame(value: dict[str, Any], tensors: Tensors) -> pd.DataFrame:
    index = decode(value["index"], tensors)
    arrays = [decode(column, tensors) for column in value["values"]]
    frame = pd.DataFrame({j: pd.Series(a, index=index, dtype=a.dtype) for j, a in enumerate(arrays)}, index=index)
    frame.columns = decode(value["columns"], tensors)
    return frame


def _decode_index(value: dict[str, Any], tensors: Tensors) -> pd.Index:
    values = decode(value["values"], tensors)
    return pd.Index(values, dtype=values.dtype, name=decode(value["name"], tensors))


_DECODERS: dict[str, Callable[[dict[str, Any], Tensors], Any]] = {
    "float": lambda value, tensors: _NON_FINITE[value["value"]],
    "tuple": lambda value, tensors: tuple(decode(value["items"], tensors)),
    "set": lambda value, tensors: set(decode(value["items"], tensors)),
    "frozenset": lambda value, tensors: frozenset(decode(value["items"], tensors)),
    "dict": lambda value, tensors: {decode(key, tensors): decode(item, tensors) for key, item in value["items"]},
    "scalar": lambda value, tensors: _decode_array(value["array"], tensors)[()],
    "array": _decode_array,
    "tensor": lambda value, tensors: tensors[value["tensor"]],
    "categorical": lambda value, tensors: pd.Categorical.from_codes(
        decode(value["codes"], tensors), categories=decode(value["categories"], tensors), ordered=value["ordered"]
    ),
    "strings": _decode_strings,
    "index": _decode_index,
    "series": _decode_series,
    "frame": _decode_frame,
}
