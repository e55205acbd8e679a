"""Some nodes that talk, halt and shrink in an order of chance: `Quieting` and `Stillness` alone.

Frames arrive in any order; nodes die and others learn of it one by one, the scheduler among them.
"""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from mpips.core.machine import Send
from mpips.core.membership import first_view
from mpips.core.quieting import Quieting
from mpips.node.stillness import UNCOUNTED, Stillness
from mpips.testing.network import WATCHDOG_S
from mpips.wire.messages import Beat, Message
from mpips.wire.quiet import QUIET, Drained, GoOn, Halt, Shrink, Shrunk
from mpips.wire.types import Member, Table

SLOWNESS = 0.95
"""How often a frame between two of them does not arrive when it could."""

TABLE = Table(name="w", size=4, segments=1)
CALM_STEPS, STEP_S = 4000, 0.003


class Peer:
    """A node: what `Stillness` needs of one, and a `Quieting` if it is the scheduler."""

    def __init__(self, world: "World", number: int) -> None:
        self.world, self.number = world, number
        self.stillness, self.pulse = Stillness(), None
        self.transport: Any = SimpleNamespace(
            node=number, size=world.size, dead=frozenset(), lost=frozenset(), shrink=self.shrink)
        self.scheduler, self.shrinks = 0, 0
        self.is_blocked, self.blocked_since = False, 0.0
        self.early: list[tuple[int, Message]] = []
        self.office = Quieting(is_wanted=True) if number == 0 else None
        self.epoch = 1
        self.called_off: set[tuple[int, int]] = set()

    def clock(self) -> float:
        return self.world.now

    def send(self, dest: int, message: Message) -> None:
        if self.stillness.holds(self, dest, message):  # type: ignore[arg-type]
            return
        if type(message) not in UNCOUNTED:
            self.stillness.sent[dest] += 1
        self.world.flying.append((self.number, dest, message, self.shrinks))

    def shrink(self, dead: list[int], give_up: object) -> None:
        """Wait for the others; a frame that is still on its way is lost."""
        self.shrinks += 1
        self.is_blocked, self.blocked_since = True, self.world.now
        self.world.release(dead)

    def receive(self, source: int, message: Message) -> None:
        if type(message) not in UNCOUNTED:
            self.stillness.received[source] += 1
        if isinstance(message, Halt | GoOn | Shrink):
            if source == self.scheduler:
                self.stillness.take(self, source, message)  # type: ignore[arg-type]
                if isinstance(message, GoOn):
                    self.called_off.add((message.epoch, message.number))
                if self.stillness.is_on and self.stillness._mark in self.called_off:
                    self.world.wrong.append("somebody halts for what was called off")
        elif isinstance(message, Drained | Shrunk):
            if self.office is not None:
                self.office.take(self.world.now, source, message)
        else:
            self.world.talk[source, self.number] -= 1

    def lose(self, node: int) -> None:
        """Learn of a death, as followers and schedulers do."""
        known = self.transport.dead | {node}
        self.transport.dead = self.transport.lost = known
        if node == self.scheduler:
            self.stillness.end()
            self.scheduler = min(set(range(self.world.size)) - known)
            if self.scheduler == self.number:
                self.office, self.epoch = Quieting(is_wanted=True), 1 + self.number
        elif self.office is not None:
            self.carry_out(self.office.cancel())

    def conduct(self) -> None:
        """Do what a scheduler does with time."""
        if self.office is None:
            return
        if self.office.is_active:
            self.carry_out(self.office.tick(self.world.now))
        elif self.office.is_due(self.transport.dead) and self.is_elected():
            left = set(range(self.world.size)) - self.transport.dead
            members = [Member(node, "server", "h", 1) for node in sorted(left)]
            view = first_view(self.epoch, members, [TABLE], 0, 0)
            self.carry_out(self.office.begin(self.world.now, view, self.transport.dead))

    def is_elected(self) -> bool:
        """Return whether all can vote: who stands still for another scheduler cannot."""
        alive = [peer for peer in self.world.peers if peer.number not in self.world.dead]
        still = [peer.stillness for peer in alive if peer.stillness.is_on]
        return all(stillness._mark[0] == self.epoch for stillness in still)

    def carry_out(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                message, known = effect.message, self.transport.dead
                if isinstance(message, Shrink) and known.difference(message.dead):
                    self.world.wrong.append("an order overlooks a death that is known")
                self.send(effect.dest, effect.message)


class World:
    """All nodes, the frames on their way, and what has gone wrong.

    Args:
        seed: decides everything.
        is_far: whether the last node and the first scheduler hear each other late, and no others.
    """

    def __init__(self, seed: int, is_far: bool = False) -> None:
        self.random = np.random.default_rng([seed, 11])
        self.size = int(self.random.integers(3, 6))
        self.now = 0.0
        # By sender and receiver: what one has said and the other has not heard.
        self.talk: Counter[tuple[int, int]] = Counter()
        self.flying: list[tuple[int, int, Message, int]] = []
        self.peers = [Peer(self, number) for number in range(self.size)]
        self.dead: set[int] = set()
        one, other = self.random.choice(self.size, 2).tolist()
        last = self.size - 1
        self.slow = {(0, last), (last, 0)} if is_far else {(one, other)}
        self.wrong: list[str] = []
        self.is_lost = False
        self.forgotten = 0

    def play(self, steps: int = 600, deaths: int = 2) -> None:
        """Let things happen in an order of chance, and then come to rest."""
        when = sorted(self.random.integers(20, steps, deaths).tolist())
        for step in range(steps):
            if step in when and len(self.dead) < self.size - 2:
                self.kill(int(self.random.choice(sorted(set(range(self.size)) - self.dead))))
            self.step(talks=True)
        for _ in range(CALM_STEPS):
            self.step(talks=False)
        self.judge()

    def step(self, talks: bool) -> None:
        """Let one thing happen."""
        action, at = self.random.random(), int(self.random.integers(self.size))
        peer = self.peers[at]
        self.now += STEP_S
        if peer.is_blocked and at not in self.dead and self.now - peer.blocked_since > WATCHDOG_S:
            self.end_hang(at)
        if self.flying and action < 0.5:
            self.deliver(int(self.random.integers(len(self.flying))))
        elif at in self.dead or peer.is_blocked:
            return
        elif action < 0.7 and talks:
            to = int(self.random.integers(self.size))
            self.talk[at, to] += 1
            peer.send(to, Beat(epoch=1, moved=[]))
        elif action < 0.85:
            news = sorted(self.dead - peer.transport.dead)
            if news:
                peer.lose(news[0])
        else:
            peer.conduct()
            if peer.stillness.is_too_long(self.now):
                self.give_up(peer)

    def give_up(self, peer: Peer) -> None:
        """Let a node go on that was told nothing for long; what it is told comes late, or never."""
        orders = [
            message
            for source, dest, message, _ in self.flying
            if (source, dest) == (peer.scheduler, peer.number)
            and isinstance(message, GoOn | Shrink)
            and (message.epoch, message.number) >= peer.stillness._mark
        ]
        # Those who have the order wait for this one, until their watchdogs end them.
        if any(isinstance(order, Shrink) for order in orders):
            self.is_lost = True
        self.forgotten += not orders and peer.scheduler not in self.dead
        peer.stillness.end()

    def end_hang(self, node: int) -> None:
        """Let the watchdog kill a node that waits in a shrink; there must be a reason for it."""
        if not self.is_lost:
            self.wrong.append("somebody hangs in a shrink, and nobody has died or given up")
        self.kill(node)

    def deliver(self, place: int) -> None:
        """Let a frame arrive, unless its receiver has gone on to another world."""
        source, dest, message, world = self.flying[place]
        if (source, dest) in self.slow and self.random.random() < SLOWNESS:
            return
        peer = self.peers[dest]
        if dest in self.dead:
            del self.flying[place]
        elif peer.is_blocked or world > peer.shrinks:
            return
        else:
            del self.flying[place]
            if world == peer.shrinks:
                peer.receive(source, message)
            elif not isinstance(message, QUIET) and not self.is_lost | (source in self.dead):
                self.wrong.append(f"a {type(message).__name__} of {source} for {dest} is lost")

    def kill(self, node: int) -> None:
        """Let a node die: some of what it has sent still arrives."""
        self.dead.add(node)
        self.flying = [one for one in self.flying if one[0] != node or self.random.random() < 0.5]
        # Whoever is in a shrink with it may never come out.
        if any(peer.is_blocked for peer in self.peers):
            self.is_lost = True

    def release(self, dead: list[int]) -> None:
        """Let all go on who have waited for the last one."""
        group = [peer for peer in self.peers if peer.number not in dead]
        # A death that the shrink meets is one inside it.
        if any(peer.number in self.dead for peer in group):
            self.is_lost = True
        if len({peer.shrinks for peer in group}) == 1:
            for peer in group:
                peer.is_blocked = False

    def judge(self) -> None:
        """Note what is wrong in the end."""
        alive = [peer for peer in self.peers if peer.number not in self.dead]
        # The watchdog ends those who are in a shrink; that takes a death and an order.
        if self.is_lost:
            return
        if any(peer.is_blocked for peer in alive):
            self.wrong.append("somebody waits in a shrink, and nobody has died in it")
        if any(peer.stillness.is_on for peer in alive) or self.forgotten:
            self.wrong.append("somebody was never told to go on")
        if len({peer.shrinks for peer in alive}) > 1:
            self.wrong.append("some have shrunk more often than others")
        for (source, dest), left in self.talk.items():
            if left and not self.dead & {source, dest}:
                self.wrong.append(f"{left} messages of {source} for {dest} have not come")
