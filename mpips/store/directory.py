"""Where the keys of a sparse table are: the parts of the held segments, and their memory."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final, final

import numpy as np
import numpy.typing as npt

from mpips.store.kernels import index as kernel
from mpips.store.kernels.index import (
    BASE,
    BEGIN,
    COLUMNS,
    COUNT,
    END,
    FIRST,
    FREED,
    FREED_MAX,
    LAST,
    NEXT,
    SIZE,
    SLOTS,
    USED_ENTRIES,
    USED_SLOTS,
)
from mpips.store.kernels.single import find_one
from mpips.store.reserve import SMALL, Leftovers, grow_rows, release_rows
from mpips.store.update import Slots
from mpips.wire.types import KEY_SPACE, KeyArray, Table, ValueArray

PARTS_MIN: Final = 256
"""Parts of a table at least: a message is stopped by the growth of some of them."""

Run = tuple[int, int]

ROOM_MIN: Final = 256
WASTE: Final = 8
"""Which part of the index may be of use no more, before its memory is given back at any price."""

RUN_MIN: Final = 512
"""Slots in a row whose memory is worth giving back."""


@final
class Directory:
    """Gives keys their slots, by a hash table for each part of each held segment.

    Slots are given out once; those of keys that are forgotten have no memory any more.

    Attributes:
        keys: uint64 `(room,)`: the key of each slot.
        used: from which slot on they are free; slot 0 belongs to no key.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._each = -(-PARTS_MIN // table.segments)
        self._parts: npt.NDArray[np.uint64] = np.zeros((FIRST, COLUMNS), np.uint64)
        self._parts[0, [USED_SLOTS, USED_ENTRIES]] = 1
        self._held: list[int] = []
        self._index: npt.NDArray[np.uint32] = np.zeros(ROOM_MIN, np.uint32)
        self._leftovers = Leftovers(self._index)
        self.keys: KeyArray = np.zeros(ROOM_MIN, np.uint64)

    @property
    def used(self) -> int:
        """Return the first slot that was never given out."""
        return int(self._parts[0, USED_SLOTS])

    @property
    def count(self) -> int:
        """Return the number of keys."""
        return int(self._parts[FIRST:, COUNT].sum())

    def sizes(self) -> tuple[int, int]:
        """Return the number of slots that parts have, and of the entries of their areas."""
        return int(self._parts[FIRST:, SLOTS].sum()), int(self._parts[FIRST:, SIZE].sum())

    def hold(self, segments: Iterable[int]) -> list[Run]:
        """Hold these segments: new ones are empty, and those not among them are forgotten.

        Returns:
            Runs of slots [first, last) of which the memory is to be given back.
        """
        new = sorted(segments)
        parts = self._parts[FIRST:].reshape(-1, self._each, COLUMNS)
        rows = dict(zip(self._held, parts, strict=True))
        gone = sorted(set(rows).difference(new))
        runs = [run for segment in gone for run in self._release(*self._rows_of(segment))]
        kept = [rows[s] if s in rows else self._make(s) for s in new]
        self._parts = np.concatenate([self._parts[:FIRST], *kept])
        self._held = new
        return runs

    def clear(self, segment: int) -> list[Run]:
        """Forget the keys of a held segment, and return runs of slots as `hold` does."""
        first, end = self._rows_of(segment)
        runs = self._release(first, end)
        self._parts[first:end] = self._make(segment)
        return runs

    def find(self, keys: KeyArray) -> Slots:
        """Return the slot of each key, 0 for one that is not there; keys must be held."""
        slots = np.empty(len(keys), np.int64)
        kernel.find(keys, self._parts, self._index, self.keys, slots)
        return slots

    def find_one(self, keys: KeyArray) -> int:
        """Return the slot of the only key of a list, as `find` does in twice the time."""
        return int(find_one(keys, self._parts, self._index, self.keys))

    def insert(
        self, keys: KeyArray, start: int, rows: ValueArray, initial: ValueArray, slots: Slots
    ) -> int:
        """Write the slot of each key from `start` on, and return how many are done.

        If that is not all, there is no slot left: `grow` or `renumber` has to be called.

        Args:
            keys: uint64 `(n,)`, strictly increasing, of held segments.
            start: where to begin.
            rows: `(len(self.keys), columns)`, where new keys begin with `initial`.
            initial: `(columns,)`.
            slots: int64 `(n,)`, to be written.
        """
        while True:
            start, wants_slots = kernel.find_or_insert(
                keys, start, self._parts, self._index, self.keys, rows, initial, slots
            )
            freed = int(self._parts[0, FREED])
            if freed:
                self._give_back(freed)
            if start == len(keys) or wants_slots:
                return start
            if freed < FREED_MAX:
                self._move_areas()

    def grow(self, slots: int) -> None:
        """Take memory for more slots."""
        self.keys = grow_rows(self.keys, slots)

    def renumber(self) -> Slots:
        """Give keys new slots, from 1 on, in the order of the old ones, which are returned."""
        old, used = np.sort(self._collect(FIRST, len(self._parts))), self.used
        self.keys[1 : len(old) + 1] = self.keys[old]
        numbers = np.zeros(used, np.uint32)
        numbers[old] = np.arange(1, len(old) + 1, dtype=np.uint32)
        for base, size in self._parts[FIRST:, [BASE, SIZE]].tolist():
            area = self._index[base : base + size]
            area[:] = numbers[area]
        self._parts[FIRST:, [NEXT, END]] = 0
        self._parts[FIRST:, SLOTS] = self._parts[FIRST:, COUNT]
        self._parts[0, USED_SLOTS] = len(old) + 1
        release_rows(self.keys, len(old) + 1, used)
        return old

    def slots_between(self, begin: int, end: int) -> Slots:
        """Return the slots of the existing keys of [begin, end), in the order of keys."""
        if begin >= end:
            return np.empty(0, np.int64)
        lasts = self._parts[FIRST:, LAST]
        first, last = np.searchsorted(lasts, np.array([begin, end - 1], np.uint64)).tolist()
        slots = self._collect(FIRST + first, min(FIRST + last + 1, len(self._parts)))
        keys = self.keys[slots]
        # Differences wrap around, so one comparison tells both ends.
        inside = keys - np.uint64(begin) <= np.uint64(end - 1 - begin)
        return slots[inside][np.argsort(keys[inside])]

    def extents(self) -> dict[int, npt.NDArray[np.int64]]:
        """Return the slots [next, end) that each part may give out, by segment, `(parts, 2)`."""
        parts = self._parts[FIRST:].reshape(-1, self._each, COLUMNS)[:, :, [NEXT, END]]
        return dict(zip(self._held, parts.astype(np.int64), strict=True))

    def slots_of(self, segment: int, part: int) -> Slots:
        """Return the slots of the keys of a part of a held segment, in no order."""
        at = self._rows_of(segment)[0] + part
        return self._collect(at, at + 1)

    def _make(self, segment: int) -> npt.NDArray[np.uint64]:
        """Return the rows of the parts of a segment without keys."""
        begin, end = self._table.segment_range(segment)
        each = -(-(end - begin) // self._each)
        parts = np.zeros((self._each, COLUMNS), np.uint64)
        for part in range(self._each):
            low, high = (min(begin + at * each, end) for at in (part, part + 1))
            parts[part, [BEGIN, LAST]] = min(low, KEY_SPACE - 1), high - 1
        return parts

    def _rows_of(self, segment: int) -> tuple[int, int]:
        first = FIRST + bisect_left(self._held, segment) * self._each
        return first, first + self._each

    def _collect(self, first: int, end: int) -> Slots:
        """Return the slots of some parts, in no order."""
        slots = np.empty(int(self._parts[first:end, COUNT].sum()), np.int64)
        kernel.collect(first, end, self._parts, self._index, slots)
        return slots

    def _release(self, first: int, end: int) -> list[Run]:
        """Give back the memory of some parts, and return the runs of slots that it was."""
        most = self.sizes()[1] // WASTE
        for base, size in self._parts[first:end, [BASE, SIZE]].tolist():
            self._leftovers.add(base, base + size, most)
        slots = np.sort(self._collect(first, end))
        edges = np.flatnonzero(np.diff(slots) != 1) + 1
        runs = [(int(run[0]), int(run[-1]) + 1) for run in np.split(slots, edges) if len(run)]
        runs = [(low, high) for low, high in runs if high - low >= RUN_MIN]
        for low, high in runs:
            release_rows(self.keys, low, high)
        return runs

    def _give_back(self, many: int) -> None:
        """Give back the memory of so many areas that are of use no more."""
        most = self.sizes()[1] // WASTE
        for base, end in self._parts[1 : 1 + many, :2].tolist():
            self._leftovers.add(base, end, most)
        self._parts[0, FREED] = 0

    def _move_areas(self) -> None:
        """Take a larger index, and put all areas at its front."""
        # Where half of it was of no use, there is room enough once areas have moved.
        old, room = self._index, len(self._index)
        if 2 * self.sizes()[1] > room or room <= SMALL:
            room *= 2
        self._index = grow_rows(old[:0], room)
        self._leftovers = Leftovers(self._index)
        at = 1
        for part in self._parts[FIRST:]:
            base, size = int(part[BASE]), int(part[SIZE])
            self._index[at : at + size] = old[base : base + size]
            part[BASE] = at if size else 0
            at += size
        self._parts[0, USED_ENTRIES] = at
