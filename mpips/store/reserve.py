"""Memory that has an address for every row of a table, and is taken only where rows are used."""

import contextlib
import mmap
from typing import Any, Final

import numpy as np

from mpips.wire.types import ValueArray

HUGE: Final = 2**21


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
    # More may be reserved than there is memory: other servers have the other rows.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, size, flags=flags)
    # Huge pages would take the neighbours of small parts along, and so the whole table.
    if part * columns * dtype.itemsize < 4 * HUGE and hasattr(mmap, "MADV_NOHUGEPAGE"):
        _advise(memory, mmap.MADV_NOHUGEPAGE, 0, size)
    rows: ValueArray = np.frombuffer(memory, dtype).reshape(count, columns)
    return rows


def release_rows(rows: ValueArray, first: int, last: int) -> None:
    """Give the memory of rows [first, last) of `reserve_rows` back; their values are lost."""
    memory: Any = rows
    while isinstance(memory, np.ndarray) and memory.base is not None:
        memory = memory.base
    if isinstance(memory, memoryview):
        memory = memory.obj
    width = rows.shape[1] * rows.itemsize
    # Pages that are not of these rows alone stay.
    begin = -(-first * width // mmap.PAGESIZE) * mmap.PAGESIZE
    end = last * width // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end and isinstance(memory, mmap.mmap):
        _advise(memory, mmap.MADV_DONTNEED, begin, end - begin)


def _advise(memory: mmap.mmap, advice: int, begin: int, size: int) -> None:
    # A kernel without it keeps the memory, and nothing else is different.
    with contextlib.suppress(OSError):
        memory.madvise(advice, begin, size)
