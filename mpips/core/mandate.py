"""A scheduler's right to act: it lasts while majorities of acceptors store what it decides."""

import math
from collections.abc import Collection, Iterable
from typing import Final

from mpips.core.acceptor import Acceptor
from mpips.core.detector import Detector
from mpips.core.gate import Gate
from mpips.core.leader import Group, Leader, is_majority
from mpips.core.machine import Effect
from mpips.core.renewal import Renewal
from mpips.wire.types import make_epoch
from mpips.wire.voting import Accepted, Promise, Propose, Refused

BEAT_S_MAX: Final = 1.0
BEATS_IN_A_SILENCE: Final = 8
SILENCES_WITHOUT_ANSWER: Final = 2
CUT_OFF: Final = 0.5
"""After which share of a silence of most acceptors it is the scheduler that is cut off."""


class Mandate:
    """Passes effects on as decisions allow, shows acceptors that the scheduler lives, and ends.

    Args:
        node: the scheduler.
        silence_s: after which silence of an acceptor it is not counted upon.
        leader: of a scheduler that takes over; None: this is the first one, whose ballot is the
            lowest, so that it need not ask what others have decided.
    """

    def __init__(self, node: int, silence_s: float, leader: Leader | None = None) -> None:
        self.leader = leader or Leader(node, make_epoch(1, node), Acceptor())
        self._node, self._silence_s = node, silence_s
        self._gate = Gate(self.leader)
        self._renewal = Renewal(node, self.leader)
        self._beats_refused = 0
        self._detector = Detector((), silence_s)
        self._watched: Group = ()
        self._silent: set[int] = set()
        self._dead: set[int] = set()
        self._beat_s = min(BEAT_S_MAX, silence_s / BEATS_IN_A_SILENCE)
        self._answers = Detector((), SILENCES_WITHOUT_ANSWER * silence_s)
        self._deaf: set[int] = set()
        # By acceptor: when it was last seen alive.
        self._heard: dict[int, float] = {}
        self._next_beat = -math.inf

    @property
    def is_lost(self) -> bool:
        """Return whether so many acceptors are dead that nobody can decide any more."""
        return not self.leader.can_decide(self._dead)

    @property
    def is_waiting(self) -> bool:
        """Return whether something is held back, since it is not decided."""
        return self._gate.is_waiting

    @property
    def is_over(self) -> bool:
        """Return whether this scheduler cannot decide any more, though others perhaps can."""
        # Where nothing has to be decided, who computes for long is given more time; but who never
        # answers, though its process lives, has been told that this node is dead.
        silent = self._deaf if self.leader.is_settled else self._silent | self._deaf
        lost = self._dead.union(silent, self.leader.refused)
        return self._renewal.is_past or not self.leader.can_decide(lost)

    def hears(self, now: float) -> bool:
        """Return whether a majority of the acceptors has been alive lately, as far as is known."""
        latest = now - CUT_OFF * self._silence_s
        alive = {node for node, heard in self._heard.items() if heard >= latest}
        return is_majority({self._node, *alive}, self.leader.group)

    def pass_on(self, effects: Iterable[Effect]) -> list[Effect]:
        """Return what may happen now; hold back what is behind a decision."""
        return self._gate.pass_on(effects)

    def take(self, now: float, source: int, message: Accepted | Refused) -> list[Effect]:
        """Take an acceptor's answer, and return what may happen now."""
        self._note_answer(now, source)
        return self._gate.take(source, message)

    def promised(self, now: float, source: int, message: Promise) -> list[Effect]:
        """Take an acceptor's promise to this scheduler, and return what may happen now."""
        self._note_answer(now, source)
        return [*self._renewal.take(source, message), *self._gate.pass_on(())]

    def answer(self, message: Propose) -> Promise | Accepted | Refused:
        """Take what another leader proposes: it may be the end of this one."""
        return self.leader.acceptor.step(message)

    def heard(self, now: float, nodes: Iterable[int]) -> None:
        """Note nodes that are alive."""
        for node in nodes:
            if node in self._silent:
                self._silent.discard(node)
                self._detector.add(now, node)
            self._detector.heard(now, node)
            if node in self._watched:
                self._heard[node] = now

    def lose(self, nodes: Collection[int]) -> None:
        """Note nodes that are dead."""
        self._dead.update(nodes)

    def tick(self, now: float) -> list[Effect]:
        """Show the acceptors that the scheduler is alive, and note which of them are silent."""
        group = self.leader.group
        if group != self._watched:
            for node in set(group).difference(self._watched, {self._node}):
                self._detector.add(now, node)
                self._answers.add(now, node)
                self._heard[node] = now
            self._watched = group
        self._silent.update(self._detector.tick(now))
        self._deaf.update(self._answers.tick(now))
        if now < self._next_beat:
            return []
        self._next_beat = now + self._beat_s
        return [*self._claim(now), *self.leader.beat()]

    def _claim(self, now: float) -> list[Effect]:
        """Claim a higher ballot, if acceptors have refused this scheduler for some beats.

        They are a silence, or eight seconds: who has been elected has mostly shown that by then.
        Beats are counted, and not seconds, since this node may have been paused, or cut off, while
        somebody was elected.
        """
        is_refused = bool(self.leader.refused) and self.hears(now)
        self._beats_refused = self._beats_refused + 1 if is_refused else 0
        if self._beats_refused < BEATS_IN_A_SILENCE:
            return []
        self._beats_refused = 0
        return self._renewal.begin()

    def _note_answer(self, now: float, source: int) -> None:
        """Note that an acceptor answers."""
        if source in self._deaf:
            self._deaf.discard(source)
            self._answers.add(now, source)
        self._answers.heard(now, source)
