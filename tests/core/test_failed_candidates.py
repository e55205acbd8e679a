"""Candidates that die with promises in hand hold up nobody for long."""

import pytest

from mpips.core.leader import Leader
from mpips.core.machine import Effect, Send
from mpips.core.mandate import Mandate
from mpips.core.succession import RETRY_S, STEP_S, Succession
from mpips.wire.messages import Message
from mpips.wire.types import make_epoch
from mpips.wire.voting import Accepted, Begun, Claim, Entry, Kept, Promise, Propose, Refused
from tests.core.votes import view_of

GROUP = (0, 1, 2, 3, 4)
FIRST = view_of(1, 0, GROUP)
BEGUN = Begun(FIRST, {}, [])
SILENCE_S = 1.0
TICK_S = 0.05


class Acceptors:
    """The acceptors of a job whose scheduler is node 0; what they send arrives at once.

    Attributes:
        dead: those that neither hear nor do anything.
        gone: the candidates that die as soon as they have claimed.
    """

    def __init__(self, dead: tuple[int, ...] = (), gone: tuple[int, ...] = ()) -> None:
        self.now = 0.0
        self.dead, self.gone = {*dead}, {*gone}
        self.nodes = {node: Succession(node, SILENCE_S) for node in GROUP[1:]}
        beat = Propose(ballot=make_epoch(1, 0), start=0, entries=[BEGUN])
        for one in self.nodes.values():
            one.install(0.0, FIRST)
            one.step(0.0, 0, beat)

    def post(self, source: int, effects: list[Effect]) -> list[tuple[int, Message]]:
        """Deliver what a node sends, and return what is for the scheduler."""
        to_scheduler = []
        for effect in effects:
            assert isinstance(effect, Send)
            if effect.dest == 0:
                to_scheduler.append((source, effect.message))
            elif effect.dest not in self.dead:
                self.say(source, effect.dest, effect.message)
        return to_scheduler

    def say(self, source: int, dest: int, message: Message) -> list[tuple[int, Message]]:
        """Give a node a message, and return what it tells the scheduler."""
        assert isinstance(message, Claim | Propose | Promise | Refused)
        if source in self.gone and isinstance(message, Promise | Claim):
            self.dead.add(source)
        return self.post(dest, self.nodes[dest].step(self.now, source, message))

    def wait(self, seconds: float) -> Leader | None:
        """Let time pass until somebody is elected, for so long at most."""
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            for node, one in self.nodes.items():
                if node not in self.dead:
                    self.post(node, one.tick(self.now))
                if one.leader is not None:
                    return one.leader
        return None


def decide(acceptors: Acceptors, leader: Leader, entry: Entry) -> bool:
    """Return whether a scheduler has something decided by the acceptors that are alive."""
    letters = leader.propose(entry)
    for _ in range(3):
        answers = [
            answer
            for one in letters
            if isinstance(one, Send) and one.dest in set(acceptors.nodes) - acceptors.dead
            for answer in acceptors.say(0, one.dest, one.message)
        ]
        letters = [
            effect
            for source, message in answers
            if isinstance(message, Accepted | Refused)
            for effect in leader.take(source, message)
        ]
    return leader.is_settled


def lead(mandate: Mandate) -> Leader:
    """Return the job's first scheduler, which has had the beginning decided."""
    leader = mandate.leader
    leader.propose(BEGUN)
    for node in GROUP[1:]:
        leader.take(node, Accepted(ballot=leader.ballot, stored=1))
    assert leader.is_settled
    return leader


def test_next_candidate_is_elected_soon_after_one_that_died_with_all_promises() -> None:
    acceptors = Acceptors(dead=(0,), gone=(1,))
    for one in acceptors.nodes.values():
        one.lose(0.0, [0])
    # The first one claims at once, and all that are alive promise to it.
    assert acceptors.wait(2 * TICK_S) is None
    assert acceptors.dead == {0, 1}
    promised = {node: one.acceptor.promised for node, one in acceptors.nodes.items()}
    assert all(promised[node] == make_epoch(2, 1) for node in (2, 3, 4))
    leader = acceptors.wait(RETRY_S * 2 + STEP_S)
    assert leader is not None
    assert leader.ballot > make_epoch(2, 1)
    assert leader.log == [BEGUN]
    assert decide(acceptors, leader, Kept(7))


@pytest.mark.parametrize("lost", [(), (4,), (3, 4), (2, 3, 4)])
def test_scheduler_decides_with_those_who_have_promised_nobody_or_gives_way(
    lost: tuple[int, ...],
) -> None:
    acceptors, mandate = Acceptors(), Mandate(0, SILENCE_S)
    leader = lead(mandate)
    # Some heard nothing of their scheduler for a while, and promised somebody who is dead now.
    for node in lost:
        acceptors.nodes[node].acceptor.step(Claim(ballot=make_epoch(2, 1)))
    is_followed = len(lost) < 3
    assert decide(acceptors, leader, Kept(7)) == is_followed
    assert leader.refused == set(lost)
    assert mandate.is_over != is_followed


def test_acceptors_of_a_scheduler_that_gives_way_elect_another_soon() -> None:
    acceptors = Acceptors()
    claim = Claim(ballot=make_epoch(2, 1))
    for node in (2, 3, 4):
        acceptors.nodes[node].acceptor.step(claim)
    acceptors.dead.add(1)
    # It kills itself, and they learn of it.
    for one in acceptors.nodes.values():
        one.lose(0.0, [0])
    leader = acceptors.wait(RETRY_S * 2 + STEP_S)
    assert leader is not None
    assert leader.ballot > claim.ballot
    assert decide(acceptors, leader, Kept(7))
