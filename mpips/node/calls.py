"""Remembers which calls a node has taken, so that a call that comes again is not run again."""

from dataclasses import dataclass, field
from typing import Final

from mpips.wire.messages import Call, Return

CALLS_KNOWN_MAX: Final = 256
"""Calls of one logical worker that are known by their number; far more than are ever open."""


@dataclass(slots=True)
class _Known:
    """The calls of one logical worker (or of a server): all up to `floor`, and those in `seen`."""

    floor: int = 0
    seen: set[int] = field(default_factory=set)
    answer: Return | None = None


class Calls:
    """The calls that a node has taken, in memory that is bounded for each logical worker.

    Only the last answer of a logical worker is kept, since results may be large: whoever has sent
    another call after it has that answer.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._running: dict[int, _Known] = {}

    def take(self, call: Call) -> bool:
        """Note a call, and return whether it is new and has to be run."""
        known = self._known.setdefault(call.worker, _Known())
        if call.request <= known.floor or call.request in known.seen:
            return False
        known.seen.add(call.request)
        self._running[call.request] = known
        # Know the older half by one number.
        if len(known.seen) > CALLS_KNOWN_MAX:
            ascending = sorted(known.seen)
            known.floor = ascending[len(ascending) // 2]
            known.seen = {request for request in ascending if request > known.floor}
        return True

    def note(self, answer: Return) -> None:
        """Note the answer to a call that was taken."""
        self._running.pop(answer.request).answer = answer

    def answer(self, call: Call) -> Return | None:
        """Return the answer to a call that has come again; None if it runs, or another came."""
        answer = self._known[call.worker].answer
        return answer if answer is not None and answer.request == call.request else None
