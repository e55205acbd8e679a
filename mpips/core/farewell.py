"""The end of a job: all are told to stop, and the acceptors leave when the result is written."""

from collections.abc import Collection
from typing import Final

from mpips.core.attendance import Attendance
from mpips.core.machine import Effect, End, Report, Send
from mpips.wire.messages import Stop
from mpips.wire.voting import Leave, Over

STOPPING_S_MAX: Final = 30.0


class Farewell:
    """Has all nodes stop.

    Args:
        nodes: of the job.
        over: the decision.
        epoch: of the view.
        needed: the acceptors: if this scheduler dies, one of them writes the result.

    Attributes:
        is_over: whether all have stopped, or were waited for in vain.
    """

    def __init__(self, nodes: Attendance, over: Over, epoch: int, needed: Collection[int]) -> None:
        self.is_over = False
        self._nodes, self._over, self._epoch, self._needed = nodes, over, epoch, needed
        self._deadline = 0.0

    def begin(self, now: float) -> list[Effect]:
        """Tell all; nobody answers if all have died."""
        self._deadline = now + STOPPING_S_MAX
        return [*map(self._order, self._nodes.expected), *self.go_on()]

    def go_on(self) -> list[Effect]:
        """End when all have stopped."""
        return self._end() if self._nodes.are_all(self._nodes.stopped) else []

    def tick(self, now: float) -> list[Effect]:
        """Go on without those that are silent: the job has its result, which they cannot change."""
        if now < self._deadline or self.is_over:
            return []
        silent = ", ".join(self._nodes.missing(self._nodes.stopped))
        return [Report("silent", {"at the stop": silent}), *self._end()]

    def lose(self, dead: Collection[int]) -> list[Effect]:
        """Wait for some nodes no more: perhaps what they said last has not come yet."""
        for node in dead:
            self._nodes.stopped.setdefault(node, {})
        return self.go_on()

    def _order(self, node: int) -> Effect:
        stays = node in self._needed
        return Send(node, Stop(epoch=self._epoch, exit_code=self._over.exit_code, stays=stays))

    def _end(self) -> list[Effect]:
        if self.is_over:
            return []
        self.is_over = True
        rest = [node for node in self._nodes.expected if node in self._needed]
        return [End(self._over.exit_code), *(Send(node, Leave()) for node in rest)]
