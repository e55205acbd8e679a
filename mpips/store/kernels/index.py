"""The index of a sparse store: open addressing from keys to slot numbers.

The index is a uint32 array whose length is a power of two. An entry is the number of a slot, or
0 where there is none; slot 0 belongs to no key. A key starts at its mixed bits and goes on to the
next entry until it meets itself or an empty entry.
"""

import numpy as np
import numpy.typing as npt
from numba import njit, types

from mpips.store.kernels.signatures import KEYS, compiled

_INDEX = types.Array(types.uint32, 1, "C")
_WRITTEN = types.Array(types.int64, 1, "C")
_TABLE = types.Array(types.uint64, 1, "C")


@njit(inline="always")
def mix(key: np.uint64) -> np.uint64:
    """Return the key's bits, mixed so that any part of them depends on all (Stafford's mix 13)."""
    x = key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled((KEYS, _INDEX, _TABLE, _WRITTEN))
def find(
    keys: npt.NDArray[np.uint64],
    index: npt.NDArray[np.uint32],
    table_keys: npt.NDArray[np.uint64],
    slots: npt.NDArray[np.int64],
) -> None:
    """Write the slot of each key, 0 for one that is not there."""
    mask = np.uint64(len(index) - 1)
    for i in range(len(keys)):
        key = keys[i]
        entry = mix(key) & mask
        slot = index[entry]
        while slot != 0 and table_keys[slot] != key:
            entry = (entry + np.uint64(1)) & mask
            slot = index[entry]
        slots[i] = slot


@compiled((KEYS, types.int64, _INDEX, _TABLE, types.int64, types.int64, _WRITTEN))
def find_or_insert(
    keys: npt.NDArray[np.uint64],
    start: int,
    index: npt.NDArray[np.uint32],
    table_keys: npt.NDArray[np.uint64],
    used: int,
    limit: int,
    slots: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Write the slot of each key from `start` on, giving new keys the slots from `used` on.

    Stops before the first new key once `limit` slots are used, for the caller to make room.

    Returns:
        The number of keys done, and the number of slots used.
    """
    mask = np.uint64(len(index) - 1)
    for i in range(start, len(keys)):
        key = keys[i]
        entry = mix(key) & mask
        slot = index[entry]
        while slot != 0 and table_keys[slot] != key:
            entry = (entry + np.uint64(1)) & mask
            slot = index[entry]
        if slot == 0:
            if used == limit:
                return i, used
            index[entry] = used
            table_keys[used] = key
            slots[i] = used
            used += 1
        else:
            slots[i] = slot
    return len(keys), used


@compiled((_INDEX, _TABLE, types.int64))
def fill(index: npt.NDArray[np.uint32], table_keys: npt.NDArray[np.uint64], used: int) -> None:
    """Enter the slots [1, used), all of different keys, into an empty index."""
    mask = np.uint64(len(index) - 1)
    for slot in range(1, used):
        entry = mix(table_keys[slot]) & mask
        while index[entry] != 0:
            entry = (entry + np.uint64(1)) & mask
        index[entry] = slot
