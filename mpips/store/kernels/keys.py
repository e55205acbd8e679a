"""Key lists of minibatches: each one's distinct columns, and the union of two lists."""

import numpy as np
import numpy.typing as npt

from mpips.compiler import njit, types
from mpips.store.kernels.signatures import FLOATS, KEYS, compiled, rows, values_in
from mpips.wire.types import ValueArray

_STARTS = types.Array(types.int64, 1, "C", readonly=True)
_COLUMNS = [types.Array(t, 1, "C", readonly=True) for t in (types.int32, types.int64)]
_KEYS_OUT = types.Array(types.uint64, 1, "C")
_INT32_OUT = types.Array(types.int32, 1, "C")
_INT64_OUT = types.Array(types.int64, 1, "C")


@njit
def _list_distinct(
    columns: npt.NDArray[np.integer],
    seen: npt.NDArray[np.int32],
    found: npt.NDArray[np.uint64],
    places: npt.NDArray[np.int32],
) -> int:
    """Write the distinct columns as they come, and each one's place; return how many they are."""
    count = 0
    for i in range(len(columns)):
        column = columns[i]
        # What is left from before does not lead to this column.
        place = seen[column]
        if place < 0 or place >= count or found[place] != np.uint64(column):
            place = count
            found[count], seen[column] = column, count
            count += 1
        places[i] = place
    return count


@compiled(*[(_STARTS, c, _INT32_OUT, _KEYS_OUT, _INT64_OUT, _INT32_OUT) for c in _COLUMNS])
def number_columns(
    starts: npt.NDArray[np.int64],
    columns: npt.NDArray[np.integer],
    seen: npt.NDArray[np.int32],
    keys: npt.NDArray[np.uint64],
    key_starts: npt.NDArray[np.int64],
    places: npt.NDArray[np.int32],
) -> None:
    """Write the distinct columns of each minibatch, sorted, and each column's place among them.

    Args:
        starts: int64 `(minibatches + 1,)`: minibatch b has the columns `[starts[b], starts[b+1])`.
        columns: int32 or int64 `(nnz,)`, not negative.
        seen: int32, larger than the largest column: scratch, of any content; or `(0,)`.
        keys: uint64 `(nnz,)`: its front is written, minibatch after minibatch.
        key_starts: int64 `(minibatches + 1,)`: where each minibatch's keys begin.
        places: int32 `(nnz,)`.

    Cost: a radix sort of each minibatch by bytes, which has no branch to be foretold wrongly, as
    a hash table has where half of the columns are new. With `seen`, which pays where it stays in
    cache, the distinct columns alone are sorted.
    """
    most = 0
    for b in range(len(starts) - 1):
        most = max(most, starts[b + 1] - starts[b])
    now, later = np.empty(most, np.uint64), np.empty(most, np.uint64)
    at, at_later = np.empty(most, np.int32), np.empty(most, np.int32)
    ranks = np.empty(most, np.int32)
    counts = np.empty(256, np.int64)
    key_starts[0] = 0
    for b in range(len(starts) - 1):
        low, high = starts[b], starts[b + 1]
        count = high - low
        if len(seen):
            count = _list_distinct(columns[low:high], seen, now, places[low:high])
        else:
            for i in range(count):
                now[i] = columns[low + i]
        largest = np.uint64(0)
        for i in range(count):
            at[i], largest = i, max(largest, now[i])

        # Sort by eight bits after eight; what is equal in them keeps its order.
        shift = np.uint64(0)
        while shift < np.uint64(64) and largest >> shift != np.uint64(0):
            counts[:] = 0
            for i in range(count):
                counts[(now[i] >> shift) & np.uint64(255)] += 1
            total = 0
            for i in range(256):
                total, counts[i] = total + counts[i], total
            for i in range(count):
                byte = (now[i] >> shift) & np.uint64(255)
                to = counts[byte]
                counts[byte] = to + 1
                later[to], at_later[to] = now[i], at[i]
            now, later = later, now
            at, at_later = at_later, at
            shift += np.uint64(8)

        # Equal columns are neighbours; the last of them to be written is as good as the first.
        first, number = key_starts[b], -1
        for i in range(count):
            number += i == 0 or now[i] != now[i - 1]
            keys[first + number] = now[i]
            ranks[at[i]] = number
        for i in range(low, high):
            places[i] = ranks[places[i] if len(seen) else i - low]
        key_starts[b + 1] = first + number + 1


@compiled(*[(KEYS, values_in(f), KEYS, _KEYS_OUT, rows(FLOATS[0]), _INT64_OUT) for f in FLOATS])
def unite(
    keys: npt.NDArray[np.uint64],
    values: ValueArray,
    others: npt.NDArray[np.uint64],
    union: npt.NDArray[np.uint64],
    pushed: ValueArray,
    places: npt.NDArray[np.int64],
) -> int:
    """Write the union of two key lists, the first one's values in it, and the other's places.

    Args:
        keys: uint64 `(n,)`, strictly increasing.
        values: float64 or float32 `(n, width)`, of these keys.
        others: uint64 `(m,)`, strictly increasing.
        union: uint64 `(n + m,)`; its front is written.
        pushed: float32 `(n + m, width)`: for each key of the union its value, or 0.
        places: int64 `(m,)`: where the others are in the union.

    Returns:
        The length of the union.
    """
    # Which list goes on is not foretold well: both places are written, and the last time counts.
    own = np.empty(len(keys), np.int64)
    a = b = n = 0
    while a < len(keys) and b < len(others):
        x, y = keys[a], others[b]
        union[n] = min(x, y)
        own[a] = places[b] = n
        a += bool(x <= y)
        b += bool(y <= x)
        n += 1
    for i in range(a, len(keys)):
        union[n] = keys[i]
        own[i] = n
        n += 1
    for i in range(b, len(others)):
        union[n] = others[i]
        places[i] = n
        n += 1
    pushed[:n] = 0
    for i in range(len(keys)):
        for c in range(values.shape[1]):
            pushed[own[i], c] = values[i, c]
    return n
