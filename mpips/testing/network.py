"""A simulated network: virtual time, and delays and copies from a seed: every order happens."""

import heapq
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from mpips.errors import ProtocolError
from mpips.testing.faults import CALM, COPIES_MAX, Faults
from mpips.transport.base import FRAMES_PER_POLL, Frame, Transport, as_bytes
from mpips.wire.frame import Codec
from mpips.wire.quiet import QUIET

TAIL_FACTOR: Final = 100.0

ARRIVES: Final = 0.5
"""The chance that a frame of a node that dies, on its way then, arrives."""

BODY: Final = 16
TAG_BYTES: Final = 4
"""A message is an array whose first element, below 128, says its type, after 1 to 3 bytes."""

UNCOUNTED: Final = frozenset(kind.__name__ for kind in QUIET)
"""The names of messages that no count of frames waits for."""

DELAY_S_MAX: Final = 10.0
"""No frame takes longer: the scheduler gives nodes 30 s to stop, and 120 s to come."""


WATCHDOG_S: Final = 10.0
"""How long a node waits in a shrink for the others, until it is killed."""


class Arrival(NamedTuple):
    """A line of the trace: when a frame, or a copy of one, has reached a node."""

    seconds: float
    source: int
    dest: int
    size: int
    message: str
    copy: int


class Network:
    """Carries frames between nodes in virtual time.

    A frame arrives whole, after a delay of its own, and perhaps again: frames of one sender
    overtake each other, as `Transport` allows. The same seed gives the same delays.

    Attributes:
        now: virtual seconds.
        faults: those that new frames meet.
        trace: the frames in the order of arrival.
        copies: how many frames were sent once more.
    """

    def __init__(self, size: int, random: np.random.Generator, faults: Faults = CALM) -> None:
        self.now = 0.0
        self.faults = faults
        self.trace: list[Arrival] = []
        self.copies = 0
        self._random = random
        self._codec = Codec()
        self._names: dict[bytes, str] = {}
        self._inboxes: list[deque[tuple[int, Frame]]] = [deque() for _ in range(size)]
        self._flying: list[tuple[float, int, int, int, Frame, int]] = []
        self._serial = 0
        # By dead node: when each of the others is told.
        self._deaths: dict[int, list[float]] = {}
        # By node that is cut off: until when.
        self._cut_off: dict[int, float] = {}
        # By node: how often it has shrunk, and what has come from those who have once more.
        self._worlds = [0] * size
        self._early: list[list[tuple[int, Frame, int]]] = [[] for _ in range(size)]
        # By node that waits for others in a shrink: until when, and what comes too late for it.
        self._blocked: dict[int, float] = {}
        self._late: list[list[tuple[int, Frame]]] = [[] for _ in range(size)]

    def transports(self) -> list[Transport]:
        """Return the ends of the network, by node."""
        return [_SimulatedTransport(node, self) for node in range(len(self._inboxes))]

    def clock(self) -> float:
        """Return the virtual time."""
        return self.now

    @property
    def has_deaths(self) -> bool:
        """Return whether anybody is dead."""
        return bool(self._deaths)

    @property
    def flying(self) -> int:
        """Return how many frames are on their way."""
        return len(self._flying)

    def is_blocked(self, node: int) -> bool:
        """Return whether a node waits in a shrink for others."""
        return node in self._blocked

    def overdue(self) -> list[int]:
        """Return the nodes that have waited in a shrink for too long."""
        return [node for node, until in self._blocked.items() if until <= self.now]

    def shrink(self, node: int, dead: Collection[int]) -> None:
        """Let a node wait for all but the dead to shrink, too; it hangs if one of them dies.

        So it does if one of them never comes, until the watchdog ends it: what had come too late
        is missed by nobody then.

        Raises:
            ProtocolError: all have come, and a frame was still on its way.
        """
        self._worlds[node] += 1
        self._late[node].extend(self._inboxes[node])
        self._inboxes[node].clear()
        early, self._early[node] = self._early[node], []
        for copy, frame, world in early:
            self._arrive(node, copy, frame, world)
        self._blocked[node] = self.now + WATCHDOG_S
        group = [other for other in range(len(self._worlds)) if other not in dead]
        are_here = all(self._worlds[other] >= self._worlds[node] for other in group)
        if are_here and not any(other in self._deaths for other in group):
            self._release()

    def _release(self) -> None:
        """Let all go on who wait in a shrink, unless frames for them are lost by it."""
        for node in self._blocked:
            late, self._late[node] = self._late[node], []
            for copy, frame in late:
                self._lose_frame(node, copy, frame)
        self._blocked.clear()

    def kill(self, node: int) -> None:
        """Let a node die: of what it had sent some arrives, and the others learn of it one by one.

        A frame for it is lost.
        """
        self.leave(node)
        self._inboxes[node].clear()
        self._blocked.pop(node, None)
        self._flying = [
            flight
            for flight in self._flying
            if flight[2] != node and (flight[4][0] != node or self._random.random() < ARRIVES)
        ]
        heapq.heapify(self._flying)

    def isolate(self, node: int, seconds: float) -> None:
        """Let all frames from and to a node take until the end of some time."""
        self._cut_off[node] = self.now + seconds

    def leave(self, node: int) -> None:
        """Let a process end by itself: the others are told as of a death; what it sent arrives."""
        delays = self._random.exponential(self.faults.notice_s, len(self._inboxes))
        self._deaths[node] = (self.now + delays).tolist()

    def known_dead(self, node: int) -> frozenset[int]:
        """Return the dead of whom a node has been told."""
        told = (dead for dead, times in self._deaths.items() if times[node] <= self.now)
        return frozenset(told)

    def advance(self, until: float) -> int | None:
        """Go to the next arrival, at most to `until`, and return whose it is, if there is one."""
        if not self._flying or self._flying[0][0] > until:
            self.now = until
            return None
        self.now, _, dest, copy, frame, world = heapq.heappop(self._flying)
        source, head, payload = frame
        size = len(head) + sum(array.nbytes for array in payload)
        self.trace.append(Arrival(self.now, source, dest, size, self._name(frame), copy))
        self._arrive(dest, copy, frame, world)
        return dest

    def _arrive(self, dest: int, copy: int, frame: Frame, world: int) -> None:
        """Hand over a frame, unless its sender has shrunk more or less often than its receiver."""
        if world > self._worlds[dest]:
            self._early[dest].append((copy, frame, world))
        elif world < self._worlds[dest] and dest in self._blocked:
            self._late[dest].append((copy, frame))
        elif world < self._worlds[dest]:
            self._lose_frame(dest, copy, frame)
        else:
            self._inboxes[dest].append((copy, frame))

    def _lose_frame(self, dest: int, copy: int, frame: Frame) -> None:
        """Complain of a frame that nobody will ever see, if it had to be here.

        What is about the shrink itself nobody waits for: it has been asked again, and answered.
        """
        name = self._name(frame)
        is_needed = not copy and name not in UNCOUNTED
        if is_needed and frame[0] not in self._deaths and dest not in self._deaths:
            raise ProtocolError(f"a shrink has lost a {name} of node {frame[0]} for node {dest}")

    def _name(self, frame: Frame) -> str:
        """Return the name of a frame's message, which the first bytes of its body tell."""
        _, head, payload = frame
        key = bytes(head[BODY : BODY + TAG_BYTES])
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = type(self._codec.decode(head, payload)).__name__
        return name

    def put(self, dest: int, frame: Frame) -> None:
        """Let a frame fly, and perhaps copies of it after it."""
        if dest in self._deaths:
            return
        faults, random = self.faults, self._random
        delay = random.exponential(faults.delay_s)
        if faults.tail and random.random() < faults.tail:
            delay *= TAIL_FACTOR
        self._fly(delay, dest, 0, frame)
        if not faults.copies or random.random() >= faults.copies:
            return
        # A receiver may write to what it gets, so that each copy has memory of its own.
        for copy in range(1, int(random.integers(1, COPIES_MAX, endpoint=True)) + 1):
            self.copies += 1
            source, head, payload = frame
            again = source, memoryview(bytearray(head)), [array.copy() for array in payload]
            self._fly(random.exponential(faults.late_s), dest, copy, again)

    def take(self, node: int) -> list[Frame]:
        """Return what has arrived at a node."""
        inbox = self._inboxes[node]
        if not inbox:
            return []
        return [inbox.popleft()[1] for _ in range(min(len(inbox), FRAMES_PER_POLL))]

    def _fly(self, delay: float, dest: int, copy: int, frame: Frame) -> None:
        self._serial += 1
        delay *= self.faults.slow_links.get((frame[0], dest), 1.0)
        arrival = self.now + min(delay, DELAY_S_MAX)
        for node, until in self._cut_off.items():
            if node in (frame[0], dest) and frame[0] != dest:
                arrival = max(arrival, min(until, self.now + DELAY_S_MAX))
        world = self._worlds[frame[0]]
        heapq.heappush(self._flying, (arrival, self._serial, dest, copy, frame, world))


@final
class _SimulatedTransport(Transport):
    """A node's end of a `Network`."""

    def __init__(self, node: int, network: Network) -> None:
        super().__init__(node, len(network._inboxes))
        self._network = network

    def send(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]] = ()) -> None:
        if dest in self.lost:
            return
        copies = [as_bytes(array).copy() for array in payload]
        self._network.put(dest, (self.node, memoryview(bytearray(head)), copies))

    def poll(self) -> list[Frame]:
        if self._network.has_deaths:
            self.dead = self._network.known_dead(self.node)
            self.lost |= self.dead
        frames = self._network.take(self.node)
        if not self._forgotten:
            return frames
        return [frame for frame in frames if frame[0] not in self._forgotten]

    def shrink(self, dead: Collection[int], give_up: Callable[[], None]) -> None:
        self._network.shrink(self.node, dead)
        self.shrinks += 1

    def unsent(self) -> int:
        return 0

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        return
