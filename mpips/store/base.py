"""What every store can do: hold segments of a table, update keys, and read them."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np

from mpips.errors import ProtocolError
from mpips.store.frozen import Frozen, FrozenRows, Guard
from mpips.store.resolved import NEVER, ResolvedLists
from mpips.store.sharing import Sharing
from mpips.store.update import Slots, Update
from mpips.store.updates import find_update
from mpips.wire.types import KeyArray, Table, ValueArray


class Store(ABC):
    """The keys of some segments of one table, with the state of its update function.

    Keys come as uint64 `(n,)`, strictly increasing, all in held segments. Values come and go as
    C-contiguous arrays of the table's dtype, `(n, push_width)` and `(n, pull_width)`.

    A key list that comes again and again is resolved once: `resolve` gives the numbers of its
    rows, which `update_slots` and `read_slots` take for as long as `generation` stays the same;
    of lists that it is told to `keep`, the store remembers them itself.

    Args:
        table: what the keys and values are.

    Attributes:
        table: the same.
        update: the table's update function.
        dtype: NumPy's dtype of values and state.
        generation: grows whenever resolved slots become invalid.
        held: the segments held, ascending.
        owned: those of them that this server answers for; the others are copies.
        sharing: lets several cores work on long messages; None: one does.

    Raises:
        ConfigError: the table's update function is unknown, or a setting of it is wrong.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.update: Update = find_update(table.update, table.settings, table.width)
        self.dtype: np.dtype[np.floating] = np.dtype(table.dtype)
        self.generation = 0
        self.owned: tuple[int, ...] = ()
        self.sharing: Sharing | None = None
        self._initial = self.update.initial_row(self.dtype)
        self._kept = ResolvedLists()
        self._rows: ValueArray = np.empty((0, self.update.columns), self.dtype)
        self._frozen: FrozenRows | None = None
        self._note_held(())

    def hold(self, segment: int) -> None:
        """Take a segment, its keys at their initial state.

        Raises:
            ProtocolError: the table has no such segment, or it is held already.
        """
        self.hold_many([segment])

    def drop(self, segment: int) -> None:
        """Give up a segment and forget the state of its keys.

        Raises:
            ProtocolError: the segment is not held.
        """
        self.drop_many([segment])

    @abstractmethod
    def hold_many(self, segments: Iterable[int]) -> None:
        """Take several segments at once, at the cost of one."""

    @abstractmethod
    def drop_many(self, segments: Iterable[int]) -> None:
        """Give up several segments at once, at the cost of one."""

    @abstractmethod
    def resolve(self, keys: KeyArray, insert: bool) -> Slots:
        """Return the row number of each key, int64 `(n,)`.

        Args:
            keys: uint64 `(n,)`, strictly increasing, all in held segments.
            insert: whether a sparse store makes a row for a key that has none, which
                `update_slots` needs; else an absent key gets `sparse.ABSENT`, which may be read.

        Raises:
            ProtocolError: keys are not strictly increasing, or not all held.
        """

    @abstractmethod
    def read_range(
        self, begin: int, end: int, out: ValueArray | None = None
    ) -> tuple[KeyArray | None, ValueArray]:
        """Return the keys of [begin, end) and their values.

        Args:
            begin: first key.
            end: one after the last key; all segments between must be held.
            out: dense only: where to put the values, `(end - begin, pull_width)`.

        Returns:
            Dense: None and all values. Sparse: the keys that exist, sorted, and their values.
            Both are copies.

        Raises:
            ProtocolError: a key of the range is not held.
        """

    @abstractmethod
    def snapshot(self, segment: int) -> tuple[KeyArray | None, ValueArray]:
        """Return a copy of the whole state of a segment, sorted by key.

        Returns:
            Dense: None and a row for each key. Sparse: the existing keys and a row for each.
            Rows are `(n, columns)` of the table's dtype.

        Raises:
            ProtocolError: the segment is not held.
        """

    @abstractmethod
    def freeze(self, guard: Guard) -> Frozen:
        """Keep the state of all held segments as it is now, until `thaw`, for a thread to read.

        Takes microseconds: what changes later is copied aside before, and no more than once. Who
        reads what an earlier call has frozen gets `CalledOffError`.

        Args:
            guard: a reentrant lock that nobody else has.

        Returns:
            What gives the snapshots of segments as of now, which may be asked in another thread.
        """

    def thaw(self) -> None:
        """Keep what was frozen no longer; whoever still reads it gets `CalledOffError`."""
        if self._frozen is not None:
            self._frozen.release()
        self._frozen = None

    @abstractmethod
    def load(self, segment: int, keys: KeyArray | None, rows: ValueArray) -> None:
        """Replace the state of a held segment by a snapshot of it; `rows` is copied.

        Raises:
            ProtocolError: the segment is not held, or the snapshot does not fit it.
        """

    @abstractmethod
    def statistics(self) -> dict[str, int]:
        """Return the number of `keys` with state, and the `bytes` that they take."""

    def update_keys(self, keys: KeyArray, values: ValueArray) -> None:
        """Apply the update function to keys; a sparse store makes the absent ones first.

        Args:
            keys: uint64 `(n,)`, strictly increasing, all in held segments.
            values: the table's dtype `(n, push_width)`; not kept, not changed.

        Raises:
            ProtocolError: keys are not increasing or not held, or values do not fit.
        """
        values = self._check_values(values, len(keys))
        if len(keys):
            # Making keys may move the rows to a larger array: find the keys first.
            slots, first = self._locate(keys, insert=True)
            self._apply(slots, first, values)

    def update_range(self, begin: int, end: int, values: ValueArray) -> None:
        """Apply the update function to all keys of [begin, end), which is for dense stores.

        Args:
            begin: first key.
            end: one after the last key; all segments between must be held.
            values: the table's dtype `(end - begin, push_width)`; not kept, not changed.

        Raises:
            ProtocolError: the store is sparse, a key is not held, or values do not fit.
        """
        raise ProtocolError(
            f"A push of the whole range [{begin}, {end}) to the sparse table {self.table.name}."
        )

    def update_slots(self, slots: Slots, values: ValueArray) -> None:
        """Apply the update function to rows that `resolve(keys, insert=True)` has found.

        Raises:
            ProtocolError: values do not fit.
        """
        values = self._check_values(values, len(slots))
        if len(slots):
            self._apply(slots, 0, values)

    def read_keys(self, keys: KeyArray, out: ValueArray) -> None:
        """Fill `out`, the table's dtype `(n, pull_width)`, with the values of keys.

        An absent key of a sparse store reads as a new one would, and is not made.

        Raises:
            ProtocolError: keys are not increasing or not held, or `out` does not fit.
        """
        self._check_out(out, len(keys))
        if len(keys):
            slots, first = self._locate(keys, insert=False)
            self._read(slots, first, out)

    def read_slots(self, slots: Slots, out: ValueArray) -> None:
        """Fill `out`, the table's dtype `(n, pull_width)`, with the values of resolved rows.

        Raises:
            ProtocolError: `out` does not fit.
        """
        self._check_out(out, len(slots))
        if len(slots):
            self._read(slots, 0, out)

    def _freeze(self, count: int, guard: Guard) -> FrozenRows:
        """Freeze the rows there are."""
        self.thaw()
        self._frozen = FrozenRows(self._rows, count, guard)
        return self._frozen

    def _apply(self, slots: Slots, first: int, values: ValueArray) -> None:
        """Apply the update function to rows that there are: all pushes end here."""
        self._before_change(slots, first, len(values))
        if self.sharing is None:
            self.update.apply(self._rows, slots, first, values)
        else:
            self.sharing.apply(self.update, self._rows, slots, first, values)

    def _read(self, slots: Slots, first: int, out: ValueArray) -> None:
        """Fill `out` with the values of rows: all pulls end here."""
        if self.sharing is None:
            self.update.read(self._rows, slots, first, out)
        else:
            self.sharing.read(self.update, self._rows, slots, first, out)

    def _before_change(self, slots: Slots, first: int, count: int) -> None:
        """Keep what is frozen of rows of this very memory that change: call it before any does.

        Rows that move to new memory need no call, if the old memory is left as it is.
        """
        if self._frozen is not None:
            self._frozen.keep(self._rows, slots, first, count)

    def keep(self, keys: KeyArray) -> None:
        """Resolve a list, uint64 `(n,)`, once for all times that this very array is given.

        It must not change any more.
        """
        self._kept.keep(keys)

    def forget(self, keys: KeyArray) -> None:
        """Resolve a list each time again."""
        self._kept.forget(keys)

    def _locate(self, keys: KeyArray, insert: bool) -> tuple[Slots, int]:
        """Return where keys are, as `_place` does, without a look-up if it is kept."""
        kept = self._kept.find(keys)
        if kept is None:
            return self._place(keys, insert)
        if kept.generation != self.generation:
            kept.slots, kept.first = self._place(keys, insert)
            # Keys that are absent may come into being.
            is_whole = insert or self._are_present(kept.slots, kept.first)
            kept.generation = self.generation if is_whole else NEVER
        return kept.slots, kept.first

    def _are_present(self, slots: Slots, first: int) -> bool:
        """Return whether keys at these places exist."""
        return True

    def _place(self, keys: KeyArray, insert: bool) -> tuple[Slots, int]:
        """Return where keys are, as update functions take it: slots, or the first row."""
        return self.resolve(keys, insert), 0

    def _check_values(self, values: ValueArray, count: int) -> ValueArray:
        """Return pushed values as the kernels need them; a copy only where that is needed."""
        if values.shape != (count, self.update.push_width):
            raise ProtocolError(
                f"Values of shape {values.shape} were pushed for {count} keys"
                f" of the table {self.table.name}, whose push width is {self.update.push_width}."
            )
        if values.dtype == self.dtype and values.flags.carray:
            return values
        return np.require(values, self.dtype, ("C_CONTIGUOUS", "ALIGNED"))

    def _check_out(self, out: ValueArray, count: int) -> None:
        """Refuse an array that values cannot be written to directly."""
        shape = (count, self.update.pull_width)
        if out.shape != shape or out.dtype != self.dtype or not out.flags.carray:
            raise ProtocolError(
                f"The table {self.table.name} cannot write values of shape {shape} and type"
                f" {self.dtype} into an array of shape {out.shape} and type {out.dtype}."
            )

    def _check_range(self, begin: int, end: int) -> int:
        """Return the run of held segments that [begin, end) lies in; -1 if it is empty."""
        if begin >= end:
            return -1
        run = bisect_right(self._firsts, begin) - 1
        if run >= 0 and end - 1 <= self._bounds[run][1]:
            return run
        raise self._not_held(f"keys [{begin}, {end})")

    def _check_segment(self, segment: int) -> tuple[int, int]:
        """Return the key range [begin, end) of a segment that must be held."""
        if segment not in self._held_set:
            raise self._not_held(f"segment {segment}")
        return self.table.segment_range(segment)

    def _check_keys(self, keys: KeyArray) -> None:
        """Refuse keys that are not strictly increasing, or not all held.

        Raises:
            ProtocolError: they are not.
        """
        if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
            raise ProtocolError(
                f"Keys for the table {self.table.name} are not strictly increasing."
            )
        # Most often all lie in one run of segments, and this is known by the ends.
        if len(keys):
            first = keys.item(0)
            run = bisect_right(self._firsts, first) - 1
            last = first if len(keys) == 1 else keys.item(-1)
            if run >= 0 and last <= self._bounds[run][1]:
                return
        begins = np.searchsorted(keys, self._run_first)
        counts = np.searchsorted(keys, self._run_last, side="right") - begins
        if counts.sum() != len(keys):
            raise self._not_held(f"all of {len(keys)} keys from {keys[0]} to {keys[-1]}")

    def _not_held(self, what: str) -> ProtocolError:
        return ProtocolError(f"The table {self.table.name} does not hold {what} here.")

    def _check_new(self, segments: Iterable[int]) -> list[int]:
        """Return segments to take, sorted, none of them held yet."""
        new = sorted(segments)
        wrong = [s for s in new if not 0 <= s < self.table.segments or s in self._held_set]
        if wrong or len(set(new)) < len(new):
            raise ProtocolError(f"The table {self.table.name} cannot take the segments {new} here.")
        return new

    def _check_old(self, segments: Iterable[int]) -> list[int]:
        """Return segments to give up, all of them held."""
        old = sorted(segments)
        if not self._held_set.issuperset(old):
            raise self._not_held(f"all of the segments {old}")
        return old

    def _note_held(self, segments: Iterable[int]) -> None:
        """Note which segments are held, and the runs of keys that they make without a gap."""
        self._held_set = frozenset(segments)
        self.held = tuple(sorted(self._held_set))
        firsts: list[int] = []
        lasts: list[int] = []
        for begin, end in map(self.table.segment_range, self.held):
            if begin == end:
                continue
            if lasts and lasts[-1] == begin - 1:
                lasts[-1] = end - 1
            else:
                firsts.append(begin)
                lasts.append(end - 1)
        self._firsts, self._bounds = firsts, list(zip(firsts, lasts, strict=True))
        # Last keys are inclusive, because 2**64 is no uint64.
        self._run_first = np.array(firsts, dtype=np.uint64)
        self._run_last = np.array(lasts, dtype=np.uint64)
