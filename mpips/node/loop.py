"""The only event loop: frames in, machine steps, effects out."""

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from mpips.core.machine import Effect, Send
from mpips.filters.chain import FilterChain
from mpips.node.points import Reach
from mpips.node.pulse import Pulses
from mpips.node.stillness import UNCOUNTED, Stillness
from mpips.transport.backoff import Backoff
from mpips.transport.base import FRAMES_PER_POLL, Bytes, Transport
from mpips.wire.buffers import Buffers
from mpips.wire.frame import Codec
from mpips.wire.messages import (
    Forgotten,
    Message,
    Pull,
    Push,
    PushAck,
    Replicate,
    Replicated,
    Snapshot,
    Values,
)

TICK_S: Final = 0.05

CONTROL: Final = "control"
KINDS: Final[dict[type[Message], str]] = {
    Push: "push",
    PushAck: "push",
    Pull: "pull",
    Values: "pull",
    Replicate: "replication",
    Snapshot: "replication",
    Replicated: "replication",
    Forgotten: "keys",
}
"""What the bytes of a message are counted as; of all others, as `CONTROL`."""

FILTERED: Final = frozenset((Push, Pull, Values))
"""What filters and counts of keys are for."""


class Node(ABC):
    """A role joined with a transport.

    Args:
        transport: carries its frames.
        clock: seconds that never go back.

    Attributes:
        exit_code: None while its part in the job is not over.
        successor: the node that goes on in this one's place, in another role.
        stillness: counts frames, and holds back what is sent, where all stand still for a shrink.
        pulse: tells which processes on this host are alive; None: nothing does.
        is_fenced: whether the others go on without this node, though it lives.
        reach: called at the points of the protocol, in tests.
        bytes_sent: bytes handed to the transport, by kind; key lists of pushes and pulls are a
            kind of their own, "keys".
    """

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        self.transport, self.clock = transport, clock
        self.exit_code: int | None = None
        self.successor: Node | None = None
        self.is_fenced = False
        self.chains: Sequence[FilterChain] = ()
        kinds = (*KINDS.values(), "keys", CONTROL)
        self.bytes_sent: Counter[str] = Counter(dict.fromkeys(kinds, 0))
        self.reach: Reach | None = None
        self.stillness = Stillness()
        self.pulse: Pulses | None = None
        self._codec = Codec()
        transport.place, transport.room = self.place, Buffers().take
        self._next_tick = 0.0
        self._lost: frozenset[int] = frozenset()

    @property
    def latest(self) -> "Node":
        """Return the node that goes on in this one's place by now; itself, if none does."""
        return self if self.successor is None else self.successor.latest

    def turn(self) -> bool:
        """Take what has come, do what is due, and tell whether there was anything to do."""
        frames = self.transport.poll()
        for source, head, payload in frames:
            # What comes after changes of roles is the last successor's.
            node = self if self.successor is None else self.latest
            message = self._codec.decode(head, payload)
            kind = type(message)
            if kind not in UNCOUNTED:
                self.stillness.received[source] += 1
            if node.chains and kind in FILTERED:
                message = node.chains[message.table].decode(message)  # type: ignore[attr-defined]
            if self.reach is not None:
                self.reach("take", message)
            node.receive(source, message)
            if self.reach is not None:
                self.reach("taken", message)
        # All else is the successor's, too: it has its turn next.
        if self.successor is not None:
            return True
        # What came before a loss is taken before it.
        lost = self.transport.lost
        if len(lost) > len(self._lost) and len(frames) < FRAMES_PER_POLL:
            new, self._lost = lost - self._lost, lost
            self.lose(new)
        now = self.clock()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self.tick(now)
        return self.work() or bool(frames) or self.transport.has_moved

    def place(self, source: int, head: memoryview, sizes: list[int]) -> list[Bytes] | None:
        """Return where the arrays of a large frame are to be received, as `Transport` asks."""
        return None

    @property
    def due(self) -> float:
        """Return when `work` has something to do even if nothing comes; never: infinity."""
        return math.inf

    @abstractmethod
    def receive(self, source: int, message: Message) -> None:
        """Take a message."""

    def lose(self, nodes: frozenset[int]) -> None:
        """Take note that nodes are dead."""
        return

    def tick(self, now: float) -> None:
        """Do what time demands; called about every `TICK_S`."""
        return

    def work(self) -> bool:
        """Go on with what is not a message's answer, and tell whether there was any."""
        return False

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Do what a machine wants done."""
        for effect in effects:
            if type(effect) is Send:
                self.send(effect.dest, effect.message)
            else:
                self.perform(effect)

    def send(self, dest: int, message: Message) -> None:
        """Filter, encode and send a message, or hold it back."""
        still, kind = self.stillness, type(message)
        if still.is_on and still.holds(self, dest, message):
            return
        if kind not in UNCOUNTED:
            still.sent[dest] += 1
        is_filtered = kind in FILTERED
        if is_filtered and self.chains:
            message = self.chains[message.table].encode(message)  # type: ignore[attr-defined]
        head, arrays = self._codec.encode(message)
        # All bytes that leave a node are counted here.
        size, sent = len(head), self.bytes_sent
        for array in arrays:
            size += array.nbytes
        if is_filtered and (keys := message.keys) is not None:  # type: ignore[attr-defined]
            sent["keys"] += keys.nbytes
            size -= keys.nbytes
        sent[KINDS.get(kind, CONTROL)] += size
        if self.reach is not None:
            self.reach("send", message)
        self.transport.send(dest, head, arrays)
        if self.reach is not None:
            self.reach("sent", message)

    @abstractmethod
    def perform(self, effect: Effect) -> None:
        """Do an effect that is not a `Send`."""

    def statistics(self) -> dict[str, int]:
        """Return the bytes sent by kind, and what the filters saved."""
        total: Counter[str] = Counter()
        for kind, count in self.bytes_sent.items():
            total[f"bytes_{kind}"] = count
        for chain in self.chains:
            total.update(chain.statistics())
        return dict(total)


def run_loop(node: Node, backoff: Backoff) -> Node:
    """Turn one node until its part is over, and return it, or the last one in its place."""
    while node.exit_code is None:
        if node.turn():
            backoff.busy()
        else:
            backoff.wait(node.due)
        node = node.latest
    return node


def run_together(nodes: Sequence[Node], give_up: Callable[[], None]) -> int:
    """Turn the nodes of a job that lives in one process, and return the first one's exit code.

    Args:
        nodes: all of them; what one sends is there for the others at once.
        give_up: called when nobody has anything to do, nor waits for a time to come: this then
            will never change.
    """
    idle = 0
    while nodes[0].exit_code is None:
        busy = [node.turn() for node in nodes if node.exit_code is None]
        nodes = [node.latest for node in nodes]
        idle = 0 if any(busy) else idle + 1
        # What a node sends in its first turn, or because of the time, is seen in the next round.
        if idle < 2:
            continue
        due = min(node.due for node in nodes if node.exit_code is None)
        if due < math.inf:
            time.sleep(max(0.0, due - nodes[0].clock()))
            idle = 0
        elif idle == 2:
            give_up()
    return nodes[0].exit_code
