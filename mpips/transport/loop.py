"""A transport between nodes of one process: queues, with the same promises as MPI."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Self

import numpy.typing as npt

from mpips.transport.base import FRAMES_PER_POLL, Bytes, Frame, Transport, as_bytes, is_large


class LoopTransport(Transport):
    """One node of a world of queues; nodes may run in threads of their own."""

    def __init__(self, node: int, inboxes: list[deque[Frame]], dead: set[int]) -> None:
        super().__init__(node, len(inboxes))
        self._inboxes, self._dead = inboxes, dead

    @classmethod
    def world(cls, size: int) -> list[Self]:
        """Return the nodes 0 to size - 1 of a new world.

        >>> import numpy as np
        >>> one, other = LoopTransport.world(2)
        >>> one.send(1, b"hello", [np.array([1, 2], np.uint8)])
        >>> [(source, bytes(head), payload) for source, head, payload in other.poll()]
        [(0, b'hello', [array([1, 2], dtype=uint8)])]
        """
        inboxes: list[deque[Frame]] = [deque() for _ in range(size)]
        dead: set[int] = set()
        return [cls(node, inboxes, dead) for node in range(size)]

    def send(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]] = ()) -> None:
        """Queue a frame for a node; the payload is copied, whatever its size."""
        if self._admit(dest, head, payload) is None:
            return
        # Copies, as over a network: what the sender does to its arrays now stays its own affair.
        copies = [as_bytes(array).copy() for array in payload]
        self._inboxes[dest].append((self.node, memoryview(bytearray(head)), copies))

    def poll(self) -> list[Frame]:
        """Return the frames that are here, at most `FRAMES_PER_POLL`; never blocks."""
        if not self._dead <= self.lost:
            self.dead = frozenset(self._dead)
            self.lost |= self._dead
        inbox = self._inboxes[self.node]
        frames = [inbox.popleft() for _ in range(min(len(inbox), FRAMES_PER_POLL))]
        return [self._receive(*frame) for frame in frames if frame[0] not in self._forgotten]

    def unsent(self) -> int:
        """Return 0, because a frame is in the other's queue at once."""
        return 0

    def flush(self, timeout_s: float) -> bool:
        """Return True, because a frame is in the other's queue at once."""
        return True

    def die(self) -> None:
        """Let this node be dead, for tests: the others notice, and it is not to be used again.

        What it has sent is in the others' queues, and so still arrives.
        """
        self._dead.add(self.node)
        self.close()

    def shrink(self, dead: Collection[int], give_up: Callable[[], None]) -> None:
        """Go on as before: queues do not know of dead nodes."""
        self.shrinks += 1

    def close(self) -> None:
        """Forget the frames that were not fetched."""
        self._inboxes[self.node].clear()

    def _receive(self, source: int, head: memoryview, payload: list[Bytes]) -> Frame:
        sizes = [part.nbytes for part in payload]
        size = len(head) + sum(sizes)
        self._count_received(size)
        # Only a large payload has a place, as over MPI.
        if not is_large(len(head), size):
            return source, head, payload
        buffers = self._buffers(source, head, sizes)
        for buffer, part in zip(buffers, payload, strict=True):
            buffer[:] = part
        return source, head, buffers
