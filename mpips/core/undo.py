"""What segments were before their last update: what a call that is done again has to read.

In the sequential model task t reads what task t - 1 has left. Whoever does the task of a dead
worker again may find it applied already on some segments, since the dead one had pushed to them,
and not on others. So the values that the last update has changed are kept as they were, and the
reader gets all segments as of t - 1 (DESIGN, section 8). More than one update it never has to go
back: the next one needs a push of its own.
"""

from typing import final

import numpy as np

from mpips.core.slicing import Range
from mpips.store.base import Store
from mpips.wire.messages import Before, Pull, Push
from mpips.wire.types import KeyArray, ValueArray


@final
class Undo:
    """The values before the last update of each segment of a sequential table.

    Costs a read of what each update changes, and the memory of it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._before: dict[int, Before] = {}

    def note(self, segment: int, clock: int, where: KeyArray | Range) -> None:
        """Keep the values of keys of a segment, which are about to be updated."""
        last = self._before.get(segment)
        store = self._store
        if isinstance(where, tuple):
            values = store.read_range(*where)[1]
        else:
            values = np.empty((len(where), store.update.pull_width), store.dtype)
            store.read_keys(where, values)
        # A view would keep the whole message.
        begin, end, keys = (*where, None) if isinstance(where, tuple) else (0, 0, where.copy())
        previous = last.clock if last else 0
        self._before[segment] = Before(clock, previous, begin, end, keys, values)

    def take(self, segment: int) -> Before | None:
        """Return what a segment was before its last update, for a copy of it."""
        return self._before.get(segment)

    def put(self, segment: int, before: Before | None) -> None:
        """Take over what a segment was, whose values have been replaced; None: forget it."""
        self._before.pop(segment, None)
        if before is not None:
            self._before[segment] = before

    def rewind(
        self, message: Push | Pull, keys: KeyArray | None, values: ValueArray
    ) -> dict[int, int]:
        """Make the values of an answer those that there were when the reader last pushed.

        Args:
            message: the pull, or the push that also pulls; its clock is the reader's last one.
            keys: of the values, if they are those of a sparse table's range.
            values: `(n, pull width)`, of the keys of the message; changed in place.

        Returns:
            By segment, where something was undone: the clock of the update before.
        """
        at, clocks = 0, {}
        for segment, _, begin, count in message.slices:
            span, at = slice(at, at + count), at + count
            before = self._before.get(segment)
            if before is None or not before.previous <= message.clock < before.clock:
                continue
            clocks[segment] = before.previous
            if keys is not None:
                # Keys that exist are in no fixed places: look at all of the segment's.
                first = int(np.searchsorted(keys, np.uint64(begin)))
                last = int(np.searchsorted(keys, np.uint64(begin + count - 1), side="right"))
                span = slice(first, last)
                asked = keys[span]
            elif message.keys is not None:
                asked = message.keys[span]
            else:
                asked = np.arange(begin, begin + count, dtype=np.uint64)
            _put_back(before, asked, values[span])
        return clocks


def _put_back(before: Before, keys: KeyArray, values: ValueArray) -> None:
    """Write the old values of keys over the new ones."""
    if before.keys is None:
        places = keys - np.uint64(before.begin)
        there = places < np.uint64(before.end - before.begin)
    else:
        places = np.searchsorted(before.keys, keys).astype(np.uint64)
        there = places < np.uint64(len(before.keys))
        there[there] = before.keys[places[there].astype(np.int64)] == keys[there]
    values[there] = before.values[places[there].astype(np.int64)]
