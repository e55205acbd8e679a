"""Acceptors, leaders and candidates on a network that loses, repeats and reorders what it likes."""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpips.core.acceptor import Acceptor
from mpips.core.leader import Candidate, Group, Leader
from mpips.core.machine import Effect, Send
from mpips.core.renewal import Renewal
from mpips.wire.messages import Message, NewView
from mpips.wire.types import View, make_epoch
from mpips.wire.voting import (
    Accepted,
    Begun,
    Changed,
    Claim,
    Entry,
    Kept,
    Promise,
    Propose,
    Refused,
    Stored,
)

Letter = tuple[int, int, Message]
"""Source, destination, message."""


class SplitBrain(AssertionError):
    """Two leaders have decided different things in one place of the log."""


def view_of(counter: int, node: int, group: Group) -> View:
    """Return a view that is about nothing but its acceptors."""
    return View(make_epoch(counter, node), (), (), (), scheduler=node, acceptors=group)


@dataclass
class Peer:
    """A node: an acceptor, and perhaps a leader or a candidate; it knows the view of `group`."""

    node: int
    acceptor: Acceptor
    group: Group
    epoch: int
    leader: Leader | None = None
    candidate: Candidate | None = None
    renewal: Renewal | None = None
    proposed: int = 0
    stood: int = 0
    renewed: int = 0
    elected: int = 0

    def take(self, source: int, message: Message) -> list[Effect]:
        """Take a message and return what is sent."""
        match message:
            case NewView(view=view):
                if view.epoch > self.epoch:
                    self.group, self.epoch = view.acceptors, view.epoch
            case Claim() | Propose():
                # A leader promises nothing to others, as it is with schedulers.
                if not isinstance(message, Claim) or self.leader is None:
                    return [Send(source, self.acceptor.step(message))]
            case Promise() if self.candidate is not None:
                return self.win(self.candidate.take(source, message))
            case Promise() if self.renewal is not None:
                return self.renewal.take(source, message)
            case Accepted() | Refused() if self.leader is not None:
                return self.leader.take(source, message)
        return []

    def stand(self, counter: int) -> list[Effect]:
        """Become a candidate."""
        self.stood += 1
        ballot = make_epoch(counter, self.node)
        self.candidate = Candidate(self.node, ballot, self.acceptor, self.group, self.epoch)
        return self.candidate.ask() + self.win(self.candidate.win())

    @property
    def has_risen(self) -> bool:
        """Return whether this node leads in a higher ballot than it was elected in."""
        return self.leader is not None and self.leader.ballot > self.elected

    def renew(self) -> list[Effect]:
        """Claim a higher ballot as the leader that this node is."""
        assert self.leader is not None
        self.renewed += 1
        self.renewal = self.renewal or Renewal(self.node, self.leader)
        return self.renewal.begin()

    def win(self, leader: Leader | None) -> list[Effect]:
        """Go on as the leader that this node is now, or as a candidate."""
        assert self.candidate is not None
        if leader is None:
            return self.candidate.ask()
        self.leader, self.candidate, self.renewal = leader, None, None
        self.elected = leader.ballot
        return leader.beat()


@dataclass
class World:
    """Some peers, what flies between them, and what anybody has called decided."""

    peers: dict[int, Peer]
    flying: list[Letter] = field(default_factory=list)
    decided: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def begin(cls, size: int, group: Group) -> "World":
        """Return a world in which the first node leads, and the first view is decided."""
        begun = Begun(view_of(1, 0, group), {}, [])
        peers, ballot = {}, make_epoch(1, 0)
        for node in range(size):
            acceptor = Acceptor()
            if node in group:
                acceptor.promised, acceptor.log = ballot, [Stored(ballot, begun)]
            peers[node] = Peer(node, acceptor, group, begun.view.epoch)
        first = peers[0]
        first.leader, first.elected = Leader(0, ballot, first.acceptor, [begun], 1), ballot
        first.leader._stored, first.leader._sent = dict.fromkeys(group, 1), dict.fromkeys(group, 1)
        return cls(peers)

    def post(self, node: int, effects: list[Effect]) -> None:
        """Let what a node sends fly, and check what it calls decided."""
        self.flying += [(node, e.dest, e.message) for e in effects if isinstance(e, Send)]
        leader = self.peers[node].leader
        if leader is None:
            return
        for at, entry in enumerate(leader.log[: leader.decided]):
            known = pickle.dumps(entry)
            if self.decided.setdefault(at, known) != known:
                what = f"entry {at} is {pickle.loads(self.decided[at])}, and {entry} for {node}"
                raise SplitBrain(what)

    def deliver(self, at: int, is_copied: bool = False) -> None:
        """Deliver what flies at some place, or a copy of it."""
        source, dest, message = self.flying[at] if is_copied else self.flying.pop(at)
        self.post(dest, self.peers[dest].take(source, message))

    def propose(self, node: int, entry: Entry) -> None:
        """Have a leader propose an entry."""
        leader = self.peers[node].leader
        assert leader is not None
        self.peers[node].proposed += 1
        self.post(node, leader.propose(entry))

    def announce(self, node: int) -> None:
        """Have a leader tell all of the last view that is decided."""
        leader = self.peers[node].leader
        assert leader is not None
        views = [e.view for e in leader.log[: leader.decided] if isinstance(e, Begun | Changed)]
        news: list[Effect] = [Send(dest, NewView(view=views[-1])) for dest in self.peers]
        self.post(node, news)

    def able(self, most: int) -> list[int]:
        """Return the leaders that may propose: their entries before are decided."""
        return [p.node for p in self.peers.values() if p.leader is not None
                and not (p.renewal is not None and p.renewal.is_past)
                and p.leader.is_settled and p.proposed < most]  # fmt: skip

    def refused(self) -> list[int]:
        """Return the leaders that some acceptor has refused."""
        return [p.node for p in self.peers.values() if p.leader is not None and p.leader.refused]


def contested_world() -> World:
    """Return a world of three with two leaders that have proposed different entries.

    The first one's has reached nobody else, and was refused; the second one's is on its way.
    """
    world = World.begin(3, (0, 1, 2))
    world.propose(0, Kept(0))
    world.flying.clear()
    world.post(1, world.peers[1].stand(2))
    for node in (2, 1):
        (at,) = [at for at, (_, dest, _) in enumerate(world.flying) if dest == node]
        world.deliver(at)
    # The second one has its promise, and begins without having been heard.
    world.flying.clear()
    world.propose(1, Kept(100))
    leader = world.peers[0].leader
    assert leader is not None
    refused = world.peers[2].acceptor.step(Propose(ballot=leader.ballot, start=2, entries=[]))
    assert isinstance(refused, Refused)
    leader.take(2, refused)
    return world


def explore(world: World, entries: int, renewals: int = 0) -> int:
    """Try all orders for a leader and a candidate, and return how many states there are.

    Whatever is never delivered is lost, so that all losses are among them.

    Args:
        world: what it begins with; the second node stands as a candidate, unless it has.
        entries: how many each leader proposes.
        renewals: how often a leader that was refused claims a higher ballot.
    """
    begin = pickle.dumps(world)
    seen, raw, todo = {begin}, {begin}, [begin]
    while todo:
        state = todo.pop()
        for step in _steps(pickle.loads(state), entries, renewals):
            world: World = pickle.loads(state)
            step(world)
            # The order in which letters lie is nobody's affair.
            world.flying.sort(key=lambda letter: (letter[0], letter[1], pickle.dumps(letter[2])))
            after = pickle.dumps(world)
            if after in raw:
                continue
            # What is one object in one world may be two equal ones in another.
            raw.add(after)
            after = pickle.dumps(pickle.loads(after))
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return len(seen)


def _steps(world: World, entries: int, renewals: int) -> Iterator[Any]:
    """Yield all that may happen next."""
    for at in range(len(world.flying)):
        yield lambda world, at=at: world.deliver(at)
    for node in world.able(entries):
        number = 100 * node + world.peers[node].proposed
        yield lambda world, node=node, number=number: world.propose(node, Kept(number))
    if not world.peers[1].stood:
        yield lambda world: world.post(1, world.peers[1].stand(2))
    for node in world.refused():
        if world.peers[node].renewed < renewals:
            yield lambda world, node=node: world.post(node, world.peers[node].renew())


def run_schedule(seed: int, steps: int = 120) -> World:
    """Run a schedule drawn from a seed: five nodes, candidates, changes of acceptors, losses."""
    random = np.random.default_rng(seed)
    world = World.begin(5, (0, 1, 2))
    counter = 1
    loss, copies = float(random.choice([0.0, 0.1, 0.3])), float(random.choice([0.0, 0.2]))
    for step in range(steps):
        kind = random.random()
        able = world.able(8)
        if kind < 0.75 and world.flying:
            at = int(random.integers(len(world.flying)))
            if random.random() < loss:
                del world.flying[at]
            else:
                world.deliver(at, bool(random.random() < copies))
        elif kind < 0.9 and able:
            _propose(world, able[int(random.integers(len(able)))], step, random)
        elif 0.92 < kind <= 0.95 and (refused := world.refused()):
            node = refused[int(random.integers(len(refused)))]
            world.post(node, world.peers[node].renew())
        elif kind > 0.95:
            counter += int(random.integers(0, 2))
            node = int(random.integers(5))
            peer = world.peers[node]
            ballot = make_epoch(counter, node)
            if peer.leader is None and ballot > peer.acceptor.promised and node in peer.group:
                world.post(node, peer.stand(counter))
    return world


def _propose(world: World, node: int, number: int, random: np.random.Generator) -> None:
    """Have a leader propose something, a view with other acceptors now and then."""
    leader = world.peers[node].leader
    assert leader is not None
    if random.random() < 0.5:
        world.announce(node)
    if random.random() < 0.6:
        world.propose(node, Kept(1000 * node + number))
        return
    views = [e.view for e in leader.log if isinstance(e, Begun | Changed)]
    others = random.permutation(5)[: int(random.choice([1, 3, 5]))].tolist()
    counter = views[-1].epoch // make_epoch(1, 0) + 1
    group = tuple(dict.fromkeys([node, *others]))[:5]
    group = group if len(group) % 2 else group[:-1]
    world.propose(node, Changed(view_of(counter, node, group)))
