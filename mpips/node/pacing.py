"""Pulls that wait until the answers before them have left."""

from collections import deque
from collections.abc import Iterator
from typing import Final

from mpips.transport.base import Transport
from mpips.wire.messages import Pull

BACKLOG_MAX: Final = 2
"""Parts of answers to a node that may be unsent when its next pull is answered."""


class Pacing:
    """Holds pulls back, so that a server makes no more answers than can leave.

    Answers that wait to be sent would take as much memory as all that is pulled, and would have
    left the cache when their turn comes. So the next one is made while the last one leaves, in
    memory that is used again and again. Pulls have no order, so nobody misses anything.

    Args:
        transport: by which the answers leave.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._held: dict[int, deque[Pull]] = {}

    def holds(self, source: int, pull: Pull) -> bool:
        """Keep a pull if it has to wait, and tell so."""
        if source not in self._held and self._transport.backlog(source) <= BACKLOG_MAX:
            return False
        self._held.setdefault(source, deque()).append(pull)
        return True

    def release(self) -> Iterator[tuple[int, Pull]]:
        """Yield the pulls that wait no longer, each while there is room for its answer.

        Those of lost nodes come, too: nothing waits to be sent to these.
        """
        for source in list(self._held):
            pulls = self._held[source]
            while pulls and self._transport.backlog(source) <= BACKLOG_MAX:
                yield source, pulls.popleft()
            if not pulls:
                del self._held[source]

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))
