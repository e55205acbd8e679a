"""The keys of a sparse store as they were at a moment, while others come."""

from collections.abc import Iterable
from typing import Final, final

import numpy as np

from mpips.store.directory import Directory
from mpips.store.frozen import FrozenRows, Guard
from mpips.store.update import Slots
from mpips.wire.types import KeyArray, ValueArray

State = tuple[KeyArray, ValueArray]

_NONE: Final = np.empty(0, np.int64)


@final
class FrozenKeys:
    """The keys of each segment when this was made, with their rows.

    A part of a segment gives out slots one after the other, at first the rest of its extent, then
    new ones. So what it has got since is known by its slots, and nothing need be noted when keys
    come. They must come and go under the guard, under which the index is read, part by part.

    `keep` is for the server, `read` for the reader.

    Cost: the reader keeps keys from coming while it collects a part's slots, 10 ns each.

    Args:
        directory: of the store.
        rows: its frozen rows.
        guard: theirs.
    """

    def __init__(self, directory: Directory, rows: FrozenRows, guard: Guard) -> None:
        self._directory, self._rows, self._guard = directory, rows, guard
        # What grows is copied, or stays where it is; slots below `used` have their keys for good.
        self._keys, self._used = directory.keys, directory.used
        self._extents = directory.extents()
        self._left = set(self._extents)
        self._kept: dict[int, State] = {}

    def keep(self, segments: Iterable[int]) -> None:
        """Copy segments that are not read yet, and whose keys go, or change their slots.

        The guard must be held, then and as long as they do.
        """
        if self._rows.is_over:
            return
        for segment in self._left.intersection(segments).difference(self._kept):
            parts = self._parts(segment)
            self._kept[segment] = self._state([self._slots(segment, part) for part in parts])

    def read(self, segment: int) -> State:
        """Return the keys of a segment, sorted, and their rows; once for each.

        Raises:
            CalledOffError: they have been released.
        """
        found: list[Slots] = []
        for part in self._parts(segment):
            with self._guard:
                self._rows.check()
                if segment in self._kept:
                    break
                found.append(self._slots(segment, part))
        state = self._state(found)
        # They may have gone while they were read, and were kept before.
        with self._guard:
            self._left.discard(segment)
            return self._kept.pop(segment, state)

    def _parts(self, segment: int) -> range:
        return range(len(self._extents[segment]))

    def _slots(self, segment: int, part: int) -> Slots:
        """Return the slots that a part had."""
        slots = self._directory.slots_of(segment, part)
        low, high = self._extents[segment][part].tolist()
        born = (slots >= self._used) | ((slots >= low) & (slots < high))
        there: Slots = slots[~born]
        return there

    def _state(self, found: list[Slots]) -> State:
        slots = np.concatenate([_NONE, *found])
        keys = self._keys[slots]
        order = np.argsort(keys)
        return keys[order], self._rows.read_slots(slots[order])
