"""Memory that has an address for every row there may be, and is taken only where rows are used."""

import contextlib
import mmap
from bisect import bisect_left
from typing import Any, Final, final

import numpy as np

from mpips.wire.types import ValueArray

HUGE: Final = 2**21
SMALL: Final = 2**16
"""Rows up to which a growing array is copied to a larger one."""

ROWS_MAX: Final = 2**32


def reserve_rows(count: int, columns: int, dtype: np.dtype, part: int) -> ValueArray:
    """Return rows `(count, columns)` of zeros; memory is taken page by page as they are written.

    Args:
        count: number of rows.
        columns: their length.
        dtype: of the values.
        part: rows that are used or not used as a whole.
    """
    size = count * columns * dtype.itemsize
    if not size:
        return np.empty((count, columns), dtype)
    memory = _map(size)
    # Huge pages would take the neighbours of small parts along, and so the whole table.
    if part * columns * dtype.itemsize < 4 * HUGE and hasattr(mmap, "MADV_NOHUGEPAGE"):
        _advise(memory, mmap.MADV_NOHUGEPAGE, 0, size)
    rows: ValueArray = np.frombuffer(memory, dtype).reshape(count, columns)
    return rows


def grow_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """Return an array of at least `count` rows: those of `rows`, then zeros.

    Beyond `SMALL` rows it has addresses for all that there may ever be, so that it need not be
    copied again; where the system does not allow that, for as many as it allows.

    Args:
        rows: of one or two axes.
        count: how many there shall be.
    """
    width = rows.itemsize * (rows.shape[1] if rows.ndim > 1 else 1)
    room = max(count, ROWS_MAX) if count > SMALL else 0
    while room >= count:
        with contextlib.suppress(OSError, OverflowError):
            memory = _map(room * width)
            # Keys are scattered over all rows: each look-up would miss the table of small pages.
            if hasattr(mmap, "MADV_HUGEPAGE"):
                _advise(memory, mmap.MADV_HUGEPAGE, 0, room * width)
            grown = np.frombuffer(memory, rows.dtype).reshape(room, *rows.shape[1:])
            break
        room //= 2
    else:
        grown = np.zeros((count, *rows.shape[1:]), rows.dtype)
    grown[: len(rows)] = rows
    return grown


def release_rows(rows: np.ndarray, first: int, last: int) -> None:
    """Give the memory of rows [first, last) of a reserve back; their values are lost.

    Rows that lie in no reserve stay as they are.
    """
    memory: Any = rows
    while isinstance(memory, np.ndarray) and memory.base is not None:
        memory = memory.base
    if isinstance(memory, memoryview):
        memory = memory.obj
    width = rows.strides[0]
    # Pages that are not of these rows alone stay.
    begin = -(-first * width // mmap.PAGESIZE) * mmap.PAGESIZE
    end = last * width // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end and isinstance(memory, mmap.mmap):
        _advise(memory, mmap.MADV_DONTNEED, begin, end - begin)


@final
class Leftovers:
    """Rows of a reserve that are of use no more, given back when they make up huge pages.

    A huge page of which a part is given back becomes small pages, and what else is on it is found
    more slowly.

    Args:
        rows: the reserve.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        self._each = max(1, HUGE // rows.strides[0])
        self._edge = -rows.ctypes.data % HUGE // rows.strides[0]
        self._runs: list[tuple[int, int]] = []
        self._count = 0

    def add(self, first: int, last: int, count_max: int) -> None:
        """Take rows [first, last); give back all that there are if they are too many."""
        self._count += last - first
        at = bisect_left(self._runs, (first, last))
        if at < len(self._runs) and self._runs[at][0] == last:
            last = self._runs.pop(at)[1]
        if at and self._runs[at - 1][1] == first:
            at -= 1
            first = self._runs.pop(at)[0]
        begin = -(-(first - self._edge) // self._each) * self._each + self._edge
        end = (last - self._edge) // self._each * self._each + self._edge
        if self._count > count_max:
            begin, end = first, last
        left = [(first, last)]
        if begin < end:
            release_rows(self._rows, begin, end)
            self._count -= end - begin
            left = [(low, high) for low, high in ((first, begin), (end, last)) if low < high]
        self._runs[at:at] = left


def _map(size: int) -> mmap.mmap:
    # More may be reserved than there is memory: other servers have the other rows.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(-1, size, flags=flags)


def _advise(memory: mmap.mmap, advice: int, begin: int, size: int) -> None:
    # A kernel without it keeps the memory, and nothing else is different.
    with contextlib.suppress(OSError):
        memory.madvise(advice, begin, size)
