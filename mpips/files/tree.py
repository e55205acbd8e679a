"""Turn nested values into a JSON text and a list of arrays, and back, without pickle.

In the text, None, truth values, whole numbers, finite floats, texts and lists stand for themselves;
all else is an object with one key that says what it is, such as `{"array": 3}`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpips.errors import AppError, DataError

Arrays = list[npt.NDArray[Any]]
Encoded = tuple[bytes, Arrays]

# Kinds of dtype that HDF5 stores as they are: truth values, numbers, complex numbers.
KINDS = "biufc"


def encode_tree(value: Any, what: str) -> tuple[bytes, Arrays]:
    """Return nested values as a JSON text and the arrays in them, C-contiguous.

    Values are None, numbers, texts, bytes, NumPy's numbers and arrays of numbers, and lists, tuples
    and dicts of such, whose keys may be any of them too. All come back with type and bits.

    Args:
        value: what to encode.
        what: what to call it in an error: "the state of logical worker 3".

    Raises:
        AppError: something in it is of another type; it is named with its place.

    >>> encode_tree({"seed": 7, "w": np.zeros(2)}, "it")
    (b'{"dict": {"seed": 7, "w": {"array": 0}}}', [array([0., 0.])])
    """
    arrays: Arrays = []
    return json.dumps(_encode(value, what, arrays), allow_nan=False).encode(), arrays


def encode_states(states: Mapping[int, Any], copied: bool = False) -> dict[int, Encoded]:
    """Return the states of logical workers as `encode_tree` does.

    Args:
        states: by logical worker.
        copied: whether the arrays are the caller's own; else they are those of the states.

    Raises:
        AppError: something in a state cannot be stored.
    """
    encoded = {w: encode_tree(s, f"the state of logical worker {w}") for w, s in states.items()}
    if not copied:
        return encoded
    return {w: (text, [a.copy() for a in arrays]) for w, (text, arrays) in encoded.items()}


def decode_tree(text: bytes, arrays: Sequence[npt.NDArray[Any]], what: str) -> Any:
    """Return the values that `encode_tree` was given; arrays are not copied.

    Args:
        text, arrays: what it has returned.
        what: what to call it in an error.

    Raises:
        DataError: the text is none that `encode_tree` has written.
    """
    try:
        return _decode(json.loads(text), arrays)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DataError(f"{what} makes no sense: {error!r}") from error


def _encode(value: Any, place: str, arrays: Arrays) -> Any:
    """Return a value as JSON's types, its arrays put aside."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind is list:
        return [_encode(item, f"{place}[{at}]", arrays) for at, item in enumerate(value)]
    if kind is tuple:
        return {"tuple": _encode(list(value), place, arrays)}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {k: _encode(v, f"{place}[{k!r}]", arrays) for k, v in value.items()}}
    if kind is dict:
        return {"pairs": _encode([list(pair) for pair in value.items()], place, arrays)}
    if kind is bytes:
        return {"bytes": _put(np.frombuffer(value, np.uint8), arrays)}
    if isinstance(value, np.generic) and value.dtype.kind in KINDS:
        return {"scalar": _put(np.asarray(value), arrays)}
    if kind is np.ndarray and value.dtype.kind in KINDS:
        return {"array": _put(value, arrays)}
    name = f"an array of {value.dtype}" if kind is np.ndarray else f"a {kind.__name__}"
    raise AppError(
        f"{place} is {name}, which cannot be stored in a checkpoint",
        remedy="Use numbers, texts, arrays of numbers, and lists, tuples and dicts of them.",
    )


def _put(array: npt.NDArray[Any], arrays: Arrays) -> int:
    """Put an array aside and return its number."""
    arrays.append(np.asarray(array, order="C"))
    return len(arrays) - 1


def _decode(node: Any, arrays: Sequence[npt.NDArray[Any]]) -> Any:
    """Return the value of a node of the text."""
    if isinstance(node, list):
        return [_decode(item, arrays) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, inner),) = node.items()
    match kind:
        case "float":
            return float(inner)
        case "tuple":
            return tuple(_decode(inner, arrays))
        case "dict":
            return {key: _decode(item, arrays) for key, item in inner.items()}
        case "pairs":
            return dict(_decode(inner, arrays))
        case "bytes":
            return arrays[inner].tobytes()
        case "scalar":
            return arrays[inner][()]
        case "array":
            return arrays[inner]
    raise ValueError(f"there is no kind {kind!r}")
