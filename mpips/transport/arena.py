"""Memory of a node from which others on its host read large payloads: one copy in, none out.

The memory is a file without a name, which its process keeps open; others open it by the process's
number, and nothing is left behind, however they die. It is cut into blocks of a few sizes. Whoever
has read a block writes the payload's number into the block's flag, and the block is free again.
Minus the number says that it has seen it, and keeps it for a while.
"""

import functools
import mmap
import os
import secrets
import struct
import sys
import weakref
from pathlib import Path
from typing import Final

import numpy as np

from mpips.transport.base import Bytes

BLOCKS: Final = ((64, 2**14), (16, 2**18 + 2**12), (4, 2**21 + 2**16))
"""How many blocks there are of how many bytes: the last are for whole requests of 2 MiB."""

SHARE: Final = 2
"""Which part of the blocks of one size a single node may have, at most."""

ALIGNED: Final = 64
"""Arrays lie at multiples of so many bytes."""

FILE: Final = "mpips-arena"
PROCESSES: Final = Path("/proc")
BOOT: Final = PROCESSES / "sys/kernel/random/boot_id"

_NAME = struct.Struct("<QQQ16s16s")
_PAGE = 4096


class Block:
    """Some bytes of an arena.

    Attributes:
        begin: its first byte.
        flag: its flag's place.
        number: of the payload that lies in it, or lay in it last.
        dest: the node that is to read it.
    """

    __slots__ = ("begin", "dest", "flag", "number")

    def __init__(self, begin: int, flag: int) -> None:
        self.begin, self.flag = begin, flag
        self.number = self.dest = -1


class Shelf:
    """Blocks of one size.

    Args:
        size: of each, in bytes.
        blocks: all of them, free.
    """

    def __init__(self, size: int, blocks: list[Block]) -> None:
        self.size, self.free = size, blocks
        self.lent: list[Block] = []
        # With what somebody writes into them, or has stopped to.
        self.drafts: list[tuple[Block, Bytes]] = []
        self.most = max(1, len(blocks) // SHARE)


class Arena:
    """The memory of this node, and who has which part of it.

    Raises:
        OSError: the system has no such memory, or no more.

    Attributes:
        name: by which others open it, in bytes.
        close: lets nobody open it any more; who has can go on.

    Cost: 14 MB of addresses; memory is taken when a block is first used.
    """

    def __init__(self) -> None:
        # Linux alone has them, and only Pythons that were built for a Linux of 2018 or later.
        if sys.platform != "linux" or not hasattr(os, "memfd_create"):
            raise OSError("no memory files")
        flags = sum(count for count, _ in BLOCKS)
        begin = _PAGE + -(-8 * flags // _PAGE) * _PAGE
        length = begin + sum(count * size for count, size in BLOCKS)
        file = os.memfd_create(FILE)
        # Kept open, since others open it through this process.
        self.close = weakref.finalize(self, os.close, file)
        os.ftruncate(file, length)
        memory = mmap.mmap(file, length)
        token = secrets.token_bytes(16)
        memory[:16] = token
        self.name = _NAME.pack(os.getpid(), file, length, token, boot())
        self._file_memory, self._flags = memory, flags_of(memory)
        self._memory = np.frombuffer(memory, np.uint8)
        self._shelves: list[Shelf] = []
        self._last = flag = 0
        for count, size in BLOCKS:
            blocks = [Block(begin + n * size, flag + n) for n in reversed(range(count))]
            self._shelves.append(Shelf(size, blocks))
            begin, flag = begin + count * size, flag + count

    def lend(self, dest: int, size: int) -> Block | None:
        """Return a block of at least `size` bytes for a node to read; None if there is none."""
        shelf = self._shelf(size)
        if shelf is None:
            return None
        block = self._take(shelf, dest)
        return None if block is None else self._give(shelf, block, dest)

    def draft(self, dest: int, size: int) -> Bytes | None:
        """Return memory in a block for what is to be sent to a node; None if there is none.

        It is free again when it was sent and read, or when nobody has an array in it.
        """
        shelf = self._shelf(size)
        block = None if shelf is None else self._take(shelf, dest)
        if shelf is None or block is None:
            return None
        whole = np.frombuffer(self._file_memory, np.uint8, size, block.begin)
        shelf.drafts.append((block, whole))
        return whole[:]

    def lend_draft(self, dest: int, array: Bytes) -> Block | None:
        """Return the block that an array fills, as lent to a node; None if it is no draft."""
        shelf = self._shelf(array.nbytes)
        for at, (block, whole) in enumerate(shelf.drafts if shelf else ()):
            if array.base is whole and array.nbytes == whole.nbytes:
                assert shelf is not None
                del shelf.drafts[at]
                return self._give(shelf, block, dest)
        return None

    def unread(self, dest: int, step: int) -> int:
        """Return how many parts of `step` bytes a node has been lent, and has not looked at."""
        flags = self._flags
        return sum(
            max(1, shelf.size // step)
            for shelf in self._shelves
            for block in shelf.lent
            if block.dest == dest and abs(flags[block.flag]) != block.number
        )

    def is_expected(self, dest: int, size: int) -> bool:
        """Tell whether a node that got no block gets one when it has read what it has.

        It does not if it has none, or keeps what it has for later.
        """
        shelf, flags = self._shelf(size), self._flags
        return shelf is not None and any(
            block.dest == dest and flags[block.flag] != -block.number for block in shelf.lent
        )

    def write(self, block: Block, arrays: list[Bytes]) -> None:
        """Copy arrays into a block, each at a multiple of `ALIGNED` bytes."""
        at = block.begin
        for array in arrays:
            self._memory[at : at + array.nbytes] = array
            at += aligned(array.nbytes)

    def reclaim(self, dest: int) -> None:
        """Take back what a dead node has not read."""
        for shelf in self._shelves:
            shelf.free += [block for block in shelf.lent if block.dest == dest]
            shelf.lent = [block for block in shelf.lent if block.dest != dest]

    def _shelf(self, size: int) -> Shelf | None:
        for shelf in self._shelves:
            if size <= shelf.size:
                return shelf
        return None

    def _collect(self, shelf: Shelf) -> None:
        """Take back what has been read."""
        flags = self._flags
        for block in [block for block in shelf.lent if flags[block.flag] == block.number]:
            shelf.lent.remove(block)
            shelf.free.append(block)
        for at in reversed(range(len(shelf.drafts))):
            if references(shelf.drafts[at][1]) == UNUSED:
                shelf.free.append(shelf.drafts.pop(at)[0])

    def _take(self, shelf: Shelf, dest: int) -> Block | None:
        """Take a free block, unless a node has its share; the one read last is in the cache."""
        self._collect(shelf)
        has = sum(block.dest == dest for block in shelf.lent)
        return shelf.free.pop() if shelf.free and has < shelf.most else None

    def _give(self, shelf: Shelf, block: Block, dest: int) -> Block:
        self._last += 1
        block.number, block.dest = self._last, dest
        shelf.lent.append(block)
        return block


def open_arena(name: bytes) -> mmap.mmap | None:
    """Return the memory of an arena; None if it is another host's, or cannot be reached.

    >>> arena = Arena()
    >>> memory = open_arena(arena.name)
    >>> memory is not None, open_arena(b"other")
    (True, None)
    """
    if len(name) != _NAME.size:
        return None
    process, number, length, token, host = _NAME.unpack(name)
    path = PROCESSES / str(process) / "fd" / str(number)
    try:
        # A process of that number may be another one here, whose files are not to be touched.
        if host != boot() or not os.readlink(path).startswith(f"/memfd:{FILE}"):
            return None
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size != length:
                return None
            memory = mmap.mmap(descriptor, length)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return memory if memory[:16] == token else None


def flags_of(memory: mmap.mmap) -> memoryview:
    """Return the flags of an arena, int64."""
    count = sum(count for count, _ in BLOCKS)
    return memoryview(memory)[_PAGE : _PAGE + 8 * count].cast("q")


def references(memory: Bytes) -> int:
    """Return how many references there are to memory that is in a tuple or an attribute."""
    return sys.getrefcount(memory)


def aligned(size: int) -> int:
    """Return how far the next array begins behind the beginning of one.

    >>> aligned(0), aligned(1), aligned(64)
    (0, 64, 64)
    """
    return -(-size // ALIGNED) * ALIGNED


@functools.cache
def boot() -> bytes:
    """Return 16 bytes that tell this host, since it was started, from others; zeros if unknown."""
    try:
        return bytes.fromhex(BOOT.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


UNUSED: Final = next(references(pair[1]) for pair in [(0, np.empty(1, np.uint8))])
"""What `references` returns while nobody has an array in the memory."""
