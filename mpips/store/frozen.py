"""The state of a store as it was at a moment, read by a thread while pushes go on changing it.

Freezing notes which rows there are, and copies none. A push that is about to change rows first
copies their pages aside: it costs about as much again as it touches, once for each page. The reader
copies pieces of the live rows, and then looks which of their pages were kept aside meanwhile:
these it takes from there, whatever it has read.

Why that is right: the server keeps pages in the order *copy aside, mark under the guard, change*;
the reader reads in the order *copy, look at the marks under the guard, mend*. If the server held
the guard first, the reader sees the mark, and what is aside is whole. Else the reader had copied
before the server began to change. All that it takes is that a lock orders memory.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from mpips.store.reserve import release_rows, reserve_rows
from mpips.store.update import Slots
from mpips.wire.types import KeyArray, ValueArray

Guard = AbstractContextManager[Any]
"""A lock, held for some microseconds."""


class Frozen(NamedTuple):
    """What a store gives to whoever reads it as it was.

    Attributes:
        read: returns what `Store.snapshot` of a segment would have returned at that moment; once
            for each segment. It raises `CalledOffError` when the store keeps nothing any more.
        close: to be called when all is read, so that nothing is kept in vain.
    """

    read: Callable[[int], tuple[KeyArray | None, ValueArray]]
    close: Callable[[], None]


PAGE_BYTES: Final = 512
"""What is copied aside at once, at least."""

PIECE_BYTES: Final = 4 << 20
"""What is read, or copied aside, in one go: each costs both sides some turns at Python's lock."""

LIVE: Final = 0
READ: Final = -1
"""The places of pages that are nowhere aside: not yet, or not any more. Others count from 1."""


class CalledOffError(Exception):
    """What was frozen is not kept any more, so that it cannot be read to its end."""


@final
class FrozenRows:
    """Rows as they were when this was made.

    `keep` and `release` are for the server, the other methods for the reader.

    Cost: four bytes a page, and the rows of all pages that are changed before they are read: in
    the worst case all rows once more. A push takes about two to four times as long as ever where
    it changes pages for the first time.

    Args:
        rows: of a store, C-contiguous; may be replaced there by others, but not be moved in place.
        count: how many of them there are.
        guard: keeps the two sides apart.

    Attributes:
        is_over: whether they are kept no more.
    """

    def __init__(self, rows: ValueArray, count: int, guard: Guard) -> None:
        width = max(1, rows.shape[1] * rows.itemsize)
        # A page is a power of two of rows, so that their numbers tell it by a shift.
        self._shift = max(0, (PAGE_BYTES - 1) // width).bit_length()
        self._size = 1 << self._shift
        self._rows, self._count, self._guard = rows, count, guard
        pages = -(-count // self._size)
        self._places = np.zeros(pages, np.int32)
        # Addresses for all, memory for what is kept, one page behind the other.
        self._aside = reserve_rows(pages * self._size, rows.shape[1], rows.dtype, self._size)
        self._kept = 0
        self._piece = max(1, PIECE_BYTES // (width * self._size)) * self._size
        self.is_over = False

    @property
    def kept_bytes(self) -> int:
        """Return how much was copied aside."""
        return int(self._aside[: self._kept * self._size].nbytes)

    def keep(self, rows: ValueArray, slots: Slots, first: int, count: int) -> None:
        """Copy what has not been read aside, of rows that are about to change.

        Args:
            rows: the store's; nothing is done if they are in other memory than the frozen ones.
            slots: int64 `(n,)` of rows; empty: the `count` rows from `first` on.
            first: see there.
            count: see there.
        """
        if self.is_over or not np.may_share_memory(rows, self._rows):
            return
        if len(slots):
            pages = slots[slots < self._count] >> self._shift
            pages = _distinct(pages[self._places[pages] == LIVE])
        else:
            low, high = min(first, self._count), min(first + count, self._count)
            begin, end = low >> self._shift, -(-high >> self._shift) if high > low else 0
            pages = begin + np.flatnonzero(self._places[begin:end] == LIVE)
        step = self._piece >> self._shift
        for at in range(0, len(pages), step):
            self._copy_aside(pages[at : at + step])

    def release(self) -> None:
        """Keep nothing any more; a reader that has not come to its end gets an error."""
        with self._guard:
            self.is_over = True

    def close(self) -> None:
        """Release the rows and, piece by piece, their memory: the server would stop for it."""
        self.release()
        step = 4 * self._piece
        for first in range(0, self._kept * self._size, step):
            release_rows(self._aside, first, first + step)

    def read_range(self, begin: int, end: int) -> ValueArray:
        """Return a copy of the rows [begin, end), which may then not be read again.

        Raises:
            CalledOffError: they have been released.
        """
        # Whole pages are read, also at both ends.
        first, last = begin >> self._shift, -(-end >> self._shift)
        out = np.empty(((last - first) << self._shift, self._rows.shape[1]), self._rows.dtype)
        step = self._piece >> self._shift
        for page in range(first, last, step):
            after = min(last, page + step)
            low, high = page << self._shift, min(after << self._shift, self._count)
            part = out[low - (first << self._shift) :][: (after - page) << self._shift]
            _copy(self._rows, low, high, part[: high - low])
            self._mend(np.arange(page, after), part.reshape(after - page, -1))
        # Pages that go on outside of the range will be asked for again.
        whole = last if end == self._count else end >> self._shift
        self._places[-(-begin >> self._shift) : whole] = READ
        return out[begin - (first << self._shift) :][: end - begin]

    def read_slots(self, slots: Slots) -> ValueArray:
        """Return a copy of rows, in the order of their numbers, int64 `(n,)`.

        Raises:
            CalledOffError: they have been released.
        """
        out = np.empty((len(slots), self._rows.shape[1]), self._rows.dtype)
        for at in range(0, len(slots), self._piece):
            some, part = slots[at : at + self._piece], out[at : at + self._piece]
            _copy_slots(self._rows, some, part)
            self._mend(some >> self._shift, part, some & (self._size - 1))
        return out

    def check(self) -> None:
        """Raise an error if the rows are kept no more.

        Raises:
            CalledOffError: they are not.
        """
        if self.is_over:
            raise CalledOffError

    def _copy_aside(self, pages: npt.NDArray[np.int64]) -> None:
        """Copy live pages, distinct and ascending, and then say where they are."""
        whole, kept = self._count >> self._shift, self._kept
        self._kept += len(pages)
        # The last page may end before its rows do.
        if int(pages[-1]) == whole:
            left = self._rows[whole << self._shift : self._count]
            at = (self._kept - 1) << self._shift
            self._aside[at : at + len(left)] = left
        inner = pages[: np.searchsorted(pages, whole)]
        if len(inner):
            rows = self._rows[: whole << self._shift].reshape(whole, -1)
            aside = self._aside.reshape(len(self._places), -1)[kept : kept + len(inner)]
            np.take(rows, inner, axis=0, out=aside, mode="clip")
        with self._guard:
            self._places[pages] = np.arange(kept + 1, self._kept + 1)

    def _mend(
        self, pages: npt.NDArray[np.int64], part: ValueArray, rows: Slots | None = None
    ) -> None:
        """Replace what was kept aside before it was copied.

        Args:
            pages: their numbers.
            part: copies of the pages, each as one row; or of one row of each.
            rows: which row of each page that is; None: all of it.
        """
        with self._guard:
            self.check()
            places = self._places[pages]
        kept = np.flatnonzero(places > 0)
        if not len(kept):
            return
        at = places[kept].astype(np.int64) - 1
        if rows is None:
            part[kept] = self._aside.reshape(len(self._places), -1)[at]
        else:
            part[kept] = self._aside[(at << self._shift) + rows[kept]]


def _copy(rows: ValueArray, low: int, high: int, out: ValueArray) -> None:
    """Copy rows that may change meanwhile."""
    np.copyto(out, rows[low:high])


def _copy_slots(rows: ValueArray, slots: Slots, out: ValueArray) -> None:
    """Copy rows that may change meanwhile."""
    # Mode "clip" lets NumPy write to `out` without a buffer between.
    np.take(rows, slots, axis=0, out=out, mode="clip")


def _distinct(pages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return numbers ascending, each once."""
    pages = np.sort(pages)
    is_first = np.ones(len(pages), np.bool_)
    np.not_equal(pages[1:], pages[:-1], out=is_first[1:])
    return pages[is_first]
