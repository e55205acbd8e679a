"""The shrink: after deaths, all go on on a smaller communicator, made while nobody sends anything.

MPI's Shrink is not safe against a death while it runs: survivors crash, or hang for ever. So it is
called between two tasks of the plan, when nobody works, once all frames that were sent have come,
and nobody has died for a while. A death before it calls it off; one inside it leaves ranks that a
watchdog kills, and the job starts again from its last checkpoint (DESIGN, section 8).
"""

from collections.abc import Collection
from typing import Final

from mpips.core.machine import Effect, Send
from mpips.core.news import tell_of_shrink
from mpips.wire.quiet import Drained, GoOn, Halt, Shrink, Shrunk
from mpips.wire.types import View

GRACE_S: Final = 0.1
"""How long nobody may die before the shrink: a death nearby must be known before it begins."""

PATIENCE_S: Final = 2.0
"""How long all stand still for a shrink at most before it begins."""

FAILURES_MAX: Final = 3
"""How often a shrink is tried after the same deaths."""


class Quieting:
    """The scheduler's side of a shrink: asks all to halt, compares their counts, and orders it.

    Args:
        is_wanted: whether there shall be any.

    Attributes:
        state: "idle", then "asking" for counts, "waiting" for deaths, "shrinking".
        missing: who has not answered.
        shrinks: how many were made.
    """

    def __init__(self, is_wanted: bool) -> None:
        self.state = "idle"
        self.missing: set[int] = set()
        self.shrinks = 0
        self._began = 0.0
        self._is_wanted = is_wanted
        self._nodes: tuple[int, ...] = ()
        self._dead: frozenset[int] = frozenset()
        self._epoch = self._number = self._attempt = 0
        self._answers: dict[int, Drained] = {}
        self._matched = 0.0
        # The dead without whom the communicator is, and how often that failed after which deaths.
        self._gone: frozenset[int] = frozenset()
        self._failures: tuple[frozenset[int], int] = (frozenset(), 0)

    @property
    def is_active(self) -> bool:
        """Return whether all stand still, or are about to."""
        return self.state != "idle"

    def is_due(self, dead: Collection[int]) -> bool:
        """Return whether somebody has died since the last shrink, and it is worth a try."""
        deaths, failures = self._failures
        is_hopeless = failures >= FAILURES_MAX and deaths == frozenset(dead)
        return self._is_wanted and not self._gone.issuperset(dead) and not is_hopeless

    def waiting_for(self) -> list[str]:
        """Return who has not answered."""
        return [f"node {node}" for node in sorted(self.missing if self.is_active else ())]

    def begin(self, now: float, view: View, dead: Collection[int]) -> list[Effect]:
        """Ask all nodes of a view to halt, the scheduler's own too.

        Args:
            now: seconds that never go back.
            view: the newest.
            dead: the nodes that it goes on without.
        """
        assert not self.is_active
        self._nodes = tuple(sorted(member.node for member in view.members))
        self._dead, self._epoch, self._began = frozenset(dead), view.epoch, now
        self._number += 1
        self._attempt = 0
        return self._ask()

    def take(self, now: float, source: int, message: Drained | Shrunk) -> None:
        """Take an answer; what follows from it happens with `tick`."""
        if (message.epoch, message.number) != (self._epoch, self._number):
            return
        if isinstance(message, Shrunk):
            if self.state == "shrinking":
                self.missing.discard(source)
            return
        if self.state != "asking" or message.attempt != self._attempt:
            return
        self._answers[source] = message
        self.missing.discard(source)
        if not self.missing and self._is_drained():
            self.state, self._matched = "waiting", now

    def tick(self, now: float) -> list[Effect]:
        """Do what comes next."""
        if self.state == "shrinking":
            if self.missing:
                return []
            self.state, self._gone = "idle", self._dead
            self.shrinks += 1
            return [tell_of_shrink(len(self._nodes), now - self._began)]
        is_late = now - self._began >= PATIENCE_S
        # Who was paused may find that the others have gone on without waiting.
        if is_late and self.state in ("asking", "waiting"):
            return self.cancel()
        if self.state == "waiting" and now - self._matched >= GRACE_S:
            self.state, self.missing = "shrinking", set(self._nodes)
            dead = sorted(self._dead)
            order = Shrink(epoch=self._epoch, number=self._number, dead=dead)
            return [Send(node, order) for node in self._nodes]
        # Frames were under way, or somebody has not heard of a death.
        if self.state == "asking" and not self.missing:
            return self._ask()
        return []

    def cancel(self) -> list[Effect]:
        """Let all go on as before; who is told to shrink already cannot be called back."""
        was, self.state = self.state, "idle"
        if was in ("idle", "shrinking"):
            return []
        deaths, failures = self._failures
        self._failures = self._dead, failures + 1 if deaths == self._dead else 1
        order = GoOn(epoch=self._epoch, number=self._number)
        return [Send(node, order) for node in self._nodes]

    def _ask(self) -> list[Effect]:
        """Ask for the counts, which may have changed."""
        self.state, self.missing, self._answers = "asking", set(self._nodes), {}
        self._attempt += 1
        order = Halt(epoch=self._epoch, number=self._number, attempt=self._attempt)
        return [Send(node, order) for node in self._nodes]

    def _is_drained(self) -> bool:
        """Return whether all that was sent has come, and MPI's dead are the view's everywhere."""
        answers = self._answers
        return all(self._dead == set(one.dead) for one in answers.values()) and all(
            answers[source].sent.get(dest, 0) == answers[dest].received.get(source, 0)
            for source in self._nodes
            for dest in self._nodes
        )
