"""A store where every key of a held segment exists: one array, positions instead of an index."""

from collections.abc import Iterable
from typing import final

import numpy as np
import numpy.typing as npt

from mpips.errors import ProtocolError
from mpips.store.base import Store
from mpips.store.update import NO_SLOTS, Slots
from mpips.wire.types import KeyArray, Table, ValueArray


@final
class DenseStore(Store):
    """All held segments of a dense table in one array, in the order of their keys.

    Keys of adjacent held segments lie without a gap, so a range over them is one slice.
    A key's row is `key + shift`, with one shift for each run of adjacent segments.

    Cost: taking or giving up segments copies the whole array once; reading and updating
    allocates nothing for ranges, and 8 bytes a key for key lists that are not resolved.
    """

    def __init__(self, table: Table) -> None:
        self._shift: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._position: dict[int, int] = {}
        super().__init__(table)

    def hold_many(self, segments: Iterable[int]) -> None:
        """Take several segments at once, at the cost of one.

        Raises:
            ProtocolError: the table has no such segment, or it is held already.
        """
        self._rearrange(sorted([*self.held, *self._check_new(segments)]))

    def drop_many(self, segments: Iterable[int]) -> None:
        """Give up several segments at once, at the cost of one.

        Raises:
            ProtocolError: a segment is not held.
        """
        old = set(self._check_old(segments))
        self._rearrange([segment for segment in self.held if segment not in old])

    def resolve(self, keys: KeyArray, insert: bool) -> Slots:
        """Return the row number of each key, int64 `(n,)`; `insert` changes nothing here."""
        counts = self._split_by_run(keys)
        # Dense keys are far below 2**63, so their bits are the same as a signed number.
        return keys.view(np.int64) + np.repeat(self._shift, counts)

    def update_range(self, begin: int, end: int, values: ValueArray) -> None:
        """Apply the update function to all keys of [begin, end)."""
        values = self._check_values(values, max(0, end - begin))
        run = self._check_range(begin, end)
        if run >= 0:
            self.update.apply(self._rows, NO_SLOTS, begin + int(self._shift[run]), values)

    def read_range(
        self, begin: int, end: int, out: ValueArray | None = None
    ) -> tuple[None, ValueArray]:
        """Return None and the values of [begin, end), in `out` if it is given."""
        run = self._check_range(begin, end)
        count = max(0, end - begin)
        if out is None:
            out = np.empty((count, self.update.pull_width), self.dtype)
        self._check_out(out, count)
        if run >= 0:
            self.update.read(self._rows, NO_SLOTS, begin + int(self._shift[run]), out)
        return None, out

    def snapshot(self, segment: int) -> tuple[None, ValueArray]:
        """Return None and a copy of the rows of a segment, one for each key."""
        begin, end = self._check_segment(segment)
        first = self._position[segment]
        return None, self._rows[first : first + end - begin].copy()

    def load(self, segment: int, keys: KeyArray | None, rows: ValueArray) -> None:
        """Replace the rows of a held segment, one for each key; `rows` is copied."""
        begin, end = self._check_segment(segment)
        if keys is not None or rows.shape != (end - begin, self.update.columns):
            raise ProtocolError(
                f"The state of segment {segment} of the table {self.table.name} has the shape"
                f" {rows.shape}, not {(end - begin, self.update.columns)}."
            )
        first = self._position[segment]
        self._rows[first : first + end - begin] = rows

    def statistics(self) -> dict[str, int]:
        """Return the number of `keys` with state, and the `bytes` that they take."""
        return {"keys": len(self._rows), "bytes": self._rows.nbytes}

    def _place(self, keys: KeyArray, insert: bool) -> tuple[Slots, int]:
        """Return the first row of keys without a gap, else the slots of all."""
        if int(keys[-1]) - int(keys[0]) == len(keys) - 1:
            # Held keys without a gap lie in one run, which has all of them.
            run = np.argmax(self._split_by_run(keys))
            return NO_SLOTS, int(keys[0]) + int(self._shift[run])
        return self.resolve(keys, insert), 0

    def _rearrange(self, segments: list[int]) -> None:
        """Make the array for these segments, with the old rows of those held before."""
        if tuple(segments) == self.held:
            return
        ranges = [self.table.segment_range(segment) for segment in segments]
        sizes = [end - begin for begin, end in ranges]
        starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        position = dict(zip(segments, starts.tolist(), strict=False))
        rows = np.empty((int(starts[-1]), self.update.columns), self.dtype)

        # Copy what was held; a new segment starts at the initial state.
        for segment, size in zip(segments, sizes, strict=True):
            target = rows[position[segment] : position[segment] + size]
            if segment in self._position:
                source = self._position[segment]
                target[:] = self._rows[source : source + size]
            else:
                target[:] = self._initial

        # All old row numbers are wrong from here on.
        self._rows, self._position = rows, position
        self._note_held(segments)
        self.generation += 1
        lengths = (self._run_last - self._run_first).astype(np.int64) + 1
        self._shift = np.cumsum(lengths) - lengths - self._run_first.astype(np.int64)
