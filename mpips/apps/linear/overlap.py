"""Measures how much of its pulls' time a worker spends working rather than waiting."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mpips.node.kv import Pending


class Open(NamedTuple):
    """A pull on its way: when it was started, and how long the worker had waited by then."""

    pending: Pending
    started: float
    waited: float


class Overlap:
    """The time of a worker's pulls, and the part of it in which the worker did not wait.

    A pull lasts from its start until the worker can see its answer. An answer that comes in the
    middle of work is seen at its end, so a pull that is no hindrance counts as hidden, however
    short it may have been. What other logical workers of the same rank do meanwhile is waiting.

    Attributes:
        pull_s: seconds that all answered pulls lasted, added up.
        hidden_s: seconds of these in which the worker worked.

    >>> now = iter([0.0, 3.0, 4.0])
    >>> overlap, pull = Overlap(lambda: next(now)), Pending(1, 0)
    >>> pull.is_done = True
    >>> overlap.start(pull)
    >>> try:
    ...     overlap.wait(pull).send(None)
    ... except StopIteration:
    ...     overlap.hidden_s, overlap.pull_s
    (3.0, 4.0)
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.pull_s = self.hidden_s = 0.0
        self._clock = clock
        self._waited = 0.0
        self._open: list[Open] = []

    def start(self, pending: Pending) -> None:
        """Note that a pull was started just now."""
        self._open.append(Open(pending, self._clock(), self._waited))

    async def wait(self, pending: Pending) -> Any:
        """Wait for a pull and return its result; others may be answered meanwhile."""
        begin = self._clock()
        result = await pending
        now = self._clock()
        self._waited += now - begin
        # Each that is answered by now was so at the end of this wait, or it was noted before.
        for one in self._open:
            if one.pending.is_done:
                whole = now - one.started
                self.pull_s += whole
                self.hidden_s += whole - (self._waited - one.waited)
        self._open = [one for one in self._open if not one.pending.is_done]
        return result


def share_hidden(parts: Iterable[Mapping[str, float]]) -> float:
    """Return the share of communication hidden, 0 to 1, of workers' `hidden_s` and `pull_s`.

    >>> share_hidden([{"hidden_s": 1.0, "pull_s": 2.0}, {"hidden_s": 0.5, "pull_s": 1.0}])
    0.5
    """
    parts = list(parts)
    whole = sum(part["pull_s"] for part in parts)
    hidden = sum(part["hidden_s"] for part in parts)
    # Rounding may go beyond both ends by a little.
    return min(max(hidden / whole, 0.0), 1.0) if whole else 0.0
