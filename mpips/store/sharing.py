"""Many rows are worked on in shares, by as many cores as a server has."""

from collections.abc import Callable
from typing import Final

import numpy as np

from mpips.store.update import Slots, Update
from mpips.wire.types import KeyArray, ValueArray

SHARED_MIN: Final = 2**19
"""Numbers or keys from which on it takes less time to do them in shares than to share them out."""

Spread = Callable[[Callable[[int, int], None], int], None]
"""Calls work for ranges [begin, end) that are [0, n) together, at once in several threads, and
returns when all is done."""


class Sharing:
    """Lets several cores do at once what one message wants of many rows.

    The rows of a message are different ones, and an update function gives equal bits in whatever
    pieces they come: so the result is the same.

    Args:
        spread: shares the work out.
    """

    def __init__(self, spread: Spread) -> None:
        self._spread = spread

    def apply(
        self, update: Update, rows: ValueArray, slots: Slots, first: int, values: ValueArray
    ) -> None:
        """Change rows as `Update.apply` does."""
        if values.size < SHARED_MIN or not update.can_be_shared:
            update.apply(rows, slots, first, values)
            return

        def work(begin: int, end: int) -> None:
            update.apply(rows, slots[begin:end], first + begin, values[begin:end])

        self._spread(work, len(values))

    def read(
        self, update: Update, rows: ValueArray, slots: Slots, first: int, out: ValueArray
    ) -> None:
        """Fill `out` as `Update.read` does."""
        if out.size < SHARED_MIN or not update.can_be_shared:
            update.read(rows, slots, first, out)
            return

        def work(begin: int, end: int) -> None:
            update.read(rows, slots[begin:end], first + begin, out[begin:end])

        self._spread(work, len(out))

    def find(self, find: Callable[[KeyArray], Slots], keys: KeyArray) -> Slots:
        """Return the slots of keys, int64 `(n,)`, as `find` does, which must change nothing."""
        if len(keys) < SHARED_MIN:
            return find(keys)
        slots = np.empty(len(keys), np.int64)

        def work(begin: int, end: int) -> None:
            slots[begin:end] = find(keys[begin:end])

        self._spread(work, len(keys))
        return slots
