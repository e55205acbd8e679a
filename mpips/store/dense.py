"""A store where every key of a held segment exists: a key is the number of its row."""

from collections.abc import Iterable
from typing import final

import numpy as np

from mpips.errors import ProtocolError
from mpips.store.base import Store
from mpips.store.frozen import Frozen, Guard
from mpips.store.reserve import release_rows, reserve_rows
from mpips.store.update import NO_SLOTS, Slots
from mpips.wire.slices import join_spans
from mpips.wire.types import KeyArray, Table, ValueArray


@final
class DenseStore(Store):
    """The rows of all keys of a dense table, of which those of held segments take memory.

    A key's row has its number, so that a range is one slice, and nothing is copied when segments
    are taken or given up.

    Cost: taking a segment writes its rows, unless they begin with zeros; giving one up returns
    its memory; reading and updating allocates nothing, but 8 bytes a key for key lists.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        part = table.segment_size
        self._rows = reserve_rows(table.size, self.update.columns, self.dtype, part)
        # The segments whose rows are not all zeros any more.
        self._written: set[int] = set()

    def hold_many(self, segments: Iterable[int]) -> None:
        """Take several segments at once, at the cost of one.

        Raises:
            ProtocolError: the table has no such segment, or it is held already.
        """
        new = self._check_new(segments)
        has_zeros = not self._initial.any()
        for segment in new:
            if has_zeros and segment not in self._written:
                continue
            begin, end = self.table.segment_range(segment)
            self._rows[begin:end] = self._initial
        self._written.update(new)
        if new:
            self._note_held([*self.held, *new])

    def drop_many(self, segments: Iterable[int]) -> None:
        """Give up several segments at once, at the cost of one.

        Raises:
            ProtocolError: a segment is not held.
        """
        old = self._check_old(segments)
        if not old:
            return
        self._note_held(self._held_set.difference(old))
        # Neighbours go together: they share pages.
        for begin, end in join_spans(map(self.table.segment_range, old)):
            self._before_change(NO_SLOTS, begin, end - begin)
            release_rows(self._rows, begin, end)
        self.generation += 1

    def resolve(self, keys: KeyArray, insert: bool) -> Slots:
        """Return the row number of each key, int64 `(n,)`; `insert` changes nothing here."""
        self._check_keys(keys)
        # Dense keys are far below 2**63, so their bits are the same as a signed number.
        return keys.view(np.int64)

    def update_range(self, begin: int, end: int, values: ValueArray) -> None:
        """Apply the update function to all keys of [begin, end)."""
        values = self._check_values(values, max(0, end - begin))
        if self._check_range(begin, end) >= 0:
            self._apply(NO_SLOTS, begin, values)

    def read_range(
        self, begin: int, end: int, out: ValueArray | None = None
    ) -> tuple[None, ValueArray]:
        """Return None and the values of [begin, end), in `out` if it is given."""
        self._check_range(begin, end)
        count = max(0, end - begin)
        if out is None:
            out = np.empty((count, self.update.pull_width), self.dtype)
        self._check_out(out, count)
        if count:
            self._read(NO_SLOTS, begin, out)
        return None, out

    def snapshot(self, segment: int) -> tuple[None, ValueArray]:
        """Return None and a copy of the rows of a segment, one for each key."""
        begin, end = self._check_segment(segment)
        return None, self._rows[begin:end].copy()

    def freeze(self, guard: Guard) -> Frozen:
        """Keep the state of all held segments as it is now, until `thaw`, for a thread to read."""
        rows, range_of = self._freeze(len(self._rows), guard), self.table.segment_range
        return Frozen(lambda segment: (None, rows.read_range(*range_of(segment))), rows.close)

    def load(self, segment: int, keys: KeyArray | None, rows: ValueArray) -> None:
        """Replace the rows of a held segment, one for each key; `rows` is copied."""
        begin, end = self._check_segment(segment)
        if keys is not None or rows.shape != (end - begin, self.update.columns):
            raise ProtocolError(
                f"The state of segment {segment} of the table {self.table.name} has the shape"
                f" {rows.shape}, not {(end - begin, self.update.columns)}."
            )
        self._before_change(NO_SLOTS, begin, end - begin)
        self._rows[begin:end] = rows

    def statistics(self) -> dict[str, int]:
        """Return the number of `keys` with state, and the `bytes` that they take."""
        keys = sum(last + 1 - first for first, last in self._bounds)
        return {"keys": keys, "bytes": keys * self.update.columns * self.dtype.itemsize}

    def _place(self, keys: KeyArray, insert: bool) -> tuple[Slots, int]:
        """Return the first row of keys without a gap, else the slots of all."""
        if int(keys[-1]) - int(keys[0]) == len(keys) - 1:
            self._check_keys(keys)
            return NO_SLOTS, int(keys[0])
        return self.resolve(keys, insert), 0
