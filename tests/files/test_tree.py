"""Nested values come back with type and bits, and what cannot be stored is named."""

import json
import math
from typing import Any

import numpy as np
import pytest

from mpips.errors import AppError, DataError
from mpips.files.tree import decode_tree, encode_tree

STREAM = np.random.default_rng(1).bit_generator.state


def same(a: Any, b: Any) -> bool:
    """Return whether two nested values are the same in types and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray | np.generic):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return repr(a) == repr(b)


@pytest.mark.parametrize("value", [
    None, True, 7, 2**200, -0.0, 0.1, math.inf, -math.inf, math.nan, "ä\0\n", b"", b"\0\xff",
    [], {}, (), [1, [2.0, (3, None)]], {"array": 0}, {1: "a", (2, "b"): {"c": b"d"}, None: 0},
    np.float32(0.1), np.int8(-3), np.bool_(True), np.float64("nan"), np.array(5), STREAM,
    np.zeros((0, 3)), np.array([True, False]), np.arange(6, dtype="u8").reshape(2, 3),
    np.array([-0.0, math.nan, 1e-320]), np.array([1 + 2j]), np.arange(5, dtype=">i2"),
    {"deep": [{"w": np.arange(3, dtype="f2")}, (np.int64(1),)]},
], ids=repr)  # fmt: skip
def test_a_value_comes_back_with_type_and_bits(value: Any) -> None:
    text, arrays = encode_tree(value, "it")
    assert same(decode_tree(text, arrays, "it"), value)


def test_an_array_is_stored_in_the_order_of_its_elements() -> None:
    array = np.arange(12).reshape(3, 4).T[::2]
    text, (stored,) = encode_tree(array, "it")
    assert stored.flags.c_contiguous
    assert decode_tree(text, [stored], "it").tolist() == array.tolist()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [0, {1, 2}]}, r"it\['a'\]\[1\] is a set"),
        ({"f": print}, r"it\['f'\] is a builtin"),
        (np.array([None]), "it is an array of object"),
        (np.array(["text"]), "it is an array of <U4"),
        ([np.ma.zeros(2)], r"it\[0\] is a MaskedArray"),
    ],
)
def test_what_cannot_be_stored_is_named_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(AppError, match=message):
        encode_tree(value, "it")


@pytest.mark.parametrize("text", [
    "", "{", '{"array": 1}', '{"array": "x"}', '{"pickle": "x"}', "{}", '{"dict": 1}',
    '{"list": [], "tuple": []}', '{"pairs": [[[], 1]]}', '{"float": "x"}',
    "[" * 99_999, '{"tuple": 5}',
])  # fmt: skip
def test_a_text_without_sense_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="it makes no sense"):
        decode_tree(text.encode(), [np.zeros(1)], "it")


def test_the_text_is_plain_json() -> None:
    text, _ = encode_tree([math.nan, {"a": (1, math.inf)}], "it")
    assert json.loads(text, parse_constant=pytest.fail)
