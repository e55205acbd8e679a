"""A node's side of a shrink: it counts frames, holds back what it wants to send, and goes on."""

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from mpips.wire.messages import Message
from mpips.wire.quiet import QUIET, Drained, GoOn, Halt, Shrink, Shrunk

if TYPE_CHECKING:
    from mpips.node.loop import Node

LOOK_S: Final = 2.0
"""How long somebody whose pulse does not move is looked at, until it is taken for stopped."""

UNCOUNTED: Final = frozenset(QUIET)
"""The types of messages that nobody counts."""

STILL_S_MAX: Final = 5.0
"""How long a node stands still when it hears nothing more."""


class Stillness:
    """What is shared by all roles on one transport: counts of frames, and what is held back.

    Whatever is held back is sent later: to the others that is a delay, which the protocol bears.

    Attributes:
        is_on: whether nothing is to be sent.
        sent: by node: how many messages were sent, but for those about a shrink (`UNCOUNTED`).
        received: likewise, how many have come.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._since = 0.0
        self.sent: defaultdict[int, int] = defaultdict(int)
        self.received: defaultdict[int, int] = defaultdict(int)
        self._held: list[tuple[Node, int, Message]] = []
        # Epoch and number: of the halt that is on, and of the last one that is over.
        self._mark = self._over = (0, 0)

    def holds(self, node: "Node", dest: int, message: Message) -> bool:
        """Hold a message back if that is due, and return whether it was."""
        if not self.is_on or isinstance(message, QUIET):
            return False
        self._held.append((node, dest, message))
        return True

    def take(self, node: "Node", source: int, message: Halt | GoOn | Shrink) -> None:
        """Do what the scheduler of one's view wants."""
        mark = message.epoch, message.number
        match message:
            # What was asked before comes late: it must not hide what is asked now.
            case Halt() if self._is_new(mark) and source not in node.transport.lost:
                self._mark, self.is_on, self._since = mark, True, node.clock()
                node.send(source, self._tell(node, message))
            case GoOn():
                self._over = max(self._over, mark)
                if mark >= self._mark:
                    self.end()
            # Who has gone on without waiting does not shrink; a watchdog ends those who do.
            case Shrink(dead=dead) if self.is_on and mark == self._mark:
                node.transport.shrink(dead, lambda: kill_stopped(node))
                self.sent.clear()
                self.received.clear()
                shrunk = Shrunk(epoch=message.epoch, number=message.number)
                node.send(source, shrunk)
                self.end()

    def is_too_long(self, now: float) -> bool:
        """Return whether it is on for so long that the scheduler must have forgotten it."""
        return self.is_on and now - self._since > STILL_S_MAX

    def end(self) -> None:
        """Send what was held back."""
        if not self.is_on:
            return
        self.is_on, self._over = False, max(self._over, self._mark)
        held, self._held = self._held, []
        for node, dest, message in held:
            node.send(dest, message)

    def _is_new(self, mark: tuple[int, int]) -> bool:
        """Return whether a halt is neither over nor of before the one that is on."""
        return mark > self._over and mark >= self._mark

    def _tell(self, node: "Node", halt: Halt) -> Drained:
        return Drained(
            epoch=halt.epoch,
            number=halt.number,
            attempt=halt.attempt,
            sent=dict(self.sent),
            received=dict(self.received),
            dead=sorted(node.transport.dead),
        )


def kill_stopped(node: "Node") -> None:
    """Kill the processes on this host that have stopped.

    All others end by themselves; one that is left would keep mpirun from ending, for ever.
    """
    if node.pulse is None:
        return
    node.pulse.moved()
    time.sleep(LOOK_S)
    for other in set(range(node.transport.size)).difference(node.pulse.moved()):
        node.pulse.kill(other)
