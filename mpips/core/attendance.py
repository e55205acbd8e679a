"""Who takes part in a job: who is expected, has come, is ready, has stopped, or is dead."""

from collections.abc import Collection, Iterable
from typing import Any

from mpips.core.progress import Latest
from mpips.wire.messages import Hello


class Attendance:
    """The nodes of a job beside the scheduler, by what they have said of themselves.

    Attributes:
        expected: the role of each node that takes part.
        hellos: what each has said when it came.
        ready: who has said that calls may come.
        stopped: who has nothing left to send, with its counters.
        dead: who the job goes on without.
        progress: what logical workers have told last.
    """

    def __init__(self, expected: dict[int, str]) -> None:
        self.expected = expected
        self.hellos: dict[int, Hello] = {}
        self.ready: set[int] = set()
        self.stopped: dict[int, dict[str, int]] = {}
        self.dead: set[int] = set()
        self.progress = Latest()

    def are_all(self, nodes: Collection[int]) -> bool:
        """Return whether these are all that take part."""
        return len(nodes) == len(self.expected)

    def name(self, node: int) -> str:
        """Return what people call a node."""
        return f"{self.expected[node]} {node}"

    def missing(self, here: Collection[int]) -> list[str]:
        """Return the names of all that are not here."""
        return [self.name(node) for node in self.expected if node not in here]

    def waiting_for(self, state: str) -> list[str]:
        """Return who has not come, or got ready, or stopped, as far as the job is."""
        here = {"forming": [*self.hellos], "starting": [*self.ready], "ended": [*self.expected]}
        return self.missing(here.get(state, [*self.stopped]))

    def leave(self, nodes: Iterable[int]) -> None:
        """Expect some nodes no more; who was not stopped is dead."""
        for node in nodes:
            del self.expected[node]
            self.dead.add(node)

    def counters(self, own: dict[str, int]) -> dict[str, int]:
        """Return counters by name, summed over those that have stopped and one's own."""
        total: dict[str, Any] = dict(own)
        for counters in self.stopped.values():
            for name, count in counters.items():
                total[name] = total.get(name, 0) + count
        return total
