"""An acceptor's side of a scheduler's death: when to stand as a candidate, and whom to promise.

The first of the view's acceptors stands at once, the others a little later each, so that one is
enough as a rule. While a node hears its scheduler, it promises nothing to anybody: so one that is
cut off from the scheduler alone cannot depose it. The scheduler itself is promised a higher ballot
when it claims one, so that promises to those who have failed do not last. Who is no acceptor any
more hears no scheduler, and waits for none: it promises at once, to whoever does not know that yet.
"""

import math
from collections.abc import Collection
from typing import Final

from mpips.core.acceptor import Acceptor
from mpips.core.detector import Detector
from mpips.core.leader import Candidate, Leader, is_majority
from mpips.core.machine import Effect, Send
from mpips.wire.types import PROPOSERS_MAX, View, make_epoch
from mpips.wire.voting import Claim, Promise, Propose, Refused

STEP_S: Final = 0.25
"""How much later each further acceptor stands."""

RETRY_S: Final = 2.0
"""After which time a candidate without a majority tries again, times its place."""

PATIENCE_S: Final = 120.0
"""How long a node waits for a new scheduler."""

NEWS_S: Final = 10.0
"""How long a node waits for news of other acceptors, when too many of those it knows are dead."""


class Succession:
    """What a node does about its scheduler.

    Args:
        node: its own id.
        silence_s: after which silence of the scheduler it is taken for gone.

    Attributes:
        acceptor: its share of the decisions.
        leader: this node, once it has been elected; it takes over then, unless it hears its
            scheduler before.
        gone_since: when the scheduler was found to be gone; None: it is there.
    """

    def __init__(self, node: int, silence_s: float) -> None:
        self.acceptor = Acceptor()
        self.leader: Leader | None = None
        self.gone_since: float | None = None
        self._node, self._silence_s = node, silence_s
        self._detector = Detector((), silence_s)
        self._view: View | None = None
        # Whether the scheduler shows this node that it is alive: it is an acceptor.
        self._is_shown = True
        self._dead: set[int] = set()
        self._candidate: Candidate | None = None
        self._next = math.inf
        # The highest ballot seen, and the claims of others that wait until the scheduler is gone.
        self._ballot = 0
        self._claims: dict[int, Claim] = {}

    def is_hopeless(self, now: float) -> bool:
        """Return whether there has been no scheduler for so long that there will be none."""
        if self._view is None or self.gone_since is None:
            return False
        alive = set(self._view.acceptors) - self._dead
        can_vote = is_majority(alive, self._view.acceptors)
        return now - self.gone_since > (PATIENCE_S if can_vote else NEWS_S)

    def install(self, now: float, view: View) -> None:
        """Follow the scheduler of a view, which is decided."""
        before, self._view = self._view, view
        self._is_shown = self._node in view.acceptors
        if not self._is_shown:
            self._detector = Detector((), self._silence_s)
        if before is None or before.scheduler != view.scheduler:
            self._follow(now)
            if view.scheduler in self._dead:
                self._miss(now)

    def heard(self, now: float) -> None:
        """Note that the scheduler is alive; who is dead for certain cannot be."""
        if self._view is None or self._view.scheduler in self._dead:
            return
        if self.gone_since is not None:
            self._follow(now)
        self._detector.heard(now, self._view.scheduler)

    def lose(self, now: float, nodes: Collection[int]) -> None:
        """Note nodes that are dead."""
        self._dead.update(nodes)
        for node in nodes:
            self._claims.pop(node, None)
        if self._view is not None and self._view.scheduler in self._dead:
            self._miss(now)

    def step(
        self, now: float, source: int, message: Claim | Propose | Promise | Refused
    ) -> list[Effect]:
        """Take a message about ballots and return what follows."""
        self._ballot = max(self._ballot, message.ballot)
        match message:
            case Propose():
                answer = self.acceptor.step(message)
                if source == self._scheduler:
                    # Its view, which names new acceptors, may be still on its way.
                    self._is_shown = True
                    self._detector.add(now, source)
                elif not isinstance(answer, Refused):
                    # A new leader is at work.
                    self._yield_to(now)
                return [Send(source, answer)]
            # What is promised to the dead is of no use to anybody.
            case Claim() if source in self._dead:
                return []
            case Claim() if (
                self.gone_since is None and self._is_shown and source != self._scheduler
            ):
                self._claims[source] = message
            case Claim():
                return [Send(source, self._promise(now, message))]
            case Promise() if self._candidate is not None:
                self.leader = self.leader or self._candidate.take(source, message)
                return [] if self.leader else self._candidate.ask()
            case Refused(promised=promised):
                self._ballot = max(self._ballot, promised)
        return []

    def tick(self, now: float) -> list[Effect]:
        """See whether the scheduler is silent, and stand if it is time."""
        if self._detector.tick(now):
            self._miss(now)
        if self.gone_since is None or self._view is None or self.leader is not None:
            return []
        claims, self._claims = self._claims, {}
        effects: list[Effect] = [Send(to, self._promise(now, one)) for to, one in claims.items()]
        if now < self._next or self._node not in self._view.acceptors:
            return effects
        self._yield_to(now)
        counter = max(self._ballot, self.acceptor.promised) // PROPOSERS_MAX + 1
        self._ballot = make_epoch(counter, self._node)
        view = self._view
        self._candidate = Candidate(
            self._node, self._ballot, self.acceptor, view.acceptors, view.epoch
        )
        return effects + self._candidate.ask()

    @property
    def _scheduler(self) -> int | None:
        return self._view.scheduler if self._view else None

    def _follow(self, now: float) -> None:
        """Believe in the view's scheduler."""
        assert self._view is not None
        self.gone_since, self._next = None, math.inf
        # Whoever was elected before knows nothing of what is decided from now on.
        self._candidate = self.leader = None
        self._claims.clear()
        self._detector = Detector((), self._silence_s)
        # Before the job has begun there is nothing to go on with, and nobody beats.
        if self._view.scheduler != self._node and self._is_shown and self.acceptor.log:
            self._detector.add(now, self._view.scheduler)

    def _miss(self, now: float) -> None:
        """Note that the scheduler is gone, and stand when it is one's turn."""
        if self.gone_since is None:
            self.gone_since = now
            self._next = now + STEP_S * self._place()

    def _yield_to(self, now: float) -> None:
        """Leave others some time."""
        self._candidate = None
        self._next = now + RETRY_S * (1 + self._place())

    def _promise(self, now: float, claim: Claim) -> Promise | Refused:
        answer = self.acceptor.step(claim)
        assert isinstance(answer, Promise | Refused)
        if isinstance(answer, Promise):
            self._yield_to(now)
        return answer

    def _place(self) -> int:
        """Return how many stand before this node."""
        assert self._view is not None
        others = [node for node in self._view.acceptors if node != self._view.scheduler]
        return others.index(self._node) if self._node in others else len(others)
