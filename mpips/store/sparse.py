"""A store where keys come into being when they are first pushed: rows, keys, and an index."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Final, final

import numpy as np

from mpips.errors import ProtocolError, UsageError
from mpips.store.base import Store
from mpips.store.directory import Directory, Run
from mpips.store.frozen import Frozen, Guard
from mpips.store.frozen_keys import FrozenKeys
from mpips.store.reserve import ROWS_MAX, grow_rows, release_rows
from mpips.store.update import NO_SLOTS, Slots
from mpips.wire.types import KeyArray, Table, ValueArray

ABSENT: Final = 0


@final
class SparseStore(Store):
    """The existing keys of the held segments of a sparse table, with their rows.

    Slot 0 belongs to no key: its row stays at the initial state, which is what an absent key
    reads. A key keeps its slot until a segment is dropped or replaced, so that a resolved key
    list stays valid however many keys come after it. Slots of keys that are neighbours lie
    together, as far as they have not come one by one.

    Cost: a look-up is about two cache misses, fewer for long lists. A key takes 8 bytes, its row,
    an eighth of that as room for more, and 6.4 to 9.6 bytes of index. Rows are not copied when
    there are more of them, and parts of the index grow one at a time.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._directory = Directory(table)
        self._rows = np.zeros((len(self._directory.keys), self.update.columns), self.dtype)
        self._rows[ABSENT] = self._initial
        self._frozen_keys: FrozenKeys | None = None
        # Held while keys come or go: a thread may read where those are that were frozen.
        self._guard: Guard | None = None

    def hold_many(self, segments: Iterable[int]) -> None:
        """Take several segments at once, without any key.

        Raises:
            ProtocolError: the table has no such segment, or it is held already.
        """
        self._note_held([*self.held, *self._check_new(segments)])
        with self._guard or nullcontext():
            self._directory.hold(self.held)

    def drop_many(self, segments: Iterable[int]) -> None:
        """Give up several segments at once, at the cost of one.

        Raises:
            ProtocolError: a segment is not held.
        """
        old = self._check_old(segments)
        if old:
            self._note_held(self._held_set.difference(old))
            with self._guard or nullcontext():
                self._before_forgetting(old)
                self._release(self._directory.hold(self.held))

    def resolve(self, keys: KeyArray, insert: bool) -> Slots:
        """Return the row number of each key, int64 `(n,)`, ABSENT for one without a row."""
        self._check_keys(keys)
        if not insert:
            find = self._directory.find
            return find(keys) if self.sharing is None else self.sharing.find(find, keys)
        slots = np.empty(len(keys), np.int64)
        if self._guard is None:
            self._insert(keys, slots)
        else:
            with self._guard:
                self._insert(keys, slots)
        return slots

    def _insert(self, keys: KeyArray, slots: Slots) -> None:
        """Write the slot of each key, int64 `(n,)`, making those that are not there."""
        done, count = 0, len(keys)
        while done < count:
            done = self._directory.insert(keys, done, self._rows, self._initial, slots)
            # Slots that were found are of no use if all have changed.
            if done < count and self._make_room():
                done = 0

    def _place(self, keys: KeyArray, insert: bool) -> tuple[Slots, int]:
        """Return the row of a single key, else the slots of all."""
        if len(keys) != 1:
            return self.resolve(keys, insert), 0
        self._check_keys(keys)
        row = self._directory.find_one(keys)
        if row == ABSENT and insert:
            row = int(self.resolve(keys, True)[0])
        return NO_SLOTS, row

    def read_range(
        self, begin: int, end: int, out: ValueArray | None = None
    ) -> tuple[KeyArray, ValueArray]:
        """Return the existing keys of [begin, end), sorted, and their values, as copies."""
        if out is not None:
            raise ProtocolError(f"A range of the sparse table {self.table.name} has no fixed size.")
        self._check_range(begin, end)
        slots = self._directory.slots_between(begin, end)
        values = np.empty((len(slots), self.update.pull_width), self.dtype)
        self._read(slots, 0, values)
        return self._directory.keys[slots], values

    def snapshot(self, segment: int) -> tuple[KeyArray, ValueArray]:
        """Return the existing keys of a segment, sorted, and their rows, as copies."""
        slots = self._directory.slots_between(*self._check_segment(segment))
        return self._directory.keys[slots], self._rows[slots]

    def freeze(self, guard: Guard) -> Frozen:
        """Keep the state of all held segments as it is now, until `thaw`, for a thread to read."""
        rows = self._freeze(self._directory.used, guard)
        keys = self._frozen_keys = FrozenKeys(self._directory, rows, guard)
        self._guard = guard
        return Frozen(keys.read, rows.close)

    def thaw(self) -> None:
        """Keep what was frozen no longer; whoever still reads it gets `CalledOffError`."""
        super().thaw()
        self._frozen_keys = self._guard = None

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
        self._check_keys(keys)
        with self._guard or nullcontext():
            self._before_forgetting([segment])
            self._release(self._directory.clear(segment))
        slots = self.resolve(keys, insert=True)
        self._rows[slots] = rows

    def statistics(self) -> dict[str, int]:
        """Return the number of `keys` with state, and the `bytes` that they take."""
        slots, entries = self._directory.sizes()
        each = self._directory.keys.itemsize + self._initial.nbytes
        return {"keys": self._directory.count, "bytes": slots * each + 4 * entries}

    def _before_forgetting(self, segments: Iterable[int]) -> None:
        """Keep what is frozen of segments whose keys are forgotten, or change their slots."""
        if self._frozen_keys is not None:
            self._frozen_keys.keep(segments)

    def _are_present(self, slots: Slots, first: int) -> bool:
        return bool((slots != ABSENT).all()) if len(slots) else first != ABSENT

    def _release(self, runs: list[Run]) -> None:
        """Give back the memory of slots whose keys are forgotten."""
        for first, last in runs:
            release_rows(self._rows, first, last)
        self.generation += 1

    def _make_room(self) -> bool:
        """Make room for more slots, and return whether keys have changed theirs."""
        directory = self._directory
        room, used = len(directory.keys), directory.used
        if 2 * directory.sizes()[0] < used:
            # Most slots are of keys that are forgotten.
            self._before_forgetting(self.held)
            kept = directory.renumber()
            self._rows[1 : len(kept) + 1] = self._rows[kept]
            release_rows(self._rows, len(kept) + 1, used)
            self.generation += 1
            return True
        if room == ROWS_MAX:
            raise UsageError(
                f"The table {self.table.name} has more than {ROWS_MAX // 2} keys on one server.",
                "",
                "Use more servers.",
            )
        # Where memory is short, one of both may have room for fewer.
        directory.grow(2 * room)
        rows = grow_rows(self._rows, 2 * room)
        room = min(len(rows), len(directory.keys))
        directory.keys, self._rows = directory.keys[:room], rows[:room]
        return False
