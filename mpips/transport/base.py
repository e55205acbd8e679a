"""What every transport promises, whatever carries the frames.

A frame is a head, a few bytes that say what it is, and a payload, some arrays. The promises,
which `mpips.testing.contract.TransportContract` holds every transport to:

- a frame arrives once, whole and unchanged, or its receiver or sender is gone;
- a death is no error: it is seen in `lost`, and what goes on between the others is not disturbed;
- frames arrive in *no* order: a small frame overtakes a large one of the same sender;
- `send` and `poll` never block and never wait for the other side.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mpips.errors import ProtocolError

Bytes = npt.NDArray[np.uint8]

Frame = tuple[int, memoryview, list[Bytes]]
"""Source node, head, payload."""

Place = Callable[[int, memoryview, list[int]], list[Bytes] | None]
"""Says where a large payload is to be received: source, head and sizes in bytes to arrays."""

SMALL_FRAME = 4096 - 64
"""Bytes of head and payload up to which a frame is copied and travels as one message."""

FRAMES_PER_POLL = 64
"""Frames that one `poll` returns at most, so that an event loop stays responsive."""


@dataclass(slots=True)
class Traffic:
    """Counts frames, and the bytes of their heads and payloads, since the start."""

    frames_sent: int = 0
    bytes_sent: int = 0
    frames_received: int = 0
    bytes_received: int = 0


class Transport(ABC):
    """Sends frames to nodes and hands over those that came; for one thread.

    Attributes:
        node: the number of this node, from 0.
        size: how many nodes there are.
        place: asked where the payload of a frame of more than `SMALL_FRAME` bytes shall be
            received, by `poll` and where a death is noticed; answers writable C-contiguous uint8
            arrays of exactly the sizes asked for, or None where nobody minds. They belong to the
            transport until the frame is returned, for ever if its sender is lost before.
        room: gives so many bytes of memory for what has no place.
        lost: the nodes known to be dead, and those forgotten; `poll` and `flush` add to it, and
            nobody ever leaves it. Frames of a dead node that were here before may still come.
        dead: those of them of whom the carrier itself says so.
        shrinks: how often the world was made smaller.
        has_moved: whether the last `poll` has brought large payloads on, so that the next one is
            likely to find something.
    """

    def __init__(self, node: int, size: int) -> None:
        self.node = node
        self.size = size
        self.place: Place | None = None
        self.room: Callable[[int], Bytes] = _fresh
        self.lost: frozenset[int] = frozenset()
        self.dead: frozenset[int] = frozenset()
        self.shrinks = 0
        self.has_moved = False
        self._forgotten: frozenset[int] = frozenset()
        self._traffic = Traffic()

    @abstractmethod
    def send(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]] = ()) -> None:
        """Queue a frame for a node, which may be this one; never blocks.

        A frame for a lost node is dropped, and not counted. One that was queued before the node
        was lost has arrived or has not.

        Args:
            dest: the node that shall have the frame.
            head: any bytes.
            payload: C-contiguous arrays of any shape and dtype but object. They are copied at
                once if head and payload together have at most `SMALL_FRAME` bytes. Larger ones
                are *not* copied: leave them unchanged until `unsent` is 0, an answer came, or
                the node is lost.

        Raises:
            ProtocolError: there is no such node, or an array is not C-contiguous.
        """

    @abstractmethod
    def poll(self) -> list[Frame]:
        """Return the frames that are here, at most `FRAMES_PER_POLL`; never blocks.

        The arrays are uint8, one for each array sent, in their order, writable, and 8-byte
        aligned where the transport allocated them. They belong to the caller; those of a small
        frame share one allocation with its head.

        A frame of a node that dies is returned whole or not at all.

        Raises:
            ProtocolError: the carrier failed otherwise than by a death, or `place` answered
                nonsense. From then on only `close` makes sense.
        """

    def draft(self, dest: int, size: int) -> Bytes | None:
        """Return memory for an array to be sent to a node, if some is better than any other.

        It is uint8 `(size,)` with anything in it. Once it was sent, neither read it nor write to
        it: it is the receiver's. If it is not sent it is free again when nobody has an array in it.
        """
        return None

    @abstractmethod
    def unsent(self) -> int:
        """Return how many messages to nodes that are not lost have not left.

        At 0 all arrays sent may be changed again.
        """

    def backlog(self, dest: int) -> int:
        """Return how many parts of large payloads to a node have not left: at most 1 MiB each.

        Those that are in memory which it can read have not left until it has looked at them.
        """
        return 0

    @abstractmethod
    def flush(self, timeout_s: float) -> bool:
        """Wait until everything has left, at most so many seconds, and tell whether it has.

        Goes on receiving meanwhile (or two nodes could wait for each other); what comes is
        returned by the next calls of `poll`. For nodes that are lost nobody waits.

        Raises:
            ProtocolError: as `poll`.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of everything without waiting; what has not left may be lost."""

    @abstractmethod
    def shrink(self, dead: Collection[int], give_up: Callable[[], None]) -> None:
        """Go on without the dead, together with all other nodes, which have to do the same.

        All frames have to be here: one that is still on its way never comes. Nodes keep their
        numbers. Over MPI it waits for all others, and kills this process if that takes too long
        or fails: somebody has died meanwhile, and nothing else is safe.

        Args:
            dead: the nodes that are known to be dead.
            give_up: called in a thread before this process is killed because that takes too long.
        """

    def forget(self, node: int) -> None:
        """Treat a node as lost from now on, though it may be alive: a process that has stopped.

        It is in `lost` at once, what is under way to it or from it is given up, and no frame of it
        is returned any more, be it here already or not. Nothing is told to it.

        Args:
            node: another node; to forget one twice, or one that is dead, is no mistake.

        Raises:
            ProtocolError: there is no such node, or it is this one.
        """
        if not 0 <= node < self.size or node == self.node:
            raise ProtocolError(f"Node {self.node} of {self.size} cannot forget node {node}.")
        self.lost |= {node}
        self._forgotten |= {node}

    def statistics(self) -> Traffic:
        """Return a copy of the counters."""
        return replace(self._traffic)

    def _admit(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]]) -> int | None:
        """Refuse a frame that cannot be sent, count it, and return its bytes.

        Returns None if there is nobody any more to get it.
        """
        if not 0 <= dest < self.size:
            raise ProtocolError(f"There is no node {dest}, only 0 to {self.size - 1}.")
        size = len(head)
        for array in payload:
            if not array.flags.c_contiguous:
                raise ProtocolError("An array to be sent is not C-contiguous.")
            size += array.nbytes
        if dest in self.lost:
            return None
        traffic = self._traffic
        traffic.frames_sent += 1
        traffic.bytes_sent += size
        return size

    def _count_received(self, size: int) -> None:
        traffic = self._traffic
        traffic.frames_received += 1
        traffic.bytes_received += size

    def _wanted(self, source: int, head: memoryview, sizes: list[int]) -> list[Bytes] | None:
        """Return the arrays that somebody wants a large payload received in, if anybody does."""
        buffers = self.place(source, head, sizes) if self.place else None
        # Receiving into an array that does not fit would destroy memory.
        if buffers is not None and (
            [buffer.nbytes for buffer in buffers] != sizes or not all(map(_is_fit, buffers))
        ):
            raise ProtocolError(f"The place for a payload from node {source} does not fit it.")
        return buffers

    def _buffers(self, source: int, head: memoryview, sizes: list[int]) -> list[Bytes]:
        """Return the arrays that a large payload shall be received in."""
        wanted = self._wanted(source, head, sizes)
        return [self.room(size) for size in sizes] if wanted is None else wanted


def _fresh(size: int) -> Bytes:
    return np.empty(size, np.uint8)


def is_large(head_size: int, size: int) -> bool:
    """Tell whether a payload travels uncopied, and is received in a place of its own.

    Args:
        head_size: bytes of the head.
        size: bytes of the head and the payload.
    """
    return size > SMALL_FRAME and size > head_size


def as_bytes(array: npt.NDArray[Any]) -> Bytes:
    """Return the memory of a C-contiguous array as a flat uint8 array, not copied.

    >>> as_bytes(np.array([[1, 2]], "<u2"))
    array([1, 0, 2, 0], dtype=uint8)
    """
    flat: Bytes = array.reshape(-1).view(np.uint8)
    return flat


def _is_fit(buffer: Bytes) -> bool:
    flags = buffer.flags
    return buffer.dtype == np.uint8 and buffer.ndim == 1 and flags.c_contiguous and flags.writeable
