"""A leader's claim to a higher ballot: whoever has promised one to somebody else counts again.

An acceptor that has promised a higher ballot refuses its leader for good, also when the candidate
has died, or has given up. So the leader does what any candidate does: with a ballot above all that
it was told of, it asks majorities what they have stored. It has that already, unless somebody else
has led meanwhile: then it must not go on. No acceptor of the majority can have stored anything in
a ballot between the two, so nothing was decided there, and the leader's own log stands.
"""

from mpips.core.leader import Candidate, Leader, views_of
from mpips.core.machine import Effect
from mpips.wire.types import PROPOSERS_MAX, make_epoch
from mpips.wire.voting import Promise


class Renewal:
    """Lifts a leader to a higher ballot, as often as need be.

    Args:
        node: its own id.
        leader: on this node; until it is lifted it goes on as it was.

    Attributes:
        is_past: whether somebody else has led since: this leader must decide nothing any more.
    """

    def __init__(self, node: int, leader: Leader) -> None:
        self.is_past = False
        self._node, self._leader = node, leader
        self._claim: Candidate | None = None
        # Its ballot, and the epoch of the view for which it is.
        self._claimed = 0, 0

    def begin(self) -> list[Effect]:
        """Claim a ballot above all others, in place of what was claimed before.

        A claim that is above all others is waited for while the view is the same: whoever gave it
        up for a still higher one might never hear of promises to the last one.
        """
        leader = self._leader
        assert leader.decided, "before the job has begun nobody stands"
        view = views_of(leader.log[: leader.decided])[-1]
        claimed = (leader.highest, view.epoch)
        if self._claim is not None and claimed == self._claimed:
            return []
        leader.highest = make_epoch(leader.highest // PROPOSERS_MAX + 1, self._node)
        self._claimed = leader.highest, view.epoch
        self._claim = Candidate(
            self._node, leader.highest, leader.acceptor, view.acceptors, view.epoch
        )
        return self._claim.ask()

    def take(self, source: int, promise: Promise) -> list[Effect]:
        """Take a promise; propose all that is needed anew, if it was the last that was missing."""
        if self._claim is None:
            return []
        if self._claim.take(source, promise) is None:
            return self._claim.ask()
        claim, self._claim = self._claim, None
        if claim.latest > self._leader.ballot:
            self.is_past = True
            return []
        return self._leader.rise(claim.ballot)
