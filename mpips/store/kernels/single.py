"""The look-up of a single key, which is asked for at once and so worth a kernel of its own."""

import numpy as np
import numpy.typing as npt

from mpips.compiler import types
from mpips.store.kernels.index import BASE, SIZE, Parts, _home_in, _next, _part_of
from mpips.store.kernels.signatures import KEYS, compiled


@compiled(
    (
        KEYS,
        types.Array(types.uint64, 2, "C"),
        types.Array(types.uint32, 1, "C"),
        types.Array(types.uint64, 1, "C"),
    )
)
def find_one(
    keys: npt.NDArray[np.uint64],
    parts: Parts,
    index: npt.NDArray[np.uint32],
    table_keys: npt.NDArray[np.uint64],
) -> int:
    """Return the slot of the only key of a list, 0 if it is not there."""
    key = keys[0]
    p = _part_of(key, parts)
    base, size = parts[p, BASE], parts[p, SIZE]
    entry = _home_in(key, parts, p)
    slot = index[entry]
    while slot != 0 and table_keys[slot] != key:
        entry = _next(entry, base, size)
        slot = index[entry]
    return int(slot)
