"""Merges two sorted key lists, adding the values of keys that are in both."""

import numpy as np
import numpy.typing as npt

from mpips.compiler import types
from mpips.store.kernels.signatures import FLOATS, KEYS, compiled, rows, values_in
from mpips.wire.types import ValueArray

_MERGED = types.Array(types.uint64, 1, "C")


@compiled(*[(KEYS, values_in(f), KEYS, values_in(f), _MERGED, rows(f)) for f in FLOATS])
def merge_add(
    keys_a: npt.NDArray[np.uint64],
    values_a: ValueArray,
    keys_b: npt.NDArray[np.uint64],
    values_b: ValueArray,
    keys: npt.NDArray[np.uint64],
    values: ValueArray,
) -> int:
    """Write the union of the keys and, for each, a's value plus b's; return its length.

    A key of one list only keeps the bits of its value. The outputs have room for both lists.
    """
    width = values.shape[1]
    a = b = n = 0
    while a < len(keys_a) or b < len(keys_b):
        if b == len(keys_b) or (a < len(keys_a) and keys_a[a] < keys_b[b]):
            keys[n] = keys_a[a]
            for c in range(width):
                values[n, c] = values_a[a, c]
            a += 1
        elif a == len(keys_a) or keys_b[b] < keys_a[a]:
            keys[n] = keys_b[b]
            for c in range(width):
                values[n, c] = values_b[b, c]
            b += 1
        else:
            keys[n] = keys_a[a]
            for c in range(width):
                values[n, c] = values_a[a, c] + values_b[b, c]
            a += 1
            b += 1
        n += 1
    return n
