"""Adds the pushes of several workers in a fixed order, before the update function sees them."""

from collections.abc import Sequence

import numpy as np

from mpips.errors import ProtocolError
from mpips.wire.types import KeyArray, ValueArray


def sum_in_order(parts: Sequence[tuple[KeyArray, ValueArray]]) -> tuple[KeyArray, ValueArray]:
    """Return the union of the keys, sorted, and for each the sum of its values in list order.

    The bits are those of adding one value after the other; a part without a key adds nothing
    to it, not even a zero.

    Args:
        parts: for each worker its keys, uint64 `(n,)`, strictly increasing, and its values,
            `(n, width)`, C-contiguous, of one dtype and width for all.

    Returns:
        The keys, which may be those of a part itself, and new values.

    Raises:
        ProtocolError: there is no part, or a part's values do not fit its keys or the others.

    Cost: one pass for equal key lists; else a merge of each part with the union so far.

    >>> keys, values = sum_in_order([
    ...     (np.array([1, 4], np.uint64), np.array([[1.0], [2.0]])),
    ...     (np.array([4, 9], np.uint64), np.array([[0.5], [3.0]])),
    ... ])
    >>> keys.tolist(), values.ravel().tolist()
    ([1, 4, 9], [1.0, 2.5, 3.0])
    """
    _check(parts)
    keys, first = parts[0]
    values: ValueArray = first.copy()
    for other_keys, other in parts[1:]:
        if _same(keys, other_keys):
            values += other
        else:
            keys, values = _merge(keys, values, other_keys, other)
    return keys, values


def _check(parts: Sequence[tuple[KeyArray, ValueArray]]) -> None:
    """Refuse parts that cannot be added."""
    kinds = {(values.shape[1:], values.dtype.str) for _, values in parts}
    if len(kinds) != 1 or any(len(keys) != len(values) for keys, values in parts):
        shapes = [(len(keys), values.shape, values.dtype.str) for keys, values in parts]
        raise ProtocolError(f"Pushes of different shapes cannot be added: {shapes}.")


def _same(one: KeyArray, other: KeyArray) -> bool:
    """Return whether two key lists are equal; unequal ones mostly differ in length or at ends."""
    if one is other:
        return True
    if len(one) != len(other) or not len(one):
        return len(one) == len(other)
    return bool(one[0] == other[0] and one[-1] == other[-1] and np.array_equal(one, other))


def _merge(
    keys: KeyArray, values: ValueArray, other_keys: KeyArray, other: ValueArray
) -> tuple[KeyArray, ValueArray]:
    """Return the union of two key lists, and the sums of their values."""
    # Equal key lists, the usual case, need no Numba.
    from mpips.store.kernels.merge import merge_add

    room = len(keys) + len(other_keys)
    merged_keys = np.empty(room, np.uint64)
    merged = np.empty((room, values.shape[1]), values.dtype)
    count = merge_add(keys, values, other_keys, other, merged_keys, merged)
    return merged_keys[:count], merged[:count]
