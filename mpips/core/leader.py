"""A leader: has its log stored by majorities of acceptors, entry after entry.

Acceptors are named by views, and views are entries. So an entry needs a majority of the acceptors
of the last view before it; a view needs one of its own acceptors, too, so that whoever reads their
log later finds all that came before. The next entry is proposed when all before it are decided:
there are no gaps, and what is proposed was made by somebody who knew all that is decided.
"""

from collections.abc import Collection, Sequence

from mpips.core.acceptor import Acceptor
from mpips.core.machine import Effect, Send
from mpips.wire.types import PROPOSERS_MAX, View
from mpips.wire.voting import (
    Accepted,
    Begun,
    Changed,
    Claim,
    Entry,
    Promise,
    Propose,
    Refused,
    Stored,
)

Group = tuple[int, ...]
"""Acceptors of a view."""


def is_majority(nodes: Collection[int], group: Group) -> bool:
    """Return whether nodes are more than half of a group.

    >>> is_majority({1, 2}, (0, 1, 2)), is_majority({1}, (0, 1)), is_majority({0}, (0,))
    (True, False, True)
    """
    return 2 * len(set(nodes).intersection(group)) > len(group)


def group_of(entry: Entry) -> Group | None:
    """Return the acceptors that an entry names; None if it is no view."""
    return entry.view.acceptors if isinstance(entry, Begun | Changed) else None


def views_of(log: Sequence[Entry]) -> list[View]:
    """Return all views of a log, in their order."""
    return [entry.view for entry in log if isinstance(entry, Begun | Changed)]


def groups_after(log: Sequence[Entry], epoch: int) -> list[Group]:
    """Return the acceptors of all views of a log from an epoch on, in their order."""
    return [view.acceptors for view in views_of(log) if view.epoch >= epoch]


class Leader:
    """Proposes entries in its ballot, and says which are decided.

    Args:
        node: its own id.
        ballot: an acceptor's majority takes nothing of lower ones any more.
        acceptor: the one on this node.
        log: what majorities of acceptors were found to have.
        decided: how many entries of it are known to be decided.

    Attributes:
        decided: how many entries are; all before them are, too.
        acceptor: the one on this node.
        refused: the acceptors that have promised a higher ballot to another.
        highest: the highest ballot that it was told of.
    """

    def __init__(
        self,
        node: int,
        ballot: int,
        acceptor: Acceptor,
        log: Sequence[Entry] = (),
        decided: int = 0,
    ) -> None:
        self.ballot, self.decided = ballot, decided
        self.highest = ballot
        self.log = list(log)
        self.refused: set[int] = set()
        self._node, self.acceptor = node, acceptor
        # By acceptor: how many entries it has confirmed in this ballot.
        self._stored: dict[int, int] = {}
        self._sent: dict[int, int] = {}

    @property
    def is_settled(self) -> bool:
        """Return whether all entries are decided."""
        return self.decided == len(self.log)

    @property
    def group(self) -> Group:
        """Return the acceptors that the next entry needs."""
        return next((g for e in reversed(self.log) if (g := group_of(e)) is not None), ())

    def groups(self) -> list[Group]:
        """Return the acceptors of whom majorities are needed now, and for the next entry."""
        needed = [g for at in range(self.decided, len(self.log)) for g in self._needed(at)]
        return [*needed, self.group]

    def can_decide(self, without: Collection[int]) -> bool:
        """Return whether majorities are left without some nodes."""
        gone = set(without)
        return all(is_majority(set(group) - gone, group) for group in self.groups() if group)

    def propose(self, entry: Entry) -> list[Effect]:
        """Put the next entry into the log, and have it stored."""
        assert self.is_settled, "the entry before is not decided yet"
        assert self.log or isinstance(entry, Begun), "the first entry names the acceptors"
        self.log.append(entry)
        return self.beat()

    def rise(self, ballot: int) -> list[Effect]:
        """Go on in a higher ballot, which majorities have promised, and propose in it.

        Who has stored what is decided has it still, whatever the ballot; the rest begins anew.
        """
        self.ballot = ballot
        self.refused.clear()
        self._stored = {node: min(many, self.decided) for node, many in self._stored.items()}
        self._sent = dict(self._stored)
        return self.beat()

    def beat(self) -> list[Effect]:
        """Send each acceptor what it has not been sent; this shows also that we are alive."""
        members = sorted({node for group in self.groups() for node in group})
        if self._node in members:
            answer = self.acceptor.step(self._proposal(self._node))
            assert not isinstance(answer, Promise)
            if isinstance(answer, Refused):
                self.highest = max(self.highest, answer.promised)
            self._note(self._node, answer)
        others = [node for node in members if node != self._node]
        return [Send(node, self._proposal(node)) for node in others]

    def take(self, source: int, message: Accepted | Refused) -> list[Effect]:
        """Take an acceptor's answer, and send what has come since."""
        if isinstance(message, Refused):
            self.highest = max(self.highest, message.promised)
        if message.ballot != self.ballot:
            return []
        self._note(source, message)
        is_behind = self._stored.get(source, 0) < len(self.log)
        if isinstance(message, Refused) or self._waits_for(source) or not is_behind:
            return []
        return [Send(source, self._proposal(source))]

    def _note(self, source: int, answer: Accepted | Refused) -> None:
        # Whoever has promised a higher ballot to this very leader is not lost to it.
        if isinstance(answer, Refused) and answer.promised % PROPOSERS_MAX != self._node:
            self.refused.add(source)
        if isinstance(answer, Accepted):
            self._stored[source] = max(answer.stored, self._stored.get(source, 0))
        while not self.is_settled and all(map(self._has, self._needed(self.decided))):
            self.decided += 1

    def _has(self, group: Group) -> bool:
        """Return whether a majority has stored the first entry that is not decided."""
        having = {node for node, stored in self._stored.items() if stored > self.decided}
        return is_majority(having, group)

    def _needed(self, index: int) -> list[Group]:
        """Return the groups of whom each must have an entry by its majority."""
        before = (group_of(entry) for entry in reversed(self.log[:index]))
        own, last = group_of(self.log[index]), next((g for g in before if g is not None), None)
        return [group for group in (last, own) if group is not None]

    def _waits_for(self, node: int) -> bool:
        """Return whether an acceptor has not confirmed all that it was sent."""
        return self._sent.get(node, 0) > self._stored.get(node, 0)

    def _proposal(self, node: int) -> Propose:
        """Return what an acceptor lacks; nothing, while something is on its way."""
        start = self._stored.get(node, 0)
        entries = [] if self._waits_for(node) else self.log[start:]
        self._sent[node] = max(start + len(entries), self._sent.get(node, 0))
        return Propose(ballot=self.ballot, start=start, entries=entries)


class Candidate:
    """Gathers promises until it knows all that may be decided, and then is the leader.

    Args:
        node: its own id.
        ballot: its own, higher than any that it has seen.
        acceptor: the one on this node; it promises last, so that a candidate that nobody hears
            leaves its leader alone.
        group: the acceptors of the last view that is known to be decided.
        epoch: of that view.
    """

    def __init__(
        self, node: int, ballot: int, acceptor: Acceptor, group: Group, epoch: int
    ) -> None:
        self.ballot = ballot
        self._node, self._acceptor = node, acceptor
        self._group, self._epoch = group, epoch
        self._promised: dict[int, list[Stored]] = {}
        self._asked: set[int] = set()

    @property
    def latest(self) -> int:
        """Return the highest ballot in which those who have promised have stored anything."""
        return max((one.ballot for log in self._promised.values() for one in log), default=0)

    def ask(self) -> list[Effect]:
        """Ask the acceptors that were not asked yet, as far as they are known."""
        wanted = {node for group in self._groups() for node in group}
        new = sorted(wanted - self._asked - {self._node})
        self._asked.update(new)
        return [Send(node, Claim(ballot=self.ballot)) for node in new]

    def take(self, source: int, promise: Promise) -> Leader | None:
        """Take a promise; return the leader that this node is now, if it was the last needed."""
        if promise.ballot != self.ballot:
            return None
        self._promised[source] = promise.log
        return self.win()

    def win(self) -> Leader | None:
        """Return the leader that this node is, if majorities have promised."""
        promised = {*self._promised, self._node}
        if not all(is_majority(promised, group) for group in self._groups()):
            return None
        answer = self._acceptor.step(Claim(ballot=self.ballot))
        if not isinstance(answer, Promise):
            return None
        # One's own log may name further acceptors.
        self._promised[self._node] = answer.log
        if not all(is_majority(promised, group) for group in self._groups()):
            return None
        log = self._merge()
        known = [at for at, e in enumerate(log) if isinstance(e, Begun | Changed)
                 and e.view.epoch <= self._epoch]  # fmt: skip
        return Leader(self._node, self.ballot, self._acceptor, log, max(known, default=-1) + 1)

    def _groups(self) -> list[Group]:
        """Return the acceptors of whom majorities have to promise, as far as is known."""
        return [self._group, *groups_after(self._merge(), self._epoch)]

    def _merge(self) -> list[Entry]:
        """Return for each index the entry of the highest ballot."""
        logs = [*self._promised.values()]
        length = max(map(len, logs), default=0)
        found = [[log[at] for log in logs if at < len(log)] for at in range(length)]
        return [max(stored, key=lambda one: one.ballot).entry for stored in found]
