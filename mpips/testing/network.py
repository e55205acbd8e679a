"""A simulated network: virtual time, and delays from a seed, so that every order happens."""

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from mpips.transport.base import FRAMES_PER_POLL, Frame, Transport, as_bytes

DELAY_S_MEAN: Final = 1e-3


class Network:
    """Carries frames between nodes in virtual time.

    A frame arrives once and whole, after a delay of its own: frames of one sender overtake each
    other, as `Transport` allows. The same seed gives the same delays.

    Attributes:
        now: virtual seconds.
        trace: time, source, dest and bytes of each frame in the order of arrival.
    """

    def __init__(self, size: int, random: np.random.Generator) -> None:
        self.now = 0.0
        self.trace: list[tuple[float, int, int, int]] = []
        self._random = random
        self._inboxes: list[deque[Frame]] = [deque() for _ in range(size)]
        self._flying: list[tuple[float, int, int, Frame]] = []
        self._serial = 0

    def transports(self) -> list[Transport]:
        """Return the ends of the network, by node."""
        return [_SimulatedTransport(node, self) for node in range(len(self._inboxes))]

    def clock(self) -> float:
        """Return the virtual time."""
        return self.now

    def advance(self, until: float) -> int | None:
        """Go to the next arrival, at most to `until`, and return whose it is, if there is one."""
        if not self._flying or self._flying[0][0] > until:
            self.now = until
            return None
        self.now, _, dest, frame = heapq.heappop(self._flying)
        size = len(frame[1]) + sum(array.nbytes for array in frame[2])
        self.trace.append((self.now, frame[0], dest, size))
        self._inboxes[dest].append(frame)
        return dest

    def put(self, dest: int, frame: Frame) -> None:
        """Let a frame fly."""
        self._serial += 1
        arrival = self.now + self._random.exponential(DELAY_S_MEAN)
        heapq.heappush(self._flying, (arrival, self._serial, dest, frame))

    def take(self, node: int) -> list[Frame]:
        """Return what has arrived at a node."""
        inbox = self._inboxes[node]
        return [inbox.popleft() for _ in range(min(len(inbox), FRAMES_PER_POLL))]


@final
class _SimulatedTransport(Transport):
    """A node's end of a `Network`."""

    def __init__(self, node: int, network: Network) -> None:
        super().__init__(node, len(network._inboxes))
        self._network = network

    def send(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]] = ()) -> None:
        copies = [as_bytes(array).copy() for array in payload]
        self._network.put(dest, (self.node, memoryview(bytes(head)), copies))

    def poll(self) -> list[Frame]:
        return self._network.take(self.node)

    def unsent(self) -> int:
        return 0

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        return
