"""What the scheduler does about silent nodes: it suspects them, has them killed, or gives them up.

MPI tells of killed processes, never of stopped ones. A silent node is killed by the others on its
host, so that MPI tells of it; if nobody can, the view leaves it behind all the same, and whatever
it sends later is refused (DESIGN, section 8).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from mpips.core.detector import Detector
from mpips.core.machine import Effect, Report, Send
from mpips.wire.messages import Kill
from mpips.wire.types import NOBODY, Member

KILLING_S: Final = 2.0
"""How long the death of a suspect may take to be known."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Who is silent, and who shares its host and may kill it."""

    node: int
    mates: list[int]

    def act(self, name: str, epoch: int) -> list[Effect]:
        """Return what to do about it: tell the user, and have the mates kill the node."""
        order = Kill(epoch=epoch, node=self.node)
        return [Report("silent", {"suspected": name}), *(Send(m, order) for m in self.mates)]


class Watch:
    """Watches the nodes of which others can tell whether they compute or have stopped.

    Those are the nodes with a pulse on hosts where some node's loop turns all the time: the
    scheduler's, a server's or a spare's. Workers that are alone on their host may compute for
    longer than any deadline without a sign of life, and are not watched.

    Args:
        silence_s: after which silence a node is suspected.
    """

    def __init__(self, silence_s: float) -> None:
        self._detector = Detector((), silence_s)
        self._members: dict[int, Member] = {}
        self._doomed: dict[int, float] = {}

    def begin(
        self,
        now: float,
        members: Collection[Member],
        pulses: Mapping[int, bool],
        own: int = NOBODY,
    ) -> None:
        """Watch those of the members that can be watched, but the scheduler: `own`, or by role."""
        self._members = {member.node: member for member in members}
        told = {m.host for m in members if m.role != "worker" and pulses.get(m.node)}
        for member in members:
            is_own = member.role == "scheduler" or member.node == own
            if member.host in told and pulses.get(member.node) and not is_own:
                self._detector.add(now, member.node)

    def heard(self, now: float, node: int) -> None:
        """Note that a node is alive."""
        self._detector.heard(now, node)

    def remove(self, node: int) -> None:
        """Watch a node no more: it is dead, or has left."""
        self._detector.remove(node)
        self._members.pop(node, None)
        self._doomed.pop(node, None)

    def tick(self, now: float) -> tuple[list[Suspicion], list[int]]:
        """Return who is to be killed by whom, and whom nobody could kill."""
        suspicions = []
        for node in self._detector.tick(now):
            host = self._members[node].host
            mates = [m.node for m in self._members.values() if m.host == host and m.node != node]
            suspicions.append(Suspicion(node, mates))
            self._doomed[node] = now + KILLING_S
        given_up = [node for node, deadline in self._doomed.items() if now >= deadline]
        for node in given_up:
            del self._doomed[node]
        return suspicions, given_up
