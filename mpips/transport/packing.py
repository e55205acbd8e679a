"""How head and payload lie in one message.

::

    u32  bytes of the head
    u32  number of arrays, plus FOLLOWS if the arrays come in messages of their own
    u64  bytes of each array
         head
         arrays, each at a multiple of 8, unless FOLLOWS

A message that is longer than `MESSAGE_BYTES` travels in two: the first has the bytes of the second
and `LONG`, where the number of arrays would be.

Integers are little-endian. The layout is that of one job's memory, not of a file: both ends run the
same version.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpips.errors import ProtocolError
from mpips.transport.base import Bytes

MESSAGE_BYTES = 4096
"""Bytes of a message that is here, whole, when it is found: the least of MPI's own limits."""

FOLLOWS, LONG = 1 << 31, (1 << 32) - 1

_COUNTS = struct.Struct("<II")
_PADDING = [bytes(count) for count in range(8)]


def pack(head: bytes, arrays: Sequence[npt.NDArray[Any]], follows: bool) -> bytes:
    """Return the message of a frame, with its arrays or, if they follow, only with their sizes.

    The arrays have to be C-contiguous.

    >>> pack(b"hi", [], False).hex(" ", 4)
    '0200 00000000 00006869'
    """
    if not arrays:
        return _COUNTS.pack(len(head), 0) + head
    sizes: list[int] = []
    padded: list[Any] = []
    for array in arrays:
        size = array.nbytes
        sizes.append(size)
        padded += array, _PADDING[-size % 8]
    count = len(sizes)
    if follows:
        return struct.pack(f"<II{count}Q", len(head), count | FOLLOWS, *sizes) + head
    # Everything before the head has a multiple of 8 bytes, so the head alone decides its padding.
    start = struct.pack(f"<II{count}Q", len(head), count, *sizes)
    return b"".join((start, head, _PADDING[-len(head) % 8], *padded))


def cut(arrays: Sequence[Bytes], step: int) -> list[Bytes]:
    """Cut arrays into views of at most `step` bytes; an empty array gives none."""
    return [array[at : at + step] for array in arrays for at in range(0, array.nbytes, step)]


def announce(size: int) -> bytes:
    """Return the message that says how long the one is that comes after it."""
    return _COUNTS.pack(size, LONG)


def announced(message: bytearray) -> int:
    """Return what `announce` was given; 0 if this is the message itself."""
    size, count = _COUNTS.unpack_from(message) if len(message) == _COUNTS.size else (0, 0)
    return size if count == LONG else 0


def head_alone(message: bytearray) -> memoryview | None:
    """Return the head of a frame that has nothing else, as nearly all have; None of others.

    >>> bytes(head_alone(bytearray(pack(b"hi", [], False))))
    b'hi'
    """
    if len(message) < _COUNTS.size or _COUNTS.unpack_from(message)[1]:
        return None
    return memoryview(message)[_COUNTS.size :]


def unpack(message: bytearray) -> tuple[memoryview, list[int], list[Bytes], bool]:
    """Return head, sizes of the arrays, the arrays, and whether they follow in messages.

    Head and arrays are views of the message.

    Raises:
        ProtocolError: the message is shorter than it says.
    """
    if len(message) < _COUNTS.size:
        raise ProtocolError(f"A message of {len(message)} bytes is none of this version.")
    head_size, count = _COUNTS.unpack_from(message)
    if not count:
        return memoryview(message)[_COUNTS.size :], [], [], False
    follows, count = bool(count & FOLLOWS), count & ~FOLLOWS
    start = _COUNTS.size + 8 * count
    end = start + head_size
    if len(message) < end:
        raise ProtocolError(f"A message of {len(message)} bytes is too short for its head.")
    head = memoryview(message)[start:end]
    sizes = list(struct.unpack_from(f"<{count}Q", message, _COUNTS.size))
    arrays = [] if follows else _arrays(message, end, sizes)
    return head, sizes, arrays, follows


def _arrays(message: bytearray, position: int, sizes: list[int]) -> list[Bytes]:
    whole = np.frombuffer(message, np.uint8)
    arrays = []
    for size in sizes:
        position += -position % 8
        arrays.append(whole[position : position + size])
        position += size
    if position > len(message):
        raise ProtocolError(f"A message of {len(message)} bytes is too short for its arrays.")
    return arrays
