"""A store where keys come into being when they are first pushed: rows, keys, and an index."""

from collections.abc import Iterable
from typing import Final, final

import numpy as np
import numpy.typing as npt

from mpips.errors import ProtocolError, UsageError
from mpips.store.base import Store
from mpips.store.kernels.index import fill, find, find_or_insert
from mpips.store.update import Slots
from mpips.wire.types import KeyArray, Table, ValueArray

ABSENT: Final = 0
SLOTS_MIN: Final = 1024
SLOTS_MAX: Final = 2**32
# Beyond a load of 4/7 look-ups slow down; at worst the index then takes 14 bytes a key.
LOAD_MAX: Final = (4, 7)


@final
class SparseStore(Store):
    """The existing keys of the held segments of a sparse table, in the order of their arrival.

    Slot 0 belongs to no key: its row stays at the initial state, which is what an absent key
    reads. A key keeps its slot until a segment is dropped or replaced, so that a resolved key
    list stays valid however many keys come after it.

    Cost: a look-up is about two cache misses. A key takes 8 bytes, its row, and 7 to 14 bytes
    of index. Growing copies the rows once per half as many more; ranges are found by a scan.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._used = 1
        self._adopt(np.empty(0, np.uint64), self._rows)

    def hold_many(self, segments: Iterable[int]) -> None:
        """Take several segments at once, without any key.

        Raises:
            ProtocolError: the table has no such segment, or it is held already.
        """
        self._note_held([*self.held, *self._check_new(segments)])

    def drop_many(self, segments: Iterable[int]) -> None:
        """Give up several segments at once, at the cost of one.

        Raises:
            ProtocolError: a segment is not held.
        """
        old = self._check_old(segments)
        self._forget(old)
        self._note_held(self._held_set.difference(old))

    def resolve(self, keys: KeyArray, insert: bool) -> Slots:
        """Return the row number of each key, int64 `(n,)`, ABSENT for one without a row."""
        self._split_by_run(keys)
        slots = np.empty(len(keys), np.int64)
        if not insert:
            find(keys, self._index, self._keys, slots)
            return slots

        # The kernel stops whenever it needs room for a new key.
        done = 0
        while done < len(keys):
            before, limit = self._used, self._limit()
            done, self._used = find_or_insert(
                keys, done, self._index, self._keys, before, limit, slots
            )
            self._rows[before : self._used] = self._initial
            if done < len(keys):
                self._grow()
        return slots

    def read_range(
        self, begin: int, end: int, out: ValueArray | None = None
    ) -> tuple[KeyArray, ValueArray]:
        """Return the existing keys of [begin, end), sorted, and their values, as copies."""
        if out is not None:
            raise ProtocolError(f"A range of the sparse table {self.table.name} has no fixed size.")
        self._check_range(begin, end)
        slots = self._slots_between(begin, end)
        values = np.empty((len(slots), self.update.pull_width), self.dtype)
        self.update.read(self._rows, slots, 0, values)
        return self._keys[slots], values

    def snapshot(self, segment: int) -> tuple[KeyArray, ValueArray]:
        """Return the existing keys of a segment, sorted, and their rows, as copies."""
        slots = self._slots_between(*self._check_segment(segment))
        return self._keys[slots], self._rows[slots]

    def load(self, segment: int, keys: KeyArray | None, rows: ValueArray) -> None:
        """Replace the keys of a held segment and their rows by a snapshot's; both are copied."""
        begin, end = self._check_segment(segment)
        if keys is None or rows.shape != (len(keys), self.update.columns):
            raise ProtocolError(
                f"The state of segment {segment} of the table {self.table.name} has the shape"
                f" {rows.shape}, not a key and {self.update.columns} columns for each row."
            )
        if len(keys) and not (begin <= int(keys[0]) and int(keys[-1]) < end):
            raise ProtocolError(
                f"The state of segment {segment} of the table {self.table.name} has keys from"
                f" {keys[0]} to {keys[-1]}, outside of [{begin}, {end})."
            )
        # Refuse unsorted keys before anything is forgotten.
        self._split_by_run(keys)
        self._forget([segment])
        slots = self.resolve(keys, insert=True)
        self._rows[slots] = rows

    def statistics(self) -> dict[str, int]:
        """Return the number of `keys` with state, and the `bytes` that they take."""
        filled = self._keys[: self._used].nbytes + self._rows[: self._used].nbytes
        return {"keys": self._used - 1, "bytes": filled + self._index.nbytes}

    def _slots_between(self, begin: int, end: int) -> Slots:
        """Return the slots of the existing keys of [begin, end), in the order of keys."""
        if begin >= end:
            return np.empty(0, np.int64)
        # Differences wrap around, so one comparison tells both ends.
        keys = self._keys[1 : self._used]
        inside = keys - np.uint64(begin) <= np.uint64(end - 1 - begin)
        slots = np.flatnonzero(inside) + 1
        return slots[np.argsort(self._keys[slots])]

    def _forget(self, segments: list[int]) -> None:
        """Remove the keys of segments; slots change if there were any."""
        if not segments:
            return
        keep = np.ones(self.table.segments, dtype=np.bool_)
        keep[segments] = False
        keys = self._keys[1 : self._used]
        kept = keep[keys // np.uint64(self.table.segment_size)]
        if not kept.all():
            self._adopt(keys[kept], self._rows[1 : self._used][kept])
            self.generation += 1

    def _adopt(self, keys: KeyArray, rows: ValueArray) -> None:
        """Make these the only keys, in the slots from 1 on; both are copied."""
        self._used = len(keys) + 1
        self._reserve(max(SLOTS_MIN, self._used))
        self._keys[0], self._rows[0] = 0, self._initial
        self._keys[1 : self._used], self._rows[1 : self._used] = keys, rows
        self._build_index()

    def _limit(self) -> int:
        """Return the number of slots that arrays and index have room for."""
        return min(len(self._keys), len(self._index) * LOAD_MAX[0] // LOAD_MAX[1])

    def _grow(self) -> None:
        """Make room for more keys; slots stay."""
        if self._used == SLOTS_MAX:
            raise UsageError(
                f"The table {self.table.name} has more than {SLOTS_MAX - 1} keys on one server.",
                "",
                "Use more servers.",
            )
        if self._used == len(self._keys):
            keys, rows = self._keys, self._rows
            self._reserve(min(SLOTS_MAX, len(keys) * 3 // 2))
            self._keys[: self._used], self._rows[: self._used] = keys, rows
        if self._used >= len(self._index) * LOAD_MAX[0] // LOAD_MAX[1]:
            self._build_index()

    def _reserve(self, slots: int) -> None:
        """Take new arrays for keys and rows; memory is used only as far as they are filled."""
        self._keys: KeyArray = np.empty(slots, np.uint64)
        self._rows = np.empty((slots, self.update.columns), self.dtype)

    def _build_index(self) -> None:
        """Enter all keys into a new index, with room for at least one more."""
        entries = SLOTS_MIN
        while entries * LOAD_MAX[0] // LOAD_MAX[1] <= self._used:
            entries *= 2
        self._index: npt.NDArray[np.uint32] = np.zeros(entries, np.uint32)
        fill(self._index, self._keys, self._used)
