"""What is on its way to other nodes: a lane for each node and tag."""

from collections.abc import Callable
from typing import Any, Final

from mpips.transport.lanes import Lane, Memory, Request, Transfers

WINDOW: Final = 64
"""How many sends to one node under one tag are begun before the first of them is done."""


class Outbox:
    """Begins to send, and knows how much has not left.

    Args:
        send: starts to send data to a node under a tag, and returns the request.
        is_lost: looks who is dead, and tells whether a node is.
        moving: the lanes in which something moves, with their nodes: others advance them.
        windows: by tag, where it is not `WINDOW`.

    Attributes:
        unsent: how many sends are not done, or wait.
        failed: a send that raised an error, and its memory, which must live on.
    """

    def __init__(
        self,
        send: Callable[[Memory, int, int], Request],
        is_lost: Callable[[int], bool],
        moving: dict[Transfers[Any], int],
        windows: dict[int, int],
    ) -> None:
        self.unsent = 0
        self.failed: list[object] = []
        self._send, self._is_lost = send, is_lost
        self._moving, self._windows = moving, windows
        # By node and tag.
        self._lanes: dict[tuple[int, int], Lane[None]] = {}

    def start(self, dest: int, tag: int, data: Memory, short: bool) -> None:
        """Send data to a node, or let it wait for what is before it.

        Args:
            dest: the node.
            tag: what kind of data it is; those of a kind keep their order.
            data: not copied.
            short: whether it may be done at once; a look at a longer one would be wasted.
        """
        lane = self._lanes.get((dest, tag))
        if lane is None:
            window = self._windows.get(tag, WINDOW)
            lane = Lane(lambda data: self._send(data, dest, tag), self._leave, window)
            self._lanes[dest, tag] = lane
        # Most small messages have left at once, and need not be remembered.
        if lane.is_idle():
            # Where something moves, MPI may have learned of a death since the last poll.
            if self._moving and self._is_lost(dest):
                return
            request = self._send(data, dest, tag)
            try:
                if short and request.Test():
                    return
            except Exception:
                self.failed.append((request, data))
                raise
            lane.follow(request, data, None)
        else:
            lane.add(data, None)
        self.unsent += 1
        self._moving[lane] = dest

    def count(self, dest: int, tag: int) -> int:
        """Return how many sends to a node under a tag are not done, or wait."""
        lane = self._lanes.get((dest, tag))
        return 0 if lane is None else len(lane)

    def bury(self, node: int) -> None:
        """Count what is under way to a lost node no more."""
        for (dest, _), lane in self._lanes.items():
            if dest == node:
                self.unsent -= len(lane)

    def _leave(self, _: None) -> None:
        self.unsent -= 1
