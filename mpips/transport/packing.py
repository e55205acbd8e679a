"""How head and payload lie in one message.

::

    u32  bytes of the head
    u32  number of arrays, plus FOLLOWS if they come in messages of their own,
         or LENT if they lie in memory that both ends see
    u64  bytes of each array
    3 u64  where they lie, as `Spot`, if LENT
         head
         arrays, each at a multiple of 8, unless FOLLOWS or LENT

A message that is longer than `MESSAGE_BYTES` travels in two: the first has the bytes of the second
and `LONG`, where the number of arrays would be.

Integers are little-endian. The layout is that of one job's memory, not of a file: both ends run the
same version.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mpips.errors import ProtocolError
from mpips.transport.base import Bytes

MESSAGE_BYTES = 4096
"""Bytes of a message that is here, whole, when it is found: the least of MPI's own limits."""

FOLLOWS, LENT, LONG = 1 << 31, 1 << 30, (1 << 32) - 1

_COUNTS, _SPOT = struct.Struct("<II"), struct.Struct("<QQQ")
_PADDING = [bytes(count) for count in range(8)]


class Spot(NamedTuple):
    """Where a payload lies in the sender's memory.

    Attributes:
        begin: its first byte.
        flag: the flag by which the receiver says that it has it.
        number: of the payload, which the flag then has.
    """

    begin: int
    flag: int
    number: int


class Opened(NamedTuple):
    """A message taken apart; head and arrays are views of it.

    Attributes:
        head: of the frame.
        sizes: of its arrays, in bytes.
        arrays: none if they are elsewhere.
        follows: whether they come in messages of their own.
        spot: where they lie in memory that both ends see.
    """

    head: memoryview
    sizes: list[int]
    arrays: list[Bytes]
    follows: bool = False
    spot: Spot | None = None


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


def pack_lent(head: bytes, sizes: Sequence[int], spot: Spot) -> bytes:
    """Return the message of a frame whose arrays, of these sizes, lie in memory."""
    count = len(sizes)
    start = struct.pack(f"<II{count}Q", len(head), count | LENT, *sizes)
    return b"".join((start, _SPOT.pack(*spot), head))


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


def unpack(message: bytearray) -> Opened:
    """Take a message apart.

    Raises:
        ProtocolError: the message is shorter than it says.
    """
    if len(message) < _COUNTS.size:
        raise ProtocolError(f"A message of {len(message)} bytes is none of this version.")
    head_size, kind = _COUNTS.unpack_from(message)
    count = kind & ~(FOLLOWS | LENT)
    at = _COUNTS.size + 8 * count
    start = at + _SPOT.size if kind & LENT else at
    end = start + head_size
    if len(message) < end:
        raise ProtocolError(f"A message of {len(message)} bytes is too short for its head.")
    head = memoryview(message)[start:end]
    sizes = list(struct.unpack_from(f"<{count}Q", message, _COUNTS.size))
    if kind & LENT:
        return Opened(head, sizes, [], False, Spot(*_SPOT.unpack_from(message, at)))
    if kind & FOLLOWS:
        return Opened(head, sizes, [], True)
    return Opened(head, sizes, _arrays(message, end, sizes))


def _arrays(message: bytearray, position: int, sizes: list[int]) -> list[Bytes]:
    if not sizes:
        return []
    whole = np.frombuffer(message, np.uint8)
    arrays = []
    for size in sizes:
        position += -position % 8
        arrays.append(whole[position : position + size])
        position += size
    if position > len(message):
        raise ProtocolError(f"A message of {len(message)} bytes is too short for its arrays.")
    return arrays
