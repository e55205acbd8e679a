"""Memory for large arrays that is used again once nobody has a view of it."""

import sys
from collections.abc import Callable
from typing import Final, final

import numpy as np
import numpy.typing as npt

LARGE: Final = 2**16
"""Bytes below which NumPy's own memory is as good."""

LIMIT: Final = 2**26

Outside = Callable[[int], npt.NDArray[np.uint8] | None]


@final
class Buffers:
    """Blocks of memory, each given out while nobody else has an array in it.

    A view of an array counts as a reference to the block that it lies in, so nobody has to give
    anything back. Fresh memory costs a page fault for each 4 KiB, which is as much as the copy of
    it; and the block that was used last is in the cache.

    Args:
        limit: bytes that are kept at most; beyond it memory is fresh each time.
        outside: asked first for large arrays: it may have memory that is better for them.

    Attributes:
        given: bytes of all that was given out.

    >>> buffers = Buffers()
    >>> one = buffers.take(100_000)
    >>> is_shared = np.shares_memory(one, buffers.take(100_000))
    >>> where = one.ctypes.data
    >>> del one
    >>> is_shared, buffers.take(90_000).ctypes.data == where
    (False, True)
    """

    def __init__(self, limit: int = LIMIT, outside: Outside | None = None) -> None:
        self._left, self.given = limit, 0
        self._outside = outside
        self._blocks: dict[int, list[npt.NDArray[np.uint8]]] = {}
        # How many references to a block there are while `take` looks at one that is free.
        self._free = 0
        self._free = self._references([np.empty(1, np.uint8)])

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """Return memory of `size` bytes, uint8 `(size,)`, with anything in it."""
        self.given += size
        if size < LARGE:
            return np.empty(size, np.uint8)
        if self._outside and (given := self._outside(size)) is not None:
            return given
        room = 1 << (size - 1).bit_length()
        blocks = self._blocks.setdefault(room, [])
        at = self._references(blocks, True)
        if at >= 0:
            return blocks[at][:size]
        if room > self._left:
            return np.empty(size, np.uint8)
        self._left -= room
        blocks.append(np.empty(room, np.uint8))
        return blocks[-1][:size]

    def empty(self, rows: int, width: int, dtype: np.dtype) -> np.ndarray:
        """Return an array `(rows, width)` with anything in it."""
        size = rows * width * dtype.itemsize
        if size < LARGE:
            self.given += size
            return np.empty((rows, width), dtype)
        return self.take(size).view(dtype).reshape(rows, width)

    def _references(self, blocks: list[npt.NDArray[np.uint8]], find: bool = False) -> int:
        """Return the references to the first block, or the place of one that is free, or -1."""
        for at, block in enumerate(blocks):
            count = sys.getrefcount(block)
            if not find:
                return count
            if count == self._free:
                return at
        return -1
