"""Holds a scheduler's effects back until what they depend on is decided."""

from collections import deque
from collections.abc import Iterable

from mpips.core.leader import Leader
from mpips.core.machine import Decide, Effect
from mpips.wire.voting import Accepted, Refused


class Gate:
    """Lets effects pass in their order, those behind a `Decide` once it is decided.

    Args:
        leader: has decisions stored.
    """

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._held: deque[Effect] = deque()
        self._is_proposed = False

    @property
    def is_waiting(self) -> bool:
        """Return whether something is held back."""
        return bool(self._held)

    def pass_on(self, effects: Iterable[Effect]) -> list[Effect]:
        """Return what may happen now, a `Decide` after it was decided; hold the rest."""
        self._held.extend(effects)
        passed: list[Effect] = []
        while self._held:
            first = self._held[0]
            # What an earlier leader has left undecided comes before everything.
            if not self._leader.is_settled:
                break
            if isinstance(first, Decide) and not self._is_proposed:
                passed += self._leader.propose(first.entry)
                self._is_proposed = True
                continue
            self._is_proposed = False
            passed.append(self._held.popleft())
        return passed

    def take(self, source: int, message: Accepted | Refused) -> list[Effect]:
        """Take an acceptor's answer, and return what may happen now."""
        return [*self._leader.take(source, message), *self.pass_on(())]
